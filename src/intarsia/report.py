"""The HTML report of a run: one file that needs no network, no scripts and no other file.

It shows whatever it is given: a table of metrics, training curves, and pictures with a heat map for
each phrase and model. Nothing in it knows a method, metric or data set by name.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from intarsia.errors import ConfigError, unknown
from intarsia.evaluation.metrics import Metric, require_no_nan
from intarsia.evaluation.pointing import pointing_hits
from intarsia.runtime import atomic
from intarsia.types import Box

PICTURE_SIDE = 512  # pixels of the longer side of an embedded picture
HEAT_SIDE = 128  # pixels of the longer side of an embedded heat map
COLOURMAP = colormaps["inferno"]
NUM_SERIES = 8  # colours of the style sheet, --series-0 to --series-7
CURVE_WINDOWS = 30  # a curve is averaged over this part of its length
INK = "#010203"  # stands for the page's text colour in a drawing


@dataclass(frozen=True)
class Column:
    """One metric of the table; higher is better. ``chance`` is what guessing scores."""

    label: str
    explanation: str
    chance: float | None = None


@dataclass(frozen=True)
class Curve:
    """A quantity at some steps of training."""

    name: str
    steps: list[int]
    values: list[float]


@dataclass(frozen=True)
class PhraseMap:
    """A phrase, where each model (by name) sees it, (h,w), and the boxes where it is."""

    phrase: str
    maps: dict[str, NDArray[np.floating]]
    boxes: list[Box]


@dataclass(frozen=True)
class Picture:
    record_id: str
    image: Image.Image
    captions: tuple[str, ...]
    phrases: list[PhraseMap]


def write_report(
    path: Path,
    *,
    title: str,
    lead: str,
    results: Mapping[str, Mapping[str, Metric]],
    columns: Mapping[str, Column],
    curves: Mapping[str, Sequence[Curve]],
    pictures: Sequence[Picture],
    facts: Mapping[str, str],
) -> None:
    """Write the report, whole or not at all; parts that are empty are left out.

    Args:
        path: The HTML file.
        title: The heading.
        lead: What was done and what came out; an empty line starts a new paragraph.
        results: Row (say, a model) -> metric -> value. A row need not have every metric.
        columns: The metrics to show, in order.
        curves: Panel title -> its curves. A name has the same colour in all panels.
        pictures: Pictures to look into.
        facts: What is needed to run it again: command, seed, versions, ...

    Raises:
        ConfigError: No row has the metric of a column.
        DataError: A map holds NaN.
    """
    series = _series(curve.name for panel in curves.values() for curve in panel)
    page = (
        environment()
        .get_template("report.html.j2")
        .render(
            title=title,
            paragraphs=lead.split("\n\n"),
            rows=list(results),
            columns=[_column(key, column, results) for key, column in columns.items()],
            panels=[_panel(name, panel, series) for name, panel in curves.items()],
            pictures=[_picture(picture) for picture in pictures],
            gradient=_gradient(),
            facts=facts,
        )
    )
    with atomic(path) as draft:
        draft.write_text(page, encoding="utf-8")


def environment() -> Environment:
    """The package's templates: everything escaped, nothing undefined."""
    return Environment(
        loader=PackageLoader("intarsia"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


# The table


@dataclass(frozen=True)
class _Cell:
    """A metric as text, and its interval in percent of the column's scale."""

    value: str
    low: str
    high: str
    n: int
    start: float
    width: float
    point: float
    is_best: bool


@dataclass(frozen=True)
class _ColumnView:
    label: str
    explanation: str
    chance: str | None
    chance_point: float | None
    nums: str
    cells: dict[str, _Cell]


def _column(key: str, column: Column, results: Mapping[str, Mapping[str, Metric]]) -> _ColumnView:
    metrics = {row: values[key] for row, values in results.items() if key in values}
    if not metrics:
        raise ConfigError(
            unknown("metric", key, {name for row in results.values() for name in row})
        )
    scale = _Scale.over(metrics.values(), column.chance)
    best = max(metric.value for metric in metrics.values())
    nums = sorted({metric.n for metric in metrics.values()})
    return _ColumnView(
        column.label,
        column.explanation,
        None if column.chance is None else scale.text(column.chance),
        None if column.chance is None else scale.percent(column.chance),
        " to ".join(f"{n:,}" for n in dict.fromkeys((nums[0], nums[-1]))),
        {row: scale.cell(metric, metric.value == best) for row, metric in metrics.items()},
    )


@dataclass(frozen=True)
class _Scale:
    """The bars of a column: all that is in it, and 0."""

    low: float
    high: float

    @classmethod
    def over(cls, metrics: Iterable[Metric], chance: float | None) -> _Scale:
        marks = [mark for m in metrics for mark in (m.value, *m.ci95)] + [0.0, chance or 0.0]
        return cls(min(marks), max(marks))

    def percent(self, value: float) -> float:
        return 100 * (value - self.low) / ((self.high - self.low) or 1.0)

    def text(self, value: float) -> str:
        """One decimal where the scale is in percent or greater, else three."""
        return f"{value:.{1 if self.high - self.low > 2 else 3}f}"

    def cell(self, metric: Metric, is_best: bool) -> _Cell:
        low, high = metric.ci95
        start = self.percent(low)
        return _Cell(
            value=self.text(metric.value),
            low=self.text(low),
            high=self.text(high),
            n=metric.n,
            start=start,
            width=self.percent(high) - start,
            point=self.percent(metric.value),
            is_best=is_best,
        )


# The curves


@dataclass(frozen=True)
class _Panel:
    title: str
    keys: dict[str, int]
    svg: Markup


def _series(names: Iterable[str]) -> dict[str, int]:
    """Name -> number of its colour."""
    return {name: i % NUM_SERIES for i, name in enumerate(dict.fromkeys(names))}


def _panel(title: str, curves: Sequence[Curve], series: Mapping[str, int]) -> _Panel:
    keys = {curve.name: series[curve.name] for curve in curves}
    return _Panel(title, keys, Markup(_drawing(title, curves, series)))


def _drawing(title: str, curves: Sequence[Curve], series: Mapping[str, int]) -> str:
    """The curves as inline SVG whose colours are the page's, so that they follow dark mode."""
    with rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": title,
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "grid.color": INK,
        }
    ):
        figure = Figure(figsize=(5.2, 2.9), layout="constrained")
        axes = figure.add_subplot()
        for curve in curves:
            _draw(axes, curve, _stand_in(series[curve.name]))
        axes.set_xlabel("step")
        axes.grid(alpha=0.15)
        axes.spines[["top", "right"]].set_visible(False)
        target = StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(target, format="svg", transparent=True, metadata=nothing)
    return _inlined(target.getvalue())


def _draw(axes: Axes, curve: Curve, colour: str) -> None:
    """The curve as measured, and over it, where it is long enough, its running mean."""
    window = max(1, len(curve.values) // CURVE_WINDOWS)
    if window > 1:
        axes.plot(curve.steps, curve.values, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(curve.steps, running_mean(curve.values, window), color=colour, linewidth=1.8)


def running_mean(values: Sequence[float], window: int) -> NDArray[np.float64]:
    """The mean over ``window`` values around each, over fewer at the ends.

    >>> running_mean([1.0, 2.0, 6.0], 3)
    array([1.5, 3. , 4. ])
    """
    kernel = np.ones(window)
    sums = np.convolve(values, kernel)
    counts = np.convolve(np.ones(len(values)), kernel)
    start = (window - 1) // 2
    return np.asarray(sums / counts)[start : start + len(values)]


def _stand_in(series: int) -> str:
    """The colour that stands for ``--series-N`` until the drawing is in the page."""
    return f"#0101{16 + series:02x}"


def _inlined(svg: str) -> str:
    """The drawing without what only a file needs, in the colours of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"| (width|height)="[\d.]+pt"', "", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg).replace(INK, "currentColor")
    for series in range(NUM_SERIES):
        svg = svg.replace(_stand_in(series), f"var(--series-{series})")
    return svg


# The pictures


@dataclass(frozen=True)
class _Tile:
    """A heat map; its peak cell (x, y, width, height) in pixels of the picture."""

    model: str
    heat: str
    peak: tuple[float, float, float, float]
    is_hit: bool | None


@dataclass(frozen=True)
class _PhraseView:
    phrase: str
    boxes: list[Box]
    tiles: list[_Tile]


@dataclass(frozen=True)
class _PictureView:
    record_id: str
    data: str
    width: int
    height: int
    captions: tuple[str, ...]
    phrases: list[_PhraseView]


def _picture(picture: Picture) -> _PictureView:
    small = picture.image.convert("RGB")
    small.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    width, height = picture.image.size
    phrases = [
        _PhraseView(
            item.phrase,
            item.boxes,
            [_tile(model, heat, item, picture) for model, heat in item.maps.items()],
        )
        for item in picture.phrases
    ]
    data = _data_uri(small, quality=85)
    return _PictureView(picture.record_id, data, width, height, picture.captions, phrases)


def _tile(model: str, cells: NDArray[np.floating], item: PhraseMap, picture: Picture) -> _Tile:
    heat = cells.astype(np.float32)
    require_no_nan(heat, f"{picture.record_id}: the cells of {model}'s map of {item.phrase!r}")
    size = picture.image.size
    is_hit = None
    if item.boxes:
        is_hit = bool(pointing_hits(torch.from_numpy(heat)[None], [item.boxes], size)[0])
    return _Tile(model, _data_uri(_heat_image(heat, size), quality=60), _peak(heat, size), is_hit)


def _peak(heat: NDArray[np.float32], size: tuple[int, int]) -> tuple[float, float, float, float]:
    (h, w), (width, height) = heat.shape, size
    row, column = divmod(int(heat.argmax()), w)
    return column * width / w, row * height / h, width / w, height / h


def _heat_image(heat: NDArray[np.float32], size: tuple[int, int]) -> Image.Image:
    """The map from its least to its greatest cell, bilinear, in the shape of the picture."""
    unit = (heat - heat.min()) / (np.ptp(heat) or 1.0)
    factor = HEAT_SIDE / max(size)
    shape = max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
    smooth = Image.fromarray(unit).resize(shape, Image.Resampling.BILINEAR)
    return Image.fromarray(COLOURMAP(np.asarray(smooth), bytes=True)).convert("RGB")


def _gradient() -> str:
    """The colour map as the stops of a CSS gradient, low to high."""
    return ", ".join(to_hex(COLOURMAP(x)) for x in np.linspace(0, 1, 9))


def _data_uri(image: Image.Image, quality: int) -> str:
    target = BytesIO()
    image.save(target, format="WEBP", quality=quality)
    return f"data:image/webp;base64,{b64encode(target.getvalue()).decode()}"
