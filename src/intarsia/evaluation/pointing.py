"""The pointing game: does the hottest cell of a phrase's map lie on what the phrase names?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from intarsia.errors import ShapeError
from intarsia.evaluation.metrics import Array, Outcomes, require_no_nan
from intarsia.types import Box

VIEWS = {
    "pointing": "The model sees each picture as in training, for most backbones without its longer "
    "sides' ends: a box that is cut away cannot be hit. The metric `pointing` of `grounding` is "
    "another figure: there pictures are whole, squeezed into the square, and names of categories "
    "count too. On square pictures with phrases the two agree.",
    "grounding": "The model sees each picture whole, squeezed into its square input: every box can "
    "be found. The metric `pointing` is therefore not that of the protocol `pointing`, which cuts "
    "pictures as in training. On square pictures with phrases the two agree.",
}
"""How the two protocols that play the game differ, by their names."""


def pointing_hits(
    maps: Tensor, boxes: Sequence[Sequence[Box]], image_size: tuple[float, float]
) -> Array:
    """Whether the centre of each map's greatest cell lies in any of its phrase's boxes.

    The map is not upsampled and there is no margin of pixels around a box; a centre on the border
    is inside. The first of equal cells, row by row, wins.

    Args:
        maps: (P,h,w) the phrases' maps; the grid spans the picture evenly.
        boxes: The boxes of each phrase.
        image_size: (width, height) of the picture the boxes are drawn in, in pixels.

    Returns:
        (P,) bool.

    Raises:
        ShapeError: There is not one list of boxes a map.
        DataError: A map holds NaN.

    >>> import torch
    >>> maps = torch.tensor([[[0.1, 0.9], [0.2, 0.3]]])  # peaks at the top right: (75, 25)
    >>> pointing_hits(maps, [[(60, 0, 100, 40)]], (100, 100))
    array([ True])
    """
    if len(maps) != len(boxes):
        raise ShapeError(f"{len(maps)} maps and the boxes of {len(boxes)} phrases do not fit")
    heat = maps.float().numpy(force=True)
    require_no_nan(heat, "the maps")
    covered = _covered(boxes, (heat.shape[1], heat.shape[2]), image_size)
    peak = heat.reshape(len(heat), -1).argmax(1)
    return np.asarray(covered.reshape(len(heat), -1)[np.arange(len(heat)), peak])


def pointing_chance(
    boxes: Sequence[Sequence[Box]], grid: tuple[int, int], image_size: tuple[float, float]
) -> Array:
    """The share of cells that would be a hit for each phrase, (P,): what a random cell scores.

    >>> pointing_chance([[(0, 0, 50, 100)], [(0, 0, 100, 100)]], (2, 2), (100, 100))
    array([0.5, 1. ])
    """
    return np.asarray(_covered(boxes, grid, image_size).mean((1, 2)))


def pointing_outcomes(
    hits: Array, chance: Array, clusters: Array | None = None
) -> dict[str, Outcomes]:
    """``pointing`` and, to read it by, ``pointing_chance``, both in percent.

    Args:
        hits: (P,) of :func:`pointing_hits`, of all pictures.
        chance: (P,) of :func:`pointing_chance`.
        clusters: (P,) picture of each phrase.
    """
    return {
        "pointing": Outcomes.of_hits(hits, clusters),
        "pointing_chance": Outcomes(100 * chance, clusters),
    }


def _covered(
    boxes: Sequence[Sequence[Box]], grid: tuple[int, int], image_size: tuple[float, float]
) -> Array:
    """(P,h,w) True where a cell's centre lies in one of the phrase's boxes."""
    (h, w), (width, height) = grid, image_size
    x = (np.arange(w) + 0.5) * width / w
    y = ((np.arange(h) + 0.5) * height / h)[:, None]
    covered = np.zeros((len(boxes), h, w), dtype=bool)
    for cells, phrase in zip(covered, boxes, strict=True):
        for x0, y0, x1, y1 in phrase:
            cells |= (x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1)
    return covered
