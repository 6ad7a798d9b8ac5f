"""From a map of how well a phrase matches each place of a picture to boxes."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor
from torchvision.ops import nms

from intarsia.evaluation.metrics import Array

LEVELS = tuple(step / 10 for step in range(1, 10))
OVERLAP = 0.7
MOST_BOXES = 10


def upsampled(maps: Tensor, size: int) -> Tensor:
    """(P,h,w) patch maps -> (P,size,size) float32, bilinear between the centres of the patches."""
    return F.interpolate(maps[:, None].float(), (size, size), mode="bilinear")[:, 0]


def boxes_from_map(heat: Array) -> Array:
    """The boxes that a map (h,w) suggests, best first: (K,4) in its cells, 1 <= K <= 10.

    Our rule, as the sources give none. Nine levels, evenly between the least and the greatest
    value, each cut the map into connected regions (by the sides of cells); the tight box around
    each region is a candidate. Candidates are ranked by their :func:`contrast`; one that overlaps
    a better one by IoU > 0.7 is dropped. An even map suggests the whole picture.

    >>> heat = np.zeros((4, 6))
    >>> heat[1:3, 2:5] = 1
    >>> boxes_from_map(heat)
    array([[2., 1., 5., 3.]])
    """
    low, high = heat.min(), heat.max()
    found = (box for t in LEVELS for box in _around_regions(heat >= low + t * (high - low)))
    boxes = np.array(list(dict.fromkeys(found)), dtype=np.float64)
    best = nms(torch.from_numpy(boxes), torch.from_numpy(contrast(heat, boxes)), OVERLAP)
    return np.asarray(boxes[best[:MOST_BOXES].numpy()])


def contrast(heat: Array, boxes: Array) -> Array:
    """How well "inside the box" tells hot cells from cold ones, (K,); 0 for the whole picture.

    (mean inside - mean outside) * sqrt(p * (1 - p)), p being the box's share of the cells: the
    root of Otsu's criterion (1979) with the sign of the difference, which up to the map's own
    deviation is the correlation of the map with the box.

    Args:
        heat: (h,w).
        boxes: (K,4) in cells; a cell counts where the box touches it.

    >>> contrast(np.array([[4.0, 0.0], [0.0, 0.0]]), np.array([[0, 0, 1, 1], [0, 0, 2, 2]]))
    array([1.73205081, 0.        ])
    """
    h, w = heat.shape
    x0, y0 = (np.floor(boxes[:, i]).clip(0, side).astype(int) for i, side in ((0, w), (1, h)))
    x1, y1 = (np.ceil(boxes[:, i]).clip(0, side).astype(int) for i, side in ((2, w), (3, h)))
    sums = np.pad(heat.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
    share = (x1 - x0) * (y1 - y0) / heat.size
    spread = np.sqrt(share * (1 - share))
    difference = inside / heat.size - share * heat.mean(dtype=np.float64)
    return np.asarray(np.divide(difference, spread, out=np.zeros_like(spread), where=spread > 0))


def _around_regions(mask: Array) -> list[tuple[int, int, int, int]]:
    """The tight boxes of the connected regions that are True."""
    numbered, _ = ndimage.label(mask)
    return [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(numbered)]
