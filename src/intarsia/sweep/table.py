"""The table and the plot of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from intarsia.errors import ConfigError, unknown
from intarsia.evaluation.compare import LEVEL, compare, compare_seeds, signed
from intarsia.evaluation.metrics import Difference, holm
from intarsia.runtime import atomic
from intarsia.sweep.file import Sweep

Gap = tuple[Difference, list[float]]  # and that of each seed
Results = Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]
"""Of each row and seed, the result of each evaluation."""


def table_rows(sweep: Sweep, results: Results) -> list[dict[str, Any]]:
    """One row each: mean over seeds of every metric, and the paired difference from row one, whose
    ``p_holm`` is corrected for all differences of the table.

    Raises:
        ConfigError: no evaluation has such a metric.
    """
    first = next(iter(results.values()))
    sources = {metric: _source(metric, first[0]) for metric in sweep.metrics}
    values: dict[str, dict[str, float]] = {}
    gaps: dict[str, dict[str, Gap]] = {}
    for name, found in results.items():
        values[name], gaps[name] = {}, {}
        for metric, source in sources.items():
            own = [seed[source] for seed in found]
            values[name][metric] = _mean([r["metrics"][metric]["value"] for r in own])
            gap = _gaps(own, [seed[source] for seed in first]).get(metric)
            if found is not first and gap is not None:
                gaps[name][metric] = gap
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


def _source(metric: str, results: Sequence[Mapping[str, Any]]) -> int:
    """Which of the evaluations has a metric."""
    for source, result in enumerate(results):
        if metric in result["metrics"]:
            return source
    known = [name for result in results for name in result["metrics"]]
    raise ConfigError(unknown("metric of a sweep", metric, known))


def _gaps(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> dict[str, Gap]:
    if len(a) == 1:
        return {name: (gap, []) for name, gap in compare(a[0], b[0]).items()}
    found = compare_seeds(a, b).items()
    return {name: (gap.difference, list(gap.by_seed.values())) for name, gap in found}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def markdown(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> str:
    published = [f"{metric} published" for metric in sweep.metrics] if sweep.published else []
    heads = [sweep.name, *(h for m in sweep.metrics for h in (m, "against the first"))]
    lines = [_line([*heads, *published]), _line(["---"] * (len(heads) + len(published)))]
    for row in rows:
        cells = [row["row"]]
        for metric in sweep.metrics:
            cells.append(f"{row['values'][metric]:.1f}")
            cells.append(_gap_cell(row, metric))
        theirs = row["published"] or [None] * len(sweep.metrics)
        cells += ["" if value is None else f"{value:.2f}" for value in theirs if published]
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def _gap_cell(row: Mapping[str, Any], metric: str) -> str:
    """The difference, bold where Holm leaves it; its interval; and seed by seed."""
    if metric not in row["gaps"]:
        return ""
    value, low, high = row["gaps"][metric]
    shown = f"**{value:+.2f}**" if row["p_holm"][metric] <= LEVEL else f"{value:+.2f}"
    seeds = f" ({signed(row['by_seed'][metric])})" if row["by_seed"][metric] else ""
    return f"{shown} [{low:+.2f}, {high:+.2f}]{seeds}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def plot(sweep: Sweep, rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A bar a row and metric, or a curve where the rows are numbers; with the interval of each
    difference from the first row."""
    from matplotlib.figure import Figure

    try:
        at: list[float] | None = [float(row["row"]) for row in rows]
    except ValueError:
        at = None
    height = 3.2 if at else 0.8 + 0.4 * len(rows)
    figure = Figure(figsize=(4.5 * len(sweep.metrics), height), layout="constrained")
    axes = figure.subplots(1, len(sweep.metrics), sharey=at is None, squeeze=False)[0]
    for axis, metric in zip(axes, sweep.metrics, strict=True):
        if at:
            _curve(axis, metric, rows, at)
            axis.set(xlabel=sweep.name)
        else:
            _bars(axis, metric, rows)
    if at is None:
        axes[0].invert_yaxis()
    with atomic(path) as draft:
        figure.savefig(draft, format=path.suffix[1:], dpi=120)


def _bars(axis: Any, metric: str, rows: Sequence[Mapping[str, Any]]) -> None:
    values = [row["values"][metric] for row in rows]
    axis.barh([row["row"] for row in rows], values, color="tab:blue", alpha=0.6)
    for i, (low, high) in _intervals(metric, rows).items():
        axis.plot([low, high], [i, i], color="black", linewidth=1.5)
    axis.axvline(values[0], color="tab:red", linewidth=1, linestyle="--")
    axis.set(xlabel=f"{metric} (%)", xlim=(0.9 * min(values), 1.05 * max(values)))


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
    axis.set(title=f"{metric} (%)", xticks=at)
    axis.xaxis.set_major_formatter("{x:g}")


def _intervals(metric: str, rows: Sequence[Mapping[str, Any]]) -> dict[int, tuple[float, float]]:
    """Of each row's difference from the first one, which has none, put at the first one's value."""
    first = rows[0]["values"][metric]
    return {
        i: (first + row["gaps"][metric][1], first + row["gaps"][metric][2])
        for i, row in enumerate(rows)
        if metric in row["gaps"]
    }
