"""Contrastive losses whose logits exist only one block at a time.

All of them are symmetric InfoNCE with several positives. A positive pair (r, c) costs row r
``-log(exp(l_rc) / (exp(l_rc) + sum over r's negatives of exp))``: other positives of the row are
left out of the denominator, so that they are truly no negatives. (Supervised contrastive loss L_out
of Khosla et al. 2020 keeps them there; two captions of one picture then push each other away just
as strangers do.) A row's positives are averaged, then the rows.

The log-sum-exps of the negatives come from one blockwise pass (:func:`log_sum_exps`), the positive
logits from one dot product each, so nothing of size rows x columns is ever kept.
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
    pairs = _pairs(positives, len(x), len(y), x.device)
    rows, columns = log_sum_exps(x[None], y[None], scale, pairs)
    return _pair_losses(x[None], y[None], scale, pairs, rows, columns)[0]


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
    batch, m, _ = patches.shape
    if patches.shape != slots.shape:
        raise ShapeError(f"patches {tuple(patches.shape)} and slots {tuple(slots.shape)} differ")
    if negatives not in ("batch", "patches", "both"):
        raise ShapeError(unknown("negatives", negatives, ("batch", "patches", "both")))
    pairs = _pairs(None if negatives == "patches" else positives, batch, batch, patches.device)
    x, y = patches.transpose(0, 1), slots.transpose(0, 1)  # (M,B,D)
    found = []
    if negatives != "patches":
        found.append(log_sum_exps(x, y, scale, pairs))
    if negatives != "batch":
        same_position = _pairs(None, m, m, patches.device)
        rows, columns = log_sum_exps(patches, slots, scale, same_position)
        found.append((rows.mT, columns.mT))
    rows, columns = found[0]
    for more_rows, more_columns in found[1:]:
        rows, columns = rows.logaddexp(more_rows), columns.logaddexp(more_columns)
    return _pair_losses(x, y, scale, pairs, rows, columns).sum()


def log_sum_exps(
    x: Tensor, y: Tensor, scale: Tensor, skip: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Log-sum-exps of ``scale * x @ y.T`` over its columns and over its rows, group by group.

    Args:
        x: (G,A,D).
        y: (G,C,D).
        scale: scalar.
        skip: (2,S) int64, the (row, column) entries left out of both sums in every group.

    Returns:
        (G,A) over the C columns, and (G,C) over the A rows, float32 or better; -inf where nothing
        is left. Extra memory is one block of logits, forward and backward (the backward pass
        computes them again).
    """
    if skip is None:
        skip = torch.zeros(2, 0, dtype=torch.long, device=x.device)
    with torch.autocast(x.device.type, enabled=False):
        rows, columns = _LogSumExps.apply(x, y, scale, skip)
    return rows, columns


def _pairs(positives: Tensor | None, rows: int, columns: int, device: torch.device) -> Tensor:
    """(2,S): row and column of each positive."""
    if positives is None:
        if rows != columns:
            raise ShapeError(f"{rows} rows and {columns} columns have no diagonal: give positives")
        return torch.arange(rows, device=device).expand(2, -1)
    if positives.shape != (rows, columns):
        raise ShapeError(f"positives {tuple(positives.shape)} for {rows} rows, {columns} columns")
    return positives.nonzero().mT


def _pair_losses(
    x: Tensor, y: Tensor, scale: Tensor, pairs: Tensor, rows: Tensor, columns: Tensor
) -> Tensor:
    """(G,): the symmetric loss of each group, from its positives and its negatives' sums."""
    r, c = pairs
    logits = (x[:, r].to(rows.dtype) * y[:, c].to(rows.dtype)).sum(2) * scale  # (G,S)
    by_row = (rows[:, r].logaddexp(logits) - logits) * _shares(r, rows.shape[1])
    by_column = (columns[:, c].logaddexp(logits) - logits) * _shares(c, columns.shape[1])
    return (by_row + by_column).sum(1) / 2


def _shares(index: Tensor, size: int) -> Tensor:
    """What each positive counts: one share of its row, each row with positives alike."""
    counts = torch.bincount(index, minlength=size)
    return 1.0 / (counts[index] * counts.count_nonzero().clamp(min=1))


class _LogSumExps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Tensor, skip: Tensor
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(x.dtype, torch.float32)
        rows = x.new_empty(x.shape[:2], dtype=wide)
        columns = y.new_full(y.shape[:2], -torch.inf, dtype=wide)
        for groups, part in _blocks(x, y):
            logits = _logits(x, y, scale, skip, groups, part)
            rows[groups, part] = logits.logsumexp(2)
            columns[groups] = torch.logaddexp(columns[groups], logits.logsumexp(1))
        ctx.save_for_backward(x, y, scale, skip, rows, columns)
        return rows, columns

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, y, scale, skip, rows, columns = ctx.saved_tensors
        grad_rows, grad_columns = grads
        rows = rows.masked_fill(rows.isneginf(), 0.0)  # nothing to share out: every weight is 0
        columns = columns.masked_fill(columns.isneginf(), 0.0)
        grad_x = torch.empty_like(x, dtype=rows.dtype)
        grad_y = torch.zeros_like(y, dtype=rows.dtype)
        for groups, part in _blocks(x, y):
            logits = _logits(x, y, scale, skip, groups, part)
            weights = (logits - rows[groups, part, None]).exp_() * grad_rows[groups, part, None]
            weights += logits.sub_(columns[groups, None]).exp_() * grad_columns[groups, None]
            grad_x[groups, part] = weights @ y[groups].to(weights.dtype)
            grad_y[groups] += weights.mT @ x[groups, part].to(weights.dtype)
        grad_scale = (grad_x * x).sum()  # sum of weights * cosines
        return (
            (grad_x * scale).to(x.dtype),
            (grad_y * scale).to(y.dtype),
            grad_scale.to(scale.dtype),
            None,
        )


def _blocks(x: Tensor, y: Tensor) -> Iterator[tuple[slice, slice]]:
    """Which groups, and which rows of x, are held at once."""
    groups, a, c = x.shape[0], x.shape[1], y.shape[1]
    rows_at_once = max(1, min(a, BLOCK_NUMBERS // max(1, c)))
    groups_at_once = max(1, BLOCK_NUMBERS // max(1, rows_at_once * c))
    for group in range(0, groups, groups_at_once):
        for row in range(0, a, rows_at_once):
            yield slice(group, group + groups_at_once), slice(row, row + rows_at_once)


def _logits(
    x: Tensor, y: Tensor, scale: Tensor, skip: Tensor, groups: slice, part: slice
) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    logits = (x[groups, part].to(wide) @ y[groups].to(wide).mT).mul_(scale)
    r, c = skip[:, (skip[0] >= part.start) & (skip[0] < part.stop)]
    logits[:, r - part.start, c] = -torch.inf
    return logits


def _check_pair(x: Tensor, y: Tensor, *, ndim: int) -> None:
    if x.ndim != ndim or y.ndim != ndim or x.shape[-1] != y.shape[-1]:
        raise ShapeError(
            f"expected two {ndim}-d tensors of one width, got {tuple(x.shape)}, {tuple(y.shape)}"
        )
    if x.dtype != y.dtype or x.device != y.device:
        raise ShapeError(f"{x.dtype} on {x.device} cannot meet {y.dtype} on {y.device}")
