"""The radar plot and the rows of the forest plot, for a page that brings the colours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from intarsia.suite.tables import Cell, Headline, is_lower_better, seeing

WIDTH, HEIGHT, RADIUS = 420.0, 330.0, 104.0
RINGS = 4
LINE = 11.0  # between the lines of a label


@dataclass(frozen=True)
class Whisker:
    """A difference with its interval, in percent of the plot's width."""

    model: str
    start: float
    width: float
    point: float
    cell: Cell


@dataclass(frozen=True)
class Forest:
    """``zero`` in percent of the width, ``ends`` of the scale in the metrics' unit."""

    rows: list[tuple[Headline, list[Whisker]]]
    zero: float
    ends: tuple[float, float]


def forest(columns: Sequence[Headline]) -> Forest | None:
    """Every model's difference to the first, benchmark by benchmark; None without any."""
    gaps = [
        cell.difference for column in columns for cell in column.cells.values() if cell.difference
    ]
    if not gaps:
        return None
    low = min(0.0, *(gap.ci95[0] for gap in gaps))
    high = max(0.0, *(gap.ci95[1] for gap in gaps))
    span = (high - low) or 1.0

    def percent(value: float) -> float:
        return 2 + 96 * (value - low) / span

    def whiskers(column: Headline) -> Iterator[Whisker]:
        for model, cell in column.cells.items():
            if cell.difference:
                ends = [percent(value) for value in cell.difference.ci95]
                point = percent(cell.difference.value)
                yield Whisker(model, ends[0], ends[1] - ends[0], point, cell)

    rows = [(column, list(whiskers(column))) for column in columns]
    return Forest([row for row in rows if row[1]], percent(0.0), (low, high))


def radar(columns: Sequence[Headline], series: Mapping[str, int]) -> Markup | None:
    """One axis a column, from 0 to the best model's value; None with fewer than three axes.

    Metrics of which less is better, and columns that lack a model, have no axis.
    """
    axes = [
        column
        for column in columns
        if not is_lower_better(column.metric)
        and seeing(column.cells).keys() == series.keys()
        and max(cell.value for cell in seeing(column.cells).values()) > 0
    ]
    if len(axes) < 3:
        return None
    tops = [max(cell.value for cell in seeing(axis.cells).values()) for axis in axes]
    parts = [_ring(len(axes), ring / RINGS) for ring in range(1, RINGS + 1)]
    for i, (axis, top) in enumerate(zip(axes, tops, strict=True)):
        parts += [_spoke(i, len(axes)), _label(i, len(axes), axis, top)]
    for model, number in series.items():
        shares = [axis.cells[model].value / top for axis, top in zip(axes, tops, strict=True)]
        parts.append(_outline(shares, number, model))
    view = f'viewBox="0 0 {WIDTH:g} {HEIGHT:g}"'
    return Markup(
        f'<svg class="radar" {view} role="img" aria-label="radar plot">{"".join(parts)}</svg>'
    )


def _place(axis: int, num: int, share: float) -> tuple[float, float]:
    """``share`` of the radius from the centre; the first axis points up, the others clockwise."""
    angle = 2 * math.pi * axis / num - math.pi / 2
    return (
        WIDTH / 2 + RADIUS * share * math.cos(angle),
        HEIGHT / 2 + RADIUS * share * math.sin(angle),
    )


def _polygon(shares: Sequence[float]) -> str:
    places = (_place(i, len(shares), share) for i, share in enumerate(shares))
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _ring(num: int, share: float) -> str:
    return f'<polygon class="ring" points="{_polygon([share] * num)}"/>'


def _spoke(axis: int, num: int) -> str:
    x, y = _place(axis, num, 1.0)
    return f'<path class="ring" d="M{WIDTH / 2:g} {HEIGHT / 2:g}L{x:.1f} {y:.1f}"/>'


def _label(axis: int, num: int, column: Headline, top: float) -> str:
    """Three lines outside of the plot: protocol, metric and its greatest value, data."""
    x, y = _place(axis, num, 1.1)
    side = x - WIDTH / 2
    anchor = "middle" if abs(side) < 12 else "start" if side > 0 else "end"
    height = (y - HEIGHT / 2) / RADIUS  # -1.1 at the top, 1.1 at the bottom
    first = y + 0.8 * LINE - LINE * 1.5 * (1 - height / 1.1)
    benchmark = column.benchmark
    lines = (
        benchmark.protocol,
        f"{column.metric} {top:.1f}",
        f"{benchmark.data} {benchmark.split}",
    )
    spans = "".join(
        f'<tspan x="{x:.1f}" y="{first + i * LINE:.1f}" class="line-{i}">{escape(line)}</tspan>'
        for i, line in enumerate(lines)
    )
    return f'<text text-anchor="{anchor}">{spans}</text>'


def _outline(shares: Sequence[float], series: int, model: str) -> str:
    colour = f"var(--series-{series})"
    places = (_place(i, len(shares), share) for i, share in enumerate(shares))
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in places)
    return (
        f'<g style="--colour: {colour}"><title>{escape(model)}</title>'
        f'<polygon class="outline" points="{_polygon(shares)}"/>{dots}</g>'
    )
