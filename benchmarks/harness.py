"""Timing for every benchmark: ours, its baselines and the limit, interleaved on one machine.

A benchmark module lists its cases and ends with ``run(NAME, CASES)``; ``python -m benchmarks.NAME``
then writes ``benchmarks/results/NAME.json`` and the same as a markdown table. A row's time is the
wall clock's on a CPU and of CUDA events on a GPU; its memory is a fresh process's on a CPU
(:func:`measure`) and that of the device's allocator on a GPU (:func:`measure_on`).
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from intarsia.ops.matching import fine_grained_scores

RESULTS = Path(__file__).parent / "results"
FILLED = 0.01  # seconds of one measurement on a GPU, which quicker runs fill by being called again
ASLEEP = 2**26  # cycles that a GPU sleeps first, some 40 ms: its queue is full when it wakes
Run = Callable[[], object]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Runs:
    """What is compared: each is called again and again, and only the call is timed.

    ``limit`` is what no implementation of the same thing can beat, with its name.
    """

    ours: Run
    baselines: Mapping[str, Run] = field(default_factory=dict)
    limit: tuple[str, Run] | None = None

    def named(self) -> dict[str, Run]:
        limit = {} if self.limit is None else {self.limit[0]: self.limit[1]}
        return {"ours": self.ours, **self.baselines, **limit}


@dataclass(frozen=True, slots=True)
class Case:
    """``build(**shape)`` makes the inputs and gives the runs.

    ``build`` is a function at a module's top level, since fresh processes import it to measure
    memory. ``targets`` says what the rows have to reach: of each baseline's name ("" where a case
    has none) the keys of its row with what they must be, as in ``{"ratio": ">= 2"}``.
    """

    name: str
    build: Callable[..., Runs]
    shape: Mapping[str, int]
    rounds: int = 7
    targets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def run(name: str, cases: Sequence[Case]) -> list[Row]:
    """Measure all cases, keeping in ``results/NAME.json`` and ``.md`` what is measured so far."""
    rows: list[Row] = []
    RESULTS.mkdir(exist_ok=True)
    for case in cases:
        rows += measure(case)
        (RESULTS / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")
        (RESULTS / f"{name}.md").write_text(markdown(rows))
        print(markdown(rows[-1:]) if case is not cases[-1] else markdown(rows), flush=True)
    return rows


def measure(case: Case) -> list[Row]:
    """One row a baseline (one without, where there is none).

    Seconds are medians over the case's rounds. ``ratio`` (baseline / ours) and ``limit_ratio``
    (ours / limit) are medians of the ratios within each round, which a machine that is slow for a
    while does not change. Peaks are bytes above the inputs.
    """
    runs = case.build(**case.shape)
    seconds = interleaved(runs.named(), case.rounds)
    limit = runs.limit[0] if runs.limit else None
    del runs
    peaks = {name: peak_bytes(case, name) for name in seconds if name != limit}
    return rows_of(case, limit, seconds, peaks)


def measure_on(case: Case, device: str, budget: float = 4.0) -> list[Row]:
    """:func:`measure` in this process, of ``case.build(**shape, device=device)``.

    Every run is called twice before it is timed, so that all is compiled. A baseline that fails,
    be it for want of memory, has a row that says so. Peaks are None on a CPU.
    """
    runs = case.build(**case.shape, device=device)
    calls, notes = runs.named(), {}
    for name in runs.baselines:
        if note := _failure(calls[name], device):
            notes[name] = note
            del calls[name]
    for name in calls.keys() - runs.baselines.keys():
        _call_twice(calls[name], device)
    seconds = interleaved(calls, case.rounds, device, budget)
    peaks = {name: device_peak(call, device) for name, call in calls.items()}
    return rows_of(case, runs.limit[0] if runs.limit else None, seconds, peaks, notes)


def empty_row(name: str, shape: Mapping[str, int]) -> Row:
    """A row with every key and no numbers."""
    keys = (
        *("ours_s", "limit", "limit_s", "limit_ratio", "peak_bytes", "rounds", "machine"),
        *("baseline", "baseline_s", "ratio", "baseline_peak_bytes"),
    )
    return {"name": name, "shape": dict(shape)} | dict.fromkeys(keys) | {"machine": machine()}


def rows_of(
    case: Case,
    limit: str | None,
    seconds: Mapping[str, Sequence[float]],
    peaks: Mapping[str, int | None],
    notes: Mapping[str, str] | None = None,
) -> list[Row]:
    """What was measured as rows, one a baseline; ``notes`` are those of baselines that failed."""
    ours = seconds["ours"]
    row = empty_row(case.name, case.shape) | {
        "ours_s": statistics.median(ours),
        "limit": limit,
        "limit_s": statistics.median(seconds[limit]) if limit else None,
        "limit_ratio": _ratio(ours, seconds[limit]) if limit else None,
        "peak_bytes": peaks["ours"],
        "rounds": len(ours),
    }
    rows = [
        row
        | {
            "baseline": name,
            "baseline_s": statistics.median(seconds[name]),
            "ratio": _ratio(seconds[name], ours),
            "baseline_peak_bytes": peaks[name],
        }
        for name in seconds
        if name not in ("ours", limit)
    ]
    rows += [row | {"baseline": name, "note": note} for name, note in (notes or {}).items()]
    return rows or [row]


def interleaved(
    runs: Mapping[str, Run], rounds: int, device: str = "cpu", budget: float = math.inf
) -> dict[str, list[float]]:
    """Seconds of each run in each round, after one round that does not count.

    On a GPU the seconds are the device's: calls are enqueued while it sleeps, as a step's kernels
    are behind those before them, so that launching them takes none of its time. A run quicker than
    ``FILLED`` is called several times each round, and its seconds are those of one call. After
    ``budget`` seconds there is no further round, but three at least.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    often = dict.fromkeys(runs, 1)
    start = time.perf_counter()
    for done in range(rounds + 1):
        if done > 3 and time.perf_counter() - start > budget:
            break
        for name, call in runs.items():
            seconds[name].append(_timed(call, often[name], device))
            if device != "cpu" and not done:
                often[name] = max(1, min(8, int(FILLED / max(seconds[name][0], 1e-6))))
    return {name: taken[1:] for name, taken in seconds.items()}


def device_peak(call: Run, device: str) -> int | None:
    """What one run adds to the memory that the device has in use."""
    if device == "cpu":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def summary(error: Exception) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def free() -> None:
    """Give back the device's memory that nobody holds any more."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def peak_bytes(case: Case, name: str) -> int:
    """What one run of a case adds to the memory of a fresh process that holds its inputs."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        return process.submit(_peak_here, case, name).result()


def machine() -> str:
    """Processor, threads and torch in one line."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{_processor()}{gpu}, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}, "
        f"{platform.system()} {platform.machine()}"
    )


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table, the machine below it."""
    lines = [
        "| case | shape | ours | baseline | its time | ratio | limit | its time | ours / limit "
        "| ours, peak | baseline, peak |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shape = " ".join(f"{key}={value}" for key, value in row["shape"].items())
        cells = (
            row["name"],
            shape,
            _seconds(row["ours_s"]),
            row["baseline"] or "",
            _seconds(row["baseline_s"]),
            _times(row["ratio"]),
            row["limit"] or "",
            _seconds(row["limit_s"]),
            _times(row["limit_ratio"]),
            _mebibytes(row["peak_bytes"]),
            _mebibytes(row["baseline_peak_bytes"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *sorted({row["machine"] for row in rows}), ""])


def _timed(call: Run, times: int, device: str) -> float:
    if device == "cpu":
        start = time.perf_counter()
        for _ in range(times):
            call()
        return (time.perf_counter() - start) / times
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(ASLEEP)
    begin.record()
    for _ in range(times):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000 / times


def _call_twice(call: Run, device: str) -> None:
    for _ in range(2):
        call()
        if device != "cpu":
            torch.cuda.synchronize()


def _failure(call: Run, device: str) -> str | None:
    """Why a run cannot be timed, in a line; None where it was called twice."""
    note = None
    try:
        _call_twice(call, device)
    except torch.OutOfMemoryError:
        note = "out of memory"
    except Exception as error:
        note = f"failed: {summary(error)}"
    if note:
        free()
    return note


def _peak_here(case: Case, name: str) -> int:
    call = case.build(**case.shape).named()[name]
    _load_libraries()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    before = _status_bytes("VmRSS")
    call()
    return max(0, _status_bytes("VmHWM") - before)


def _load_libraries() -> None:
    """Touch the code and threads that any run needs, lest they count as its memory."""
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(64, 64, dtype=dtype, requires_grad=True)
        (x @ x).amax(1).sum().backward()
        fine_grained_scores(x[None], x[None])


def _status_bytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _ratio(over: Sequence[float], under: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    if value >= 0.1:
        return f"{value:.3f} s"
    return f"{1000 * value:.1f} ms" if value >= 0.01 else f"{1000 * value:.2f} ms"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _mebibytes(value: int | None) -> str:
    return "" if value is None else f"{value / 2**20:,.0f} MiB"
