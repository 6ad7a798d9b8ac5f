"""Tables of docs/performance.md, and of docs/results.md what benchmarks measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.gpu_report import report
from benchmarks.harness import RESULTS, markdown

from intarsia.sweep.table import as_markdown


def timed(*names: str) -> str:
    """The rows of benchmarks, those of all ``names`` in one table."""
    return markdown([row for name in names for row in _json(name)])


def contention() -> str:
    lines = [["a step of", "policy", "alone", "two at once", "ratio"]]
    for row in _json("contention"):
        times = (f"{row[key]:.0f} ms" for key in ("alone_ms", "two_at_once_ms"))
        lines.append([row["name"], row["policy"], *times, f"{row['ratio']:.2f}"])
    return as_markdown(lines)


def epoch() -> str:
    row = _json("comalign_epoch")
    head = ["one epoch of `comalign`, batch size", "steps", "whole run", "peak memory"]
    sizes = f"{row['batch_size']:,}", str(row["steps"])
    return as_markdown([head, [*sizes, f"{row['seconds']:.0f} s", f"{row['peak_gib']:.1f} GiB"]])


def demo() -> str:
    lines = [["processor", "steps", "whole demo", "peak memory"]]
    for row in _json("demo"):
        values = f"{row['steps']:,}", f"{row['seconds'] / 60:.1f} min", f"{row['peak_gib']:.1f} GiB"
        lines.append([row["machine"], *values])
    return as_markdown(lines)


def pseudo_regions() -> str:
    found = _json("pseudo_regions")
    lines = [["data", "pairs judged", "right"]]
    for data in ("flickr8k", "scenes"):
        row = found[data]
        low, high = row["ci95"]
        lines.append([data, f"{row['n']:,}", f"{row['precision']:.1f} [{low:.1f}, {high:.1f}]"])
    return as_markdown(lines)


def kernels() -> str:
    """What all kernels of an eager step take, and how many times as long as those of `clip`."""
    whole = {name: rows[0]["ms"] / rows[0]["share"] for name, rows in _json("gpu_profile").items()}
    lines = [["step", "its kernels", "over `clip`"]]
    for name, time in whole.items():
        lines.append([f"`{name}`", f"{time:.0f} ms", f"{time / whole['clip']:.2f}"])
    return as_markdown(lines)


def records() -> str:
    """Seconds and memory against the number of records."""
    lines = [["records", "opened in", "this process", "all with workers"]]
    for row in _json("records"):
        sizes = [f"{row[key] / 2**20:,.0f} MiB" for key in ("own_bytes", "all_bytes")]
        lines.append([f"{row['shape']['records']:,}", f"{row['open_s']:.2f} s", *sizes])
    return as_markdown(lines)


def _json(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


TABLES: dict[str, Callable[[], str]] = {
    "scoring": partial(timed, "scoring_coco", "scoring"),
    "gradient-cache": partial(timed, "gradient_cache"),
    "matching": partial(timed, "matching"),
    "gpu": lambda: report(_json("gpu")),
    "gpu-77": partial(timed, "gpu_training_77"),
    "gpu-kernels": kernels,
    "contrastive": partial(timed, "contrastive", "contrastive_large"),
    "training-step": partial(timed, "training_step"),
    "comalign-epoch": epoch,
    "demo-time": demo,
    "contention": contention,
    "road": partial(timed, "road"),
    "records": records,
    "pseudo-regions": pseudo_regions,
}
