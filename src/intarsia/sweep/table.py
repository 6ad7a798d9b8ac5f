"""The table and the plot of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from intarsia.drawing import VERBATIM, printable, save
from intarsia.errors import ConfigError, unknown
from intarsia.evaluation.compare import LEVEL, compare, compare_seeds, signed
from intarsia.evaluation.metrics import Difference, holm
from intarsia.runtime import atomic
from intarsia.sweep.file import Sweep

Gap = tuple[Difference, list[float]]  # and that of each seed
Result = Mapping[str, Any]
Results = Mapping[str, Sequence[Sequence[Result]]]
"""Of each row and seed, the result of each evaluation."""
AGAINST = "against the first"
LONGEST = 48  # characters of a name in the plot


def table_rows(sweep: Sweep, results: Results) -> list[dict[str, Any]]:
    """One row each: mean over seeds of every metric, and the paired difference from row one, whose
    ``p_holm`` is corrected for all differences of the table.

    Raises:
        ConfigError: no evaluation has such a metric.
    """
    first = next(iter(results.values()))
    sources = metric_sources(sweep, first[0])
    values: dict[str, dict[str, float]] = {}
    gaps: dict[str, dict[str, Gap]] = {}
    for name, found in results.items():
        values[name] = {
            metric: _mean([seed[source]["metrics"][metric]["value"] for seed in found])
            for metric, source in sources.items()
        }
        gaps[name] = {} if found is first else _gaps(found, first, sources)
    adjusted = holm({f"{row} {m}": gap.p for row in gaps for m, (gap, _) in gaps[row].items()})
    return [
        {
            "row": name,
            "seeds": len(found),
            "values": values[name],
            "gaps": {m: [gap.value, *gap.ci95] for m, (gap, _) in gaps[name].items()},
            "p_holm": {m: adjusted[f"{name} {m}"] for m in gaps[name]},
            "by_seed": {m: by_seed for m, (_, by_seed) in gaps[name].items()},
            "published": sweep.published.get(name),
        }
        for name, found in results.items()
    ]


def metric_sources(sweep: Sweep, results: Sequence[Result]) -> dict[str, int]:
    """Which of one run's evaluations each metric is from.

    Raises:
        ConfigError: no evaluation has such a metric.
    """
    return {metric: _source(metric, results) for metric in sweep.metrics}


def _source(metric: str, results: Sequence[Result]) -> int:
    """Which of the evaluations has a metric."""
    for source, result in enumerate(results):
        if metric in result["metrics"]:
            return source
    known = [name for result in results for name in result["metrics"]]
    raise ConfigError(unknown("metric of a sweep", metric, known))


def _gaps(
    a: Sequence[Sequence[Result]], b: Sequence[Sequence[Result]], sources: Mapping[str, int]
) -> dict[str, Gap]:
    """Of the metrics that have outcomes to pair, each from the evaluation that is its source."""
    gaps: dict[str, Gap] = {}
    for source in dict.fromkeys(sources.values()):
        wanted = [metric for metric, its in sources.items() if its == source]
        side_a, side_b = ([seed[source] for seed in side] for side in (a, b))
        if len(a) == 1:
            gaps |= {m: (gap, []) for m, gap in compare(side_a[0], side_b[0], wanted).items()}
        else:
            found = compare_seeds(side_a, side_b, wanted)
            gaps |= {m: (gap.difference, list(gap.by_seed.values())) for m, gap in found.items()}
    return {metric: gaps[metric] for metric in sources if metric in gaps}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def markdown(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> str:
    return as_markdown(cells(sweep, rows))


def as_markdown(cells: Sequence[Sequence[str]]) -> str:
    """
    >>> print(as_markdown([["row", "r1"], ["clip", "25.2"]]), end="")
    | row | r1 |
    | --- | --- |
    | clip | 25.2 |
    """
    head, *body = cells
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cells(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The texts of the table, its head first."""
    published = [f"{metric} published" for metric in sweep.metrics] if sweep.published else []
    lines = [[sweep.name, *(h for m in sweep.metrics for h in (m, AGAINST)), *published]]
    for row in rows:
        line = [row["row"]]
        for metric in sweep.metrics:
            line += [f"{row['values'][metric]:.1f}", gap_cell(row, metric)]
        theirs = row["published"] or [None] * len(sweep.metrics)
        line += ["" if value is None else f"{value:.2f}" for value in theirs if published]
        lines.append(line)
    return lines


def gap_cell(row: Mapping[str, Any], metric: str) -> str:
    """The difference, bold where Holm leaves it; its interval; and seed by seed."""
    if metric not in row["gaps"]:
        return ""
    value, low, high = row["gaps"][metric]
    shown = f"**{value:+.2f}**" if row["p_holm"][metric] <= LEVEL else f"{value:+.2f}"
    seeds = f" ({signed(row['by_seed'][metric])})" if row["by_seed"][metric] else ""
    return f"{shown} [{low:+.2f}, {high:+.2f}]{seeds}"


def plot(sweep: Sweep, rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A bar a row and metric, or a curve where the rows are numbers; with the interval of each
    difference from the first row."""
    from matplotlib.figure import Figure

    try:
        at: list[float] | None = [float(row["row"]) for row in rows]
    except ValueError:
        at = None
    height = 3.2 if at else 0.8 + 0.4 * len(rows)
    names = 0.0 if at else 0.08 * min(LONGEST, max(len(row["row"]) for row in rows))
    figure = Figure(figsize=(names + 4.5 * len(sweep.metrics), height), layout="constrained")
    axes = figure.subplots(1, len(sweep.metrics), sharey=at is None, squeeze=False)[0]
    for axis, metric in zip(axes, sweep.metrics, strict=True):
        if at:
            _curve(axis, metric, rows, at)
            axis.set_xlabel(printable(sweep.name, LONGEST), **VERBATIM)
        else:
            _bars(axis, metric, rows)
    if at is None:
        axes[0].invert_yaxis()
    with atomic(path) as draft:
        save(figure, draft, format=path.suffix[1:], dpi=120)


def _bars(axis: Any, metric: str, rows: Sequence[Mapping[str, Any]]) -> None:
    values = [row["values"][metric] for row in rows]
    axis.barh(range(len(rows)), values, color="tab:blue", alpha=0.6)
    names = [printable(row["row"], LONGEST) for row in rows]
    axis.set_yticks(range(len(rows)), names, **VERBATIM)
    intervals = _intervals(metric, rows)
    for i, (low, high) in intervals.items():
        axis.plot([low, high], [i, i], color="black", linewidth=1.5)
    axis.axvline(values[0], color="tab:red", linewidth=1, linestyle="--")
    ends = [*values, *(end for interval in intervals.values() for end in interval)]
    axis.set_xlabel(f"{metric} (%)", **VERBATIM)
    axis.set_xlim(0.9 * min(ends), 1.05 * max(ends) or 1)


def _curve(axis: Any, metric: str, rows: Sequence[Mapping[str, Any]], at: list[float]) -> None:
    values = [row["values"][metric] for row in rows]
    axis.plot(at, values, marker="o", color="tab:blue")
    for i, (low, high) in _intervals(metric, rows).items():
        axis.plot([at[i], at[i]], [low, high], color="black", linewidth=1.5)
    axis.axhline(values[0], color="tab:red", linewidth=1, linestyle="--")
    if 0 in at:
        least = min((abs(x) for x in at if x), default=1.0)
        axis.set_xscale("symlog", linthresh=least)
        axis.set_xlim(min(at) - 0.3 * least, 1.2 * max(at))
    else:
        axis.set_xscale("log")
    axis.set_title(f"{metric} (%)", **VERBATIM)
    axis.set_xticks(at)
    axis.xaxis.set_major_formatter("{x:g}")


def _intervals(metric: str, rows: Sequence[Mapping[str, Any]]) -> dict[int, tuple[float, float]]:
    """Of each row's difference from the first one, which has none, put at the first one's value."""
    first = rows[0]["values"][metric]
    return {
        i: (first + row["gaps"][metric][1], first + row["gaps"][metric][2])
        for i, row in enumerate(rows)
        if metric in row["gaps"]
    }
