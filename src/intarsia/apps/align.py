"""Which region matches which phrase, drawn: ComAlign's figures 4 and 5 for any pair."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from intarsia.apps.page import write_page
from intarsia.data.images import load_image
from intarsia.data.problems import Problems
from intarsia.data.records import Records
from intarsia.drawing import VERBATIM, printable
from intarsia.encode.component_pairs import (
    image_features,
    image_rows,
    read_components,
    see_components,
    text_features,
    text_rows,
)
from intarsia.encode.components import ImageParts, TextParts
from intarsia.encode.store import Store
from intarsia.errors import ConfigError
from intarsia.methods.base import normalised
from intarsia.model import Model
from intarsia.runtime import quietly
from intarsia.types import Components, ImageSource, Record, Region

LONGEST_NAME = 48  # characters of a region or phrase beside its matrix
TITLE_LINE = 64  # characters of the caption above the picture
GROUPS = {"entity": "regions and phrases", "relation": "pairs of regions and triplets"}


@dataclass(frozen=True)
class Alignment:
    """The components of one pair, and for each group (regions, phrases) similarities by model."""

    image: Image.Image
    caption: str
    picture: ImageParts
    text: TextParts
    matrices: dict[str, dict[str, Tensor]]


@torch.no_grad()
def align(
    model: Model, image: ImageSource, caption: str, regions: tuple[Region, ...] = ()
) -> Alignment:
    """Compare every component of a picture with every component of a caption.

    Args:
        model: a ComAlign model.
        image: the picture.
        caption: any English text.
        regions: the picture's, for a model without a detector.

    Raises:
        ConfigError: the model matches no components.
        DataError: the picture cannot be read.
    """
    if "components" not in model.method.needs:
        raise ConfigError(f"{type(model.method).__name__} matches no components; ComAlign does")
    name = str(image) if isinstance(image, Path) else "picture"
    record = Record(name, image, (caption,), regions)
    finder, store, roles = model.components, Store(None, ""), "roles" in model.method.needs
    with model.asked(), quietly(), finder.lock:
        found = see_components(finder, Records.of([record]), model.towers, store, Problems(0.0))[0]
        assert found is not None
        said = read_components(finder, [caption], model.towers, store)[0]
        picture = image_rows(store, model.backbone, finder, [found])
        text = text_rows(store, model.backbone, finder, [said])
        left = next(image_features(picture, model.device, roles=roles, batch_size=1))
        right = next(text_features(text, model.device, roles=roles, batch_size=1))
        ours = model.method.encode_image(left), model.method.encode_text(right)
    assert left.image_parts is not None and right.text_parts is not None
    matrices = {}
    for group in GROUPS:
        if group in ours[0].groups:
            x, y = ours[0][group][0], ours[1][group][0]
            rows, columns = _real(left.image_parts, group), _real(right.text_parts, group)
            both = x[: len(rows)][rows] @ y[: len(columns)][columns].mT
            base = (
                _vectors(left.image_parts, group)[rows]
                @ _vectors(right.text_parts, group)[columns].mT
            )
            matrices[group] = {"base": base.cpu(), type(model.method).__name__: both.cpu()}
    return Alignment(load_image(image), " ".join(caption.split()), found, said, matrices)


def _vectors(parts: Components, group: str) -> Tensor:
    return normalised(parts.entities if group == "entity" else parts.relations)[0]


def _real(parts: Components, group: str) -> Tensor:
    return (parts.entity_mask if group == "entity" else parts.relation_mask)[0]


def draw(found: Alignment) -> Figure:
    """The picture with its regions, and the matrices of base and model side by side."""
    columns = max(len(pair) for pair in found.matrices.values())
    figure = Figure(figsize=(5 + 4.2 * columns, 4.2 * len(found.matrices)), layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=[5, 4.2 * columns])
    left, right = halves
    _draw_picture(left.subplots(), found)
    grid = right.subplots(len(found.matrices), columns, squeeze=False)
    for axes, (group, matrices) in zip(grid, found.matrices.items(), strict=True):
        rows, names = _names(found, group)
        for axis, (name, matrix) in zip(axes, matrices.items(), strict=True):
            _draw_matrix(axis, matrix, rows, names, f"{name}: {GROUPS[group]}")
    return figure


def _names(found: Alignment, group: str) -> tuple[list[str], list[str]]:
    labels = [f"{i + 1} {region.label}".strip() for i, region in enumerate(found.picture.regions)]
    if group == "entity":
        return labels, found.text.entities
    return [f"{i + 1} & {j + 1}" for i, j in found.picture.pairs], found.text.relations


def _draw_picture(axis: Axes, found: Alignment) -> None:
    axis.imshow(np.asarray(found.image))
    for i, region in enumerate(found.picture.regions):
        x0, y0, x1, y1 = region.box
        colour = f"C{i % 10}"
        axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color=colour, lw=2))
        axis.text(
            x0, y0, f"{i + 1}", color="white", backgroundcolor=colour, fontsize=8, va="bottom"
        )
    axis.set_axis_off()
    title = fill(printable(found.caption), TITLE_LINE)  # matplotlib wraps as if it were mathematics
    axis.set_title(title, fontsize=10, **VERBATIM)


def _draw_matrix(
    axis: Axes, matrix: Tensor, rows: list[str], columns: list[str], title: str
) -> None:
    axis.set_title(title, fontsize=10)
    if not matrix.numel():
        axis.text(0.5, 0.5, "nothing to match", ha="center", va="center", alpha=0.6)
        axis.set_axis_off()
        return
    values = matrix.numpy()
    axis.imshow(values, cmap="viridis", aspect="auto")
    rows, columns = ([printable(name, LONGEST_NAME) for name in names] for names in (rows, columns))
    axis.set_yticks(range(len(rows)), rows, fontsize=8, **VERBATIM)
    axis.set_xticks(range(len(columns)), columns, rotation=40, ha="right", fontsize=8, **VERBATIM)
    middle = (values.min() + values.max()) / 2
    for (i, j), value in np.ndenumerate(values):
        colour = "black" if value > middle else "white"
        axis.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)


def write(found: Alignment, path: Path) -> None:
    """``path`` as PNG, and beside it the same as an HTML page that needs no other file."""
    phrases, relations = (
        ", ".join(names) or "none" for names in (found.text.entities, found.text.relations)
    )
    write_page(
        draw(found),
        path,
        title=found.caption,
        shows="similarities of regions and phrases",
        note=f"phrases: {phrases}; relations: {relations}",
    )
