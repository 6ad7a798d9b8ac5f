"""Where each phrase of a caption is, drawn as heat maps: for models that match no components."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from intarsia.apps.page import write_page
from intarsia.data.images import load_image
from intarsia.drawing import VERBATIM, printable
from intarsia.model import Model
from intarsia.types import ImageSource

COLUMNS = 4
TITLE_LINE = 40  # characters above a picture


@dataclass(frozen=True)
class Maps:
    """A picture, a caption, its P phrases and their maps (P,h,w), which span the whole picture."""

    image: Image.Image
    caption: str
    phrases: list[str]
    maps: Tensor


def phrase_maps(model: Model, image: ImageSource, caption: str) -> Maps:
    """Look for each thing that a caption names, with its adjectives; for the caption itself where
    it names none.

    Raises:
        DataError: the picture cannot be read.
        MissingExtraError: spaCy is not installed.
    """
    (said,) = model.components.parser.parse([caption])
    spans = (caption[slice(*entity.span)] for entity in said.entities)
    phrases = list(dict.fromkeys(" ".join(words.split()) for words in spans)) or [caption]
    whole = load_image(image)
    maps = model.patch_maps(whole, phrases, whole=True).float().cpu()
    return Maps(whole, " ".join(caption.split()), phrases, maps)


def draw(found: Maps) -> Figure:
    """The picture, then once more for each phrase, its best places in colour."""
    shown = 1 + len(found.phrases)
    columns, rows = min(COLUMNS, shown), ceil(shown / COLUMNS)
    width, height = found.image.size
    tall = 4 * min(max(height / width, 0.4), 2.5) + 0.6
    figure = Figure(figsize=(4 * columns, tall * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in panels:
        axis.set_axis_off()
    panels[0].imshow(np.asarray(found.image))
    _title(panels[0], found.caption)
    for axis, phrase, heat in zip(panels[1:], found.phrases, found.maps, strict=False):
        _draw_map(axis, found.image, heat.numpy())
        _title(axis, phrase)
    return figure


def _draw_map(axis: Axes, image: Image.Image, heat: np.ndarray) -> None:
    width, height = image.size
    (h, w), extent = heat.shape, (0, width, height, 0)
    axis.imshow(np.asarray(image.convert("L")), cmap="gray", extent=extent)
    axis.imshow(heat, cmap="inferno", alpha=0.6, interpolation="bilinear", extent=extent)
    row, column = divmod(int(heat.argmax()), w)
    centre = (column + 0.5) * width / w, (row + 0.5) * height / h
    axis.plot(*centre, "o", markersize=12, markerfacecolor="none", color="cyan", markeredgewidth=2)


def _title(axis: Axes, text: str) -> None:
    axis.set_title(fill(printable(text), TITLE_LINE), fontsize=10, **VERBATIM)


def write(found: Maps, path: Path) -> None:
    """``path`` as PNG, and beside it the same as an HTML page that needs no other file."""
    note = f"phrases: {', '.join(found.phrases)}; a ring is the best place of each"
    shows = "heat maps of the phrases"
    write_page(draw(found), path, title=found.caption, shows=shows, note=note)
