"""Pooling below the whole image: boxes from a patch map, phrases from token states."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from intarsia.errors import ShapeError

CROP_FACTOR = 1.5  # METHODS.md section 3


def pool_regions(patches: Tensor, grid: tuple[int, int], boxes: Tensor) -> Tensor:
    """RoIAlign(1x1, aligned) of the normalised dense map, normalised again (METHODS.md 3 and 5).

    Args:
        patches: (B,M,D) dense patches, row by row.
        grid: (h, w) with h * w = M.
        boxes: (B,R,4), the backbone's input being the square from (0, 0) to (1, 1).

    Returns:
        (B,R,D) normalised.

    Raises:
        ShapeError: the patches do not fill the grid, or the boxes are of another batch.
    """
    h, w = grid
    if patches.ndim != 3 or patches.shape[1] != h * w:
        raise ShapeError(f"patches {tuple(patches.shape)} do not fill a {h} x {w} grid")
    if boxes.ndim != 3 or boxes.shape[2] != 4 or len(boxes) != len(patches):
        raise ShapeError(f"boxes {tuple(boxes.shape)} are not those of {len(patches)} pictures")
    wide = torch.promote_types(patches.dtype, torch.float32)
    dense = F.normalize(patches.to(wide), dim=-1).mT.unflatten(2, (h, w))
    x0, y0, x1, y1 = boxes.to(wide).flatten(0, 1).unbind(1)
    picture = torch.arange(len(boxes), device=boxes.device, dtype=wide)
    of_box = picture[:, None].expand(boxes.shape[:2]).flatten()
    rois = torch.stack([of_box, x0 * w, y0 * h, x1 * w, y1 * h], 1)
    pooled = roi_align(dense, rois, output_size=(1, 1), aligned=True)
    return F.normalize(pooled.flatten(1), dim=-1).view(*boxes.shape[:2], -1)


def pool_words(tokens: Tensor, mask: Tensor, words: Tensor) -> Tensor:
    """A phrase is the mean of the normalised states of its tokens (METHODS.md 3).

    Args:
        tokens: (B,N,D) token states.
        mask: (B,N) bool, real tokens.
        words: (B,P,2) int64, first and last + 1 of each phrase's tokens, counting real tokens only.

    Returns:
        (B,P,D) normalised; zero where a phrase has no token.
    """
    count = (mask.cumsum(1) - 1)[:, None]  # (B,1,N)
    inside = (count >= words[..., :1]) & (count < words[..., 1:]) & mask[:, None]
    wide = torch.promote_types(tokens.dtype, torch.float32)
    with torch.autocast(tokens.device.type, enabled=False):
        states = F.normalize(tokens.to(wide), dim=-1)
        return F.normalize(inside.to(wide) @ states, dim=-1)


def enlarged_crops(
    pixels: Tensor, boxes: Tensor, mask: Tensor, *, factor: float = CROP_FACTOR
) -> Tensor:
    """The real boxes of a batch, enlarged about their centres, cut out and scaled to its size.

    Args:
        pixels: (B,3,S,S) float.
        boxes: (B,P,4), the picture being the square from (0, 0) to (1, 1).
        mask: (B,P) bool.
        factor: of width and height; what then lies outside the picture is cut off.

    Returns:
        (Q,3,S,S) for the Q real boxes, row by row.
    """
    size = pixels.shape[-1]
    row, place = mask.nonzero(as_tuple=True)
    x0, y0, x1, y1 = (boxes[row, place] * size).unbind(1)
    grown_x, grown_y = (x1 - x0) * (factor - 1) / 2, (y1 - y0) * (factor - 1) / 2
    corners = [x0 - grown_x, y0 - grown_y, x1 + grown_x, y1 + grown_y]
    rois = torch.stack([row.to(pixels.dtype), *(c.clamp(0, size) for c in corners)], 1)
    crops: Tensor = roi_align(
        pixels, rois, output_size=(size, size), sampling_ratio=2, aligned=True
    )
    return crops


def pool_phrase(tokens: Tensor, mask: Tensor) -> Tensor:
    """:func:`pool_words` of all tokens (B,N,D) that ``mask`` (B,N) has: (B,D)."""
    count = mask.sum(1)
    return pool_words(tokens, mask, torch.stack([torch.zeros_like(count), count], 1)[:, None])[:, 0]
