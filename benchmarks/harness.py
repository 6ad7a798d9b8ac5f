"""Timing for every benchmark: ours, its baselines and the limit, interleaved on one machine.

A benchmark module lists its cases and ends with ``run(NAME, CASES)``; ``python -m benchmarks.NAME``
then writes ``benchmarks/results/NAME.json`` and the same as a markdown table.
"""

from __future__ import annotations

import ctypes
import json
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
    memory.
    """

    name: str
    build: Callable[..., Runs]
    shape: Mapping[str, int]
    rounds: int = 7


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
    ours = seconds["ours"]
    row = {
        "name": case.name,
        "shape": dict(case.shape),
        "ours_s": statistics.median(ours),
        "limit": limit,
        "limit_s": statistics.median(seconds[limit]) if limit else None,
        "limit_ratio": _ratio(ours, seconds[limit]) if limit else None,
        "peak_bytes": peaks["ours"],
        "rounds": case.rounds,
        "machine": machine(),
    }
    others = [name for name in seconds if name not in ("ours", limit)]
    return [
        row
        | {
            "baseline": name or None,
            "baseline_s": statistics.median(seconds[name]) if name else None,
            "ratio": _ratio(seconds[name], ours) if name else None,
            "baseline_peak_bytes": peaks[name] if name else None,
        }
        for name in others or [""]
    ]


def interleaved(runs: Mapping[str, Run], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run in each round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, call in runs.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: taken[1:] for name, taken in seconds.items()}


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
    return "" if value is None else f"{value:.3f} s" if value >= 0.1 else f"{1000 * value:.1f} ms"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _mebibytes(value: int | None) -> str:
    return "" if value is None else f"{value / 2**20:,.0f} MiB"
