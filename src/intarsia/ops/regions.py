"""Pooling below the whole image: boxes from a patch map, phrases from token states."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from intarsia.errors import ShapeError


def pool_regions(
    patches: Tensor, grid: tuple[int, int], boxes: Tensor, picture: Tensor, size: tuple[int, int]
) -> Tensor:
    """RoIAlign(1x1, aligned) of the normalised dense map, normalised again (METHODS.md 3 and 5).

    Args:
        patches: (B,M,D) dense patches, row by row.
        grid: (h, w) with h * w = M.
        boxes: (R,4) of all pictures together, in pixels of the backbone's input.
        picture: (R,) int64, which of the B pictures each box lies in.
        size: (height, width) of the backbone's input in pixels.

    Returns:
        (R,D) normalised.
    """
    h, w = grid
    if patches.ndim != 3 or patches.shape[1] != h * w:
        raise ShapeError(f"patches {tuple(patches.shape)} do not fill a {h} x {w} grid")
    wide = torch.promote_types(patches.dtype, torch.float32)
    dense = F.normalize(patches.to(wide), dim=-1).mT.unflatten(2, (h, w))
    to_grid = boxes.new_tensor([w / size[1], h / size[0]]).repeat(2)
    rois = torch.cat([picture[:, None].to(dense.dtype), (boxes * to_grid).to(dense.dtype)], 1)
    pooled = roi_align(dense, rois, output_size=(1, 1), aligned=True)
    return F.normalize(pooled.flatten(1), dim=-1)


def pool_spans(
    tokens: Tensor, mask: Tensor, offsets: Tensor, spans: Tensor, caption: Tensor
) -> tuple[Tensor, Tensor]:
    """A phrase is the mean of the normalised states of the tokens its span touches (METHODS.md 3).

    Args:
        tokens: (B,N,D) token states.
        mask: (B,N) bool, real tokens.
        offsets: (B,N,2) character span of each token.
        spans: (P,2) character span of each phrase.
        caption: (P,) int64, which of the B captions each phrase stands in.

    Returns:
        (P,D) normalised, and (P,) bool: False where no token lies in the span (its caption was
        cut before it); such rows are zero.
    """
    where = offsets[caption]
    inside = (where[..., 0] < spans[:, 1:]) & (where[..., 1] > spans[:, :1]) & mask[caption]
    weights = inside.to(tokens.dtype)
    states = F.normalize(tokens, dim=-1)[caption]
    pooled = (weights[:, None] @ states)[:, 0] / weights.sum(1, keepdim=True).clamp(min=1)
    return F.normalize(pooled, dim=-1), inside.any(1)
