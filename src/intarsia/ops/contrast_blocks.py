"""What the contrastive losses ask of one block of scores, in torch operators.

Every function takes the block's scores (G,a,c), the scale, and the labels of its rows and columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from intarsia.ops.comparisons import Scores


class Labels(NamedTuple):
    """Of rows or of columns (A,): equal ``ids`` are positives, each of which costs ``shares``.

    Where ``real`` is False there is nothing, neither a positive nor a negative; None = all real.
    """

    ids: Tensor
    shares: Tensor
    real: Tensor | None

    def of(self, rows: slice) -> Labels:
        return Labels(
            self.ids[rows], self.shares[rows], None if self.real is None else self.real[rows]
        )

    def free(self) -> Labels:
        """The same, with positives that cost nothing."""
        return self._replace(shares=torch.zeros_like(self.shares))

    def meets(self, other: Labels) -> bool:
        return bool(torch.isin(self.ids, other.ids).any())


class Sums(NamedTuple):
    """Log-sum-exp of negatives, or their gradients: of rows (G,A) and of columns (G,C)."""

    rows: Tensor
    columns: Tensor

    def of(self, rows: slice, columns: slice) -> Sums:
        return Sums(self.rows[:, rows], self.columns[:, columns])


class Costs(NamedTuple):
    """Sums over the positives of each row (G,A) and of each column (G,C): ``softplus(L - l)`` and
    its derivative by L."""

    rows: Tensor
    row_pulls: Tensor
    columns: Tensor
    column_pulls: Tensor

    @staticmethod
    def none(sums: Sums) -> Costs:
        rows, columns = torch.zeros_like(sums.rows), torch.zeros_like(sums.columns)
        return Costs(rows, rows.clone(), columns, columns.clone())

    def add(self, part: Costs, rows: slice, columns: slice) -> None:
        for place, total, found in zip((rows, rows, columns, columns), self, part, strict=True):
            total[:, place] += found


class Weights(NamedTuple):
    """The gradient of a block's logits (G,a,c), where both directions are one table also ``t2i``
    is ``i2t``; and of the scale, a scalar."""

    i2t: Tensor
    t2i: Tensor
    by_scale: Tensor


def negatives(scores: Scores, scale: Tensor, x: Labels, y: Labels) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of the negatives of each row (G,a) and of each column (G,c), -inf for none."""
    hidden = x.ids[:, None] == y.ids
    if (real := _real(x, y)) is not None:
        hidden |= ~real
    by_row = _logits(scores.i2t, scale).masked_fill_(hidden, -torch.inf)
    by_column = by_row
    if scores.t2i is not scores.i2t:
        by_column = _logits(scores.t2i, scale).masked_fill_(hidden, -torch.inf)
    columns = by_column.logsumexp(1)
    return _last_logsumexp_(by_row), columns


def positives(scores: Scores, scale: Tensor, x: Labels, y: Labels, sums: Sums) -> Costs:
    """What the positives cost, given the ``sums`` of all their negatives."""
    r, c = _positives(x, y)
    costs = Costs.none(sums)
    for side, where, table, total, pulls in (
        (sums.rows, r, scores.i2t, costs.rows, costs.row_pulls),
        (sums.columns, c, scores.t2i, costs.columns, costs.column_pulls),
    ):
        gap = side[:, where] - _logits(table[:, r, c], scale)
        total.index_add_(1, where, gap.logaddexp(torch.zeros_like(gap)))
        pulls.index_add_(1, where, gap.sigmoid())
    return costs


def weights(
    scores: Scores, scale: Tensor, x: Labels, y: Labels, sums: Sums, pulls: Sums
) -> Weights:
    """The gradient of the block's logits by those of ``sums`` and by the positives' shares."""
    r, c = _positives(x, y)
    real = _real(x, y)
    tables = []
    for side, pull, shares, where, table, axis in (
        (sums.rows, pulls.rows, x.shares, r, scores.i2t, 2),
        (sums.columns, pulls.columns, y.shares, c, scores.t2i, 1),
    ):
        base = side.masked_fill(side.isneginf(), 0.0)  # nothing there: no weights
        logits = _logits(table, scale)
        hits = (side[:, where] - logits[:, r, c]).sigmoid() * shares[where]
        weight = logits.sub_(base.unsqueeze(axis)).exp_().mul_(pull.unsqueeze(axis))
        weight[:, r, c] = -hits
        tables.append(weight if real is None else weight.masked_fill_(~real, 0.0))
    i2t, t2i = tables
    if scores.i2t is scores.t2i:
        i2t = t2i = i2t.add_(t2i)
        by_scale = _dot(i2t, scores.i2t)
    else:
        by_scale = _dot(i2t, scores.i2t) + _dot(t2i, scores.t2i)
    if scores.unit != 1:
        i2t, t2i = i2t * scores.unit, t2i * scores.unit
    return Weights(i2t.to(scores.kind), t2i.to(scores.kind), by_scale)


def _logits(scores: Tensor, scale: Tensor) -> Tensor:
    wide = torch.promote_types(scores.dtype, torch.float32)
    return scores * scale.to(wide).view(1)  # one axis, or it would not widen bfloat16


def _real(x: Labels, y: Labels) -> Tensor | None:
    if x.real is None or y.real is None:
        return None
    return x.real[:, None] & y.real


def _positives(x: Labels, y: Labels) -> tuple[Tensor, Tensor]:
    """The rows (H,) and columns (H,) of the block's positives."""
    same = x.ids[:, None] == y.ids
    if (real := _real(x, y)) is not None:
        same &= real
    r, c = same.nonzero(as_tuple=True)
    return r, c


def _last_logsumexp_(x: Tensor) -> Tensor:
    """Log-sum-exp over the last axis, spoiling x."""
    top = x.amax(-1, keepdim=True)
    top = top.masked_fill_(top.isneginf(), 0.0)
    return (x.sub_(top).exp_().sum(-1).log_()).add_(top[..., 0])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return a.flatten().dot(b.to(a.dtype).flatten())
