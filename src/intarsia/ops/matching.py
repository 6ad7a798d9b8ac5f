"""Fine-grained matching: the mean over one side's vectors of the best match on the other side."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from intarsia.errors import ShapeError

BLOCK_NUMBERS = 2**24  # similarities held at once: 64 MiB in float32


def fine_grained_scores(
    x: Tensor, y: Tensor, x_mask: Tensor | None = None, y_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """FGM of every picture with every text, both directions from one pass (ComAlign eq. 2).

    Padding counts in neither the max nor the mean. A side whose mask is all False scores 0 against
    everything, in both directions, and gets no gradient.

    Args:
        x: (I,P,D) vectors of the pictures.
        y: (T,N,D) vectors of the texts.
        x_mask: (I,P) bool, True = real; None = all real.
        y_mask: (T,N) bool.

    Returns:
        ``i2t`` (I,T): mean over the P of x of the max over the N of y;
        ``t2i`` (I,T): mean over the N of y of the max over the P of x.

    Raises:
        ShapeError: widths, dtypes or mask shapes do not fit.
    """
    x_mask = _checked_mask("x", x, x_mask)
    y_mask = _checked_mask("y", y, y_mask)
    if x.shape[2] != y.shape[2] or x.dtype != y.dtype or x.device != y.device:
        raise ShapeError(
            f"x {tuple(x.shape)} {x.dtype} on {x.device} cannot meet "
            f"y {tuple(y.shape)} {y.dtype} on {y.device}"
        )
    texts_at_once = max(1, BLOCK_NUMBERS // max(1, x.shape[0] * x.shape[1] * y.shape[1]))
    blocks = [
        _block(x, y[start : start + texts_at_once], x_mask, y_mask[start : start + texts_at_once])
        for start in range(0, y.shape[0], texts_at_once)
    ]
    if not blocks:
        empty = x.new_zeros((x.shape[0], 0))
        return empty, empty
    return torch.cat([b[0] for b in blocks], 1), torch.cat([b[1] for b in blocks], 1)


def _block(x: Tensor, y: Tensor, x_mask: Tensor, y_mask: Tensor) -> tuple[Tensor, Tensor]:
    if torch.is_grad_enabled() and (x.requires_grad or y.requires_grad):
        scores: tuple[Tensor, Tensor] = checkpoint(
            _block_scores, x, y, x_mask, y_mask, use_reentrant=False
        )
        return scores
    return _block_scores(x, y, x_mask, y_mask)


def _block_scores(x: Tensor, y: Tensor, x_mask: Tensor, y_mask: Tensor) -> tuple[Tensor, Tensor]:
    (images, p, d), (texts, n, _) = x.shape, y.shape
    similarity = (x.reshape(-1, d) @ y.reshape(-1, d).mT).view(images, p, texts, n)
    over_y = similarity.masked_fill(~y_mask, -torch.inf).amax(3)  # (I,P,T)
    over_x = similarity.masked_fill(~x_mask[:, :, None, None], -torch.inf).amax(1)  # (I,T,N)
    i2t = _masked_mean(over_y, x_mask[:, :, None], 1)
    t2i = _masked_mean(over_x, y_mask[None], 2)
    real = x_mask.any(1)[:, None] & y_mask.any(1)[None]
    return i2t.masked_fill(~real, 0.0), t2i.masked_fill(~real, 0.0)


def _masked_mean(values: Tensor, mask: Tensor, dim: int) -> Tensor:
    finite = values.masked_fill(~mask | values.isneginf(), 0.0)
    return finite.sum(dim) / mask.sum(dim).clamp(min=1)


def _checked_mask(side: str, vectors: Tensor, mask: Tensor | None) -> Tensor:
    if vectors.ndim != 3:
        raise ShapeError(f"{side} must be (rows, vectors, width), not {tuple(vectors.shape)}")
    if mask is None:
        return vectors.new_ones(vectors.shape[:2], dtype=torch.bool)
    if mask.shape != vectors.shape[:2] or mask.dtype != torch.bool:
        raise ShapeError(
            f"{side}_mask is {tuple(mask.shape)} {mask.dtype}, "
            f"but {side} {tuple(vectors.shape)} needs {tuple(vectors.shape[:2])} torch.bool"
        )
    return mask
