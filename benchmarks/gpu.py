"""Everything that has a GPU's way of its own, checked and measured on the device in one run.

    python -m benchmarks.gpu [SECTION ...] [--out FOLDER] [--limit SECONDS]

Sections are correctness, matching, contrastive, ranking and training. ``gpu.json`` and ``gpu.md``
are written after each case; the rows of sections that are not asked for stay. ``gpu_profile.json``
has the largest kernels of a training step. Without a CUDA device there is nothing to do.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from benchmarks import gpu_cases, gpu_correctness
from benchmarks.gpu_report import judgement, reached, report
from benchmarks.harness import (
    RESULTS,
    Case,
    Row,
    Run,
    empty_row,
    free,
    measure_on,
    summary,
)

PROFILE = 15  # seconds, kept for it since it comes last
KERNELS = 10
NAME = 120  # characters of a kernel's
PROFILED = ("clip", "registers", "filip", "harmoclip")


@dataclass(frozen=True, slots=True)
class Job:
    """One case: what it is called in a row without numbers, and what makes its rows.

    ``seconds`` that it takes; None = probably what the job before it took.
    """

    name: str
    shape: Mapping[str, int]
    run: Callable[[], list[Row]]
    seconds: float | None = None


def sections(device: str, tiny: bool = False) -> dict[str, list[Job]]:
    """All jobs by section; ``tiny`` ones take a moment each, also on a CPU."""
    found = {"correctness": [_check_job(case, device) for case in gpu_correctness.checks(tiny)]}
    for section, cases in gpu_cases.CASES.items():
        small = [replace(c, shape=gpu_cases.tiny_shape(c.shape)) for c in cases] if tiny else cases
        measure = train if section == "training" else timed
        found[section] = [_timing_job(case, device, measure) for case in small]
    shape = gpu_cases.tiny_shape({"B": 512}) if tiny else {"B": 512}
    found["training"].append(Job("profile", shape, partial(profile, device, shape["B"]), PROFILE))
    return found


def _check_job(case: gpu_correctness.Check, device: str) -> Job:
    return Job(case.name, case.shape, partial(gpu_correctness.check, case, device))


def _timing_job(case: Case, device: str, measure: Callable[[Case, str], list[Row]]) -> Job:
    return Job(case.name, case.shape, partial(measure, case, device))


def rows_of(job: Job, section: str, tiny: bool = False) -> list[Row]:
    """The job's rows; one that says why, where it failed."""
    torch.manual_seed(0)
    try:
        with gpu_cases.tiny() if tiny else nullcontext():
            rows = job.run()
    except Exception as error:
        traceback.print_exc()
        note = f"failed: {summary(error)}"
        rows = [empty_row(job.name, job.shape) | {"note": note, "met": False}]
    free()
    return [{"section": section} | row for row in rows]


def timed(case: Case, device: str) -> list[Row]:
    return [judged(case, row) for row in measure_on(case, device)]


def train(case: Case, device: str) -> list[Row]:
    """Also pairs a second, and how often an eager step waits for the device."""
    rows = timed(case, device)
    size = case.shape["B"]
    step = gpu_cases.training_steps(device, size, case.shape["compile"])[case.shape["method"]]
    syncs = None if case.shape["compile"] else host_syncs(step, device)
    return [
        row
        | {
            "pairs_per_s": size / row["ours_s"],
            "baseline_pairs_per_s": size / row["baseline_s"] if row["baseline_s"] else None,
            "host_syncs": syncs,
        }
        for row in rows
    ]


def judged(case: Case, row: Row) -> Row:
    """The row with its target, and whether all of it is met; None where that cannot be said."""
    ours, theirs = row["peak_bytes"], row["baseline_peak_bytes"]
    row = row | {"peak_ratio": ours / theirs if ours is not None and theirs else None}
    target = case.targets.get(row["baseline"] or "", {})
    if not target:
        return row
    verdicts = [reached(row[key], wanted) for key, wanted in target.items()]
    met = False if False in verdicts else None if None in verdicts else True
    return row | {"target": dict(target), "met": met}


def host_syncs(step: Run, device: str) -> int | None:
    """Calls of one step that make the host wait for the device."""
    if device == "cpu":
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


def profile(device: str, size: int) -> list[Row]:
    """The largest kernels of an eager step of each method in ``PROFILED``."""
    steps = gpu_cases.training_steps(device, size, False)
    kind = torch.autograd.DeviceType.CPU if device == "cpu" else torch.autograd.DeviceType.CUDA
    return [
        empty_row(name, {"B": size})
        | {"kind": "profile", "kernels": _largest(_profiled(steps[name], device), kind)}
        for name in PROFILED
    ]


def _profiled(step: Run, device: str) -> Iterable:
    for _ in range(2):
        step()
    with torch.profiler.profile() as found:
        step()
        if device != "cpu":
            torch.cuda.synchronize()
    return found.key_averages()


def _largest(events: Iterable, kind: torch.autograd.DeviceType) -> list[dict]:
    on_cpu = kind == torch.autograd.DeviceType.CPU
    taken = [
        (e.self_cpu_time_total if on_cpu else e.self_device_time_total, e)
        for e in events
        if e.device_type == kind and not e.is_user_annotation
    ]
    whole = sum(micros for micros, _ in taken)
    taken.sort(key=lambda item: -item[0])
    return [
        {"kernel": e.key[:NAME], "calls": e.count, "ms": micros / 1000, "share": micros / whole}
        for micros, e in taken[:KERNELS]
    ]


def save(rows: Sequence[Row], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    kernels = {row["name"]: row["kernels"] for row in rows if row.get("kind") == "profile"}
    if kernels:
        (out / "gpu_profile.json").write_text(json.dumps(kernels, indent=1) + "\n")
    rows = [row for row in rows if row.get("kind") != "profile"]
    (out / "gpu.json").write_text(json.dumps(rows, indent=1) + "\n")
    (out / "gpu.md").write_text(report(rows))


def earlier(out: Path, chosen: Sequence[str]) -> list[Row]:
    """Rows of a former run's sections that are not measured now."""
    file = out / "gpu.json"
    rows = json.loads(file.read_text()) if file.exists() else []
    return [row for row in rows if row["section"] not in chosen]


def run(
    jobs: Mapping[str, Sequence[Job]], out: Path, limit: float, tiny: bool = False
) -> list[Row]:
    """Every job's rows, kept in ``out`` as they come.

    A job is left out where what is left of ``limit`` seconds will not do for it.
    """
    start = time.perf_counter()
    kept = earlier(out, list(jobs))
    rows: list[Row] = []
    for section, some in jobs.items():
        took = 0.0
        for job in some:
            begin = time.perf_counter()
            if begin - start + (job.seconds or took + PROFILE) > limit:
                note = {"note": f"skipped: over the limit of {limit:g} s"}
                rows.append({"section": section} | empty_row(job.name, job.shape) | note)
                continue
            rows += rows_of(job, section, tiny)
            took = time.perf_counter() - begin
            save(kept + rows, out)
            print(f"{time.perf_counter() - start:5.0f} s  {section}: {job.name}", flush=True)
        gpu_cases.training_steps.cache_clear()
        free()
    save(kept + rows, out)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help="all where none is named")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--limit", type=float, default=220, help="seconds")
    asked = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("No CUDA device is here: nothing is measured.")
        return 0
    jobs = sections("cuda")
    if unknown := set(asked.sections) - set(jobs):
        parser.error(f"unknown section {', '.join(sorted(unknown))}: choose from {', '.join(jobs)}")
    chosen = {name: jobs[name] for name in asked.sections or jobs}
    rows = run(chosen, asked.out, asked.limit)
    print(judgement(rows))
    return int(any(failed(row) for row in rows))


def failed(row: Row) -> bool:
    """An error out of bounds, or ours did not run: a target that is missed is no failure."""
    wrong = row.get("kind") == "correctness" and not row["met"]
    return wrong or (row["baseline"] is None and row.get("note", "").startswith("failed"))


if __name__ == "__main__":
    raise SystemExit(main())
