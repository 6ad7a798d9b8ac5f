"""Contrastive losses whose logits exist only one block at a time.

All of them are symmetric InfoNCE with multi-positives (Khosla et al. 2020, L_out): for a row with
positives P the loss is ``logsumexp(all) - mean over P of the logit``. The log-sum-exps of both
directions come from one blockwise pass (:func:`log_sum_exps`), the positive logits from one dot
product a row, so nothing of size rows x columns is ever kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from intarsia.errors import ShapeError, unknown

BLOCK_NUMBERS = 2**22  # logits held at once: 16 MiB in float32
Negatives = Literal["batch", "patches", "both"]


def info_nce(x: Tensor, y: Tensor, scale: Tensor, positives: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE of two sets of vectors (CLIP, Radford et al. 2021).

    Args:
        x: (A,D) normalised vectors.
        y: (C,D) normalised vectors.
        scale: scalar, the inverse temperature.
        positives: (A,C) bool; None = the diagonal. Rows and columns without a positive do not
            count, but remain negatives of the others.

    Returns:
        Scalar: the mean over rows plus the mean over columns, halved.
    """
    _check_pair(x, y, ndim=2)
    rows, columns = log_sum_exps(x[None], y[None], scale)
    row_targets, column_targets = _positive_logits(x[None], y[None], scale, positives)
    row_loss, column_loss = (rows - row_targets)[0], (columns - column_targets)[0]
    if positives is None:
        return (row_loss.mean() + column_loss.mean()) / 2
    return (
        _mean_where(row_loss, positives.any(1)) + _mean_where(column_loss, positives.any(0))
    ) / 2


def patchwise_contrastive(
    patches: Tensor,
    slots: Tensor,
    scale: Tensor,
    positives: Tensor | None = None,
    negatives: Negatives = "batch",
) -> Tensor:
    """The local loss of `registers`: InfoNCE at each of the M positions, summed over positions.

    At position i the slot i of each caption meets the patch i of each picture; the matching pair
    is the positive (METHODS.md section 1; Local Alignment, section 2).

    Args:
        patches: (B,M,D) normalised patches of the pictures.
        slots: (B,M,D) normalised slots of the captions.
        scale: scalar, the inverse temperature.
        positives: (B,B) bool, rows = pictures, columns = captions; None = the diagonal.
        negatives: ``batch``: position i of the other pairs, as in the paper; ``patches``: the
            other positions of the same pair; ``both``: their union.

    Returns:
        Scalar: sum over i of the symmetric cross-entropy at position i.
    """
    _check_pair(patches, slots, ndim=3)
    if patches.shape != slots.shape:
        raise ShapeError(f"patches {tuple(patches.shape)} and slots {tuple(slots.shape)} differ")
    if negatives not in ("batch", "patches", "both"):
        raise ShapeError(unknown("negatives", negatives, ("batch", "patches", "both")))
    if negatives == "patches":
        positives = None
    x, y = patches.transpose(0, 1), slots.transpose(0, 1)  # (M,B,D)
    if negatives == "batch":
        rows, columns = log_sum_exps(x, y, scale)
    else:
        skip = negatives == "both"
        rows, columns = (lse.mT for lse in log_sum_exps(patches, slots, scale, skip_diagonal=skip))
    if negatives == "both":
        batch_rows, batch_columns = log_sum_exps(x, y, scale)
        rows = torch.logaddexp(rows, batch_rows)
        columns = torch.logaddexp(columns, batch_columns)
    row_targets, column_targets = _positive_logits(x, y, scale, positives)
    return ((rows - row_targets).mean(1) + (columns - column_targets).mean(1)).sum() / 2


def log_sum_exps(
    x: Tensor, y: Tensor, scale: Tensor, *, skip_diagonal: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-sum-exps of ``scale * x @ y.T`` over its columns and over its rows, group by group.

    Args:
        x: (G,A,D).
        y: (G,C,D).
        scale: scalar.
        skip_diagonal: leave entry (a, a) out of both sums.

    Returns:
        (G,A) over the C columns, and (G,C) over the A rows, float32 or better. Extra memory is
        one block of logits, forward and backward (the backward pass computes them again).
    """
    with torch.autocast(x.device.type, enabled=False):
        rows, columns = _LogSumExps.apply(x, y, scale, skip_diagonal)
    return rows, columns


class _LogSumExps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Tensor, skip_diagonal: bool
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(x.dtype, torch.float32)
        rows = x.new_empty(x.shape[:2], dtype=wide)
        columns = y.new_full(y.shape[:2], -torch.inf, dtype=wide)
        for block in _blocks(x, y):
            logits = _logits(x, y, scale, block, skip_diagonal)
            groups, part = block
            rows[groups, part] = logits.logsumexp(2)
            columns[groups] = torch.logaddexp(columns[groups], logits.logsumexp(1))
        ctx.save_for_backward(x, y, scale, rows, columns)
        ctx.skip_diagonal = skip_diagonal
        return rows, columns

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, y, scale, rows, columns = ctx.saved_tensors
        grad_rows, grad_columns = grads
        grad_x = torch.empty_like(x, dtype=rows.dtype)
        grad_y = torch.zeros_like(y, dtype=rows.dtype)
        grad_scale = rows.new_zeros(())
        for block in _blocks(x, y):
            groups, part = block
            logits = _logits(x, y, scale, block, ctx.skip_diagonal)
            weights = (logits - rows[groups, part, None]).exp_() * grad_rows[groups, part, None]
            weights += (logits - columns[groups, None]).exp_() * grad_columns[groups, None]
            products = logits.masked_fill_(logits.isneginf(), 0.0) if ctx.skip_diagonal else logits
            grad_scale += torch.dot(weights.flatten(), products.flatten())
            grad_x[groups, part] = weights @ y[groups].to(weights.dtype)
            grad_y[groups] += weights.mT @ x[groups, part].to(weights.dtype)
        return (
            (grad_x * scale).to(x.dtype),
            (grad_y * scale).to(y.dtype),
            (grad_scale / scale).to(scale.dtype),
            None,
        )


Block = tuple[slice, slice]  # groups, rows of x


def _blocks(x: Tensor, y: Tensor) -> Iterator[Block]:
    groups, a, c = x.shape[0], x.shape[1], y.shape[1]
    rows_at_once = max(1, min(a, BLOCK_NUMBERS // max(1, c)))
    groups_at_once = max(1, BLOCK_NUMBERS // max(1, rows_at_once * c))
    for group in range(0, groups, groups_at_once):
        for row in range(0, a, rows_at_once):
            yield slice(group, group + groups_at_once), slice(row, row + rows_at_once)


def _logits(x: Tensor, y: Tensor, scale: Tensor, block: Block, skip_diagonal: bool) -> Tensor:
    groups, part = block
    wide = torch.promote_types(x.dtype, torch.float32)
    logits = (x[groups, part].to(wide) @ y[groups].to(wide).mT).mul_(scale)
    if skip_diagonal:
        width = min(logits.shape[1], max(0, logits.shape[2] - part.start))
        index = torch.arange(width, device=x.device)
        logits[:, index, index + part.start] = -torch.inf
    return logits


def _positive_logits(
    x: Tensor, y: Tensor, scale: Tensor, positives: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Mean logit of each row's, and of each column's, positives: (G,A) and (G,C)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    x, y = x.to(wide), y.to(wide)
    if positives is None:
        diagonal = (x * y).sum(2) * scale
        return diagonal, diagonal
    if positives.shape != (x.shape[1], y.shape[1]):
        raise ShapeError(
            f"positives {tuple(positives.shape)} for {x.shape[1]} rows and {y.shape[1]} columns"
        )
    rows = (x * _mean_of_positives(positives, y)).sum(2) * scale
    columns = (y * _mean_of_positives(positives.mT, x)).sum(2) * scale
    return rows, columns


def _mean_of_positives(positives: Tensor, vectors: Tensor) -> Tensor:
    """(A,C) bool and (G,C,D) -> (G,A,D): the mean of each row's positives.

    The product is linear, so a mean of vectors stands for the mean of their logits. Almost every
    row has one positive and is a plain gather; only the others need the matrix product.
    """
    counts = positives.sum(1)
    first = positives.int().argmax(1)
    means = vectors[:, first]
    several = (counts > 1).nonzero()[:, 0]
    if len(several):
        weights = positives[several].to(vectors.dtype) / counts[several, None]
        means = means.index_copy(1, several, weights @ vectors)
    return means


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def _check_pair(x: Tensor, y: Tensor, *, ndim: int) -> None:
    if x.ndim != ndim or y.ndim != ndim or x.shape[-1] != y.shape[-1]:
        raise ShapeError(
            f"expected two {ndim}-d tensors of one width, got {tuple(x.shape)}, {tuple(y.shape)}"
        )
    if x.dtype != y.dtype or x.device != y.device:
        raise ShapeError(f"{x.dtype} on {x.device} cannot meet {y.dtype} on {y.device}")
