"""What the contrastive losses ask of one block of scores, in torch operators.

Every function takes the block's scores (G,a,c), the scale, and the labels of its rows and columns.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from intarsia.ops.scores import Scores
from intarsia.ops.true_texts import meets

Labelled = tuple[Tensor, Tensor | None]  # ids and which rows or columns are real


class Labels(NamedTuple):
    """Of rows or of columns (A,): equal ``ids`` are positives of one another.

    Rows may have several ids, (A,K): a column with any of them is a positive. Each positive costs a
    half over ``counts``, the positives that a row has among all columns, and over ``num``, the rows
    that have any. Where ``real`` is False there is nothing, neither a positive nor a negative;
    None = all real. A column that has any of the ``left_out`` of a row, (A,K) of rows and (C,) of
    columns, is no negative of it; None = all but positives are.
    """

    ids: Tensor
    counts: Tensor
    num: Tensor
    real: Tensor | None
    left_out: Tensor | None = None

    def of(self, rows: slice) -> Labels:
        real, left_out = (
            None if side is None else side[rows] for side in (self.real, self.left_out)
        )
        return Labels(self.ids[rows], self.counts[rows], self.num, real, left_out)

    def free(self) -> Labels:
        """The same, with positives that cost nothing."""
        return self._replace(counts=torch.zeros_like(self.counts))

    def meets(self, other: Labels) -> bool:
        return bool(torch.isin(other.ids, self.ids).any())

    def shares(self, dtype: torch.dtype) -> Tensor:
        share = 0.5 / (self.counts.to(dtype) * self.num)
        return share.masked_fill(self.counts == 0, 0.0)


class Sums(NamedTuple):
    """Log-sum-exp of negatives, or their gradients: of rows (G,A) and of columns (G,C)."""

    rows: Tensor
    columns: Tensor

    def of(self, rows: slice, columns: slice) -> Sums:
        return Sums(self.rows[:, rows], self.columns[:, columns])


class Costs(NamedTuple):
    """What the positives of each row (G,A) and of each column (G,C) cost, share times
    ``softplus(L - l)``, and the derivative by L."""

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
    """The gradients of a block's logits (G,a,c), one and the same where the scores are; and
    summands (K,) of that of the scale."""

    i2t: Tensor
    t2i: Tensor
    by_scale: Tensor


def counts(ids: Tensor, real: Tensor | None, others: Labelled) -> tuple[Tensor, Tensor]:
    """How many of ``others`` have each id (A,), and how many ids any have.

    >>> counts(torch.tensor([1, 2, 7]), None, (torch.tensor([2, 1, 2]), None))
    (tensor([1, 2, 0]), tensor(2))
    """
    ordered, order = others[0].sort()
    there = torch.ones_like(ordered) if others[1] is None else others[1].long()[order]
    before = F.pad(there.cumsum(0), (1, 0))
    last, first = (torch.searchsorted(ordered, ids, right=right) for right in (True, False))
    found = before[last] - before[first]
    if real is not None:
        found = found.masked_fill(~real, 0)
    return found, (found > 0).sum()


def negatives(scores: Scores, scale: Tensor, x: Labels, y: Labels) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of the negatives of each row (G,a) and of each column (G,c), -inf for none."""
    by_row = _negative_logits(scores.i2t, scale, x, y)
    by_column = by_row
    if scores.t2i is not scores.i2t:
        by_column = _negative_logits(scores.t2i, scale, x, y)
    columns = by_column.logsumexp(1)
    return _last_logsumexp_(by_row), columns


def add_negatives(scores: Scores, scale: Tensor, x: Labels, y: Labels, total: Sums) -> None:
    """Add them to the ``total`` of earlier blocks."""
    for so_far, part in zip(total, negatives(scores, scale, x, y), strict=True):
        torch.logaddexp(so_far, part, out=so_far)


def positives(scores: Scores, scale: Tensor, x: Labels, y: Labels, sums: Sums) -> Costs:
    """What the positives cost, given the ``sums`` of all their negatives."""
    r, c = _positives(x, y)
    costs = Costs.none(sums)
    for side, labels, where, table, total, pulls in (
        (sums.rows, x, r, scores.i2t, costs.rows, costs.row_pulls),
        (sums.columns, y, c, scores.t2i, costs.columns, costs.column_pulls),
    ):
        share = labels.shares(side.dtype)[where]
        gap = side[:, where] - _logits(table[:, r, c], scale)
        total.index_add_(1, where, gap.logaddexp(torch.zeros_like(gap)) * share)
        pulls.index_add_(1, where, gap.sigmoid() * share)
    return costs


def weights(
    scores: Scores,
    scale: Tensor,
    x: Labels,
    y: Labels,
    sums: Sums,
    pulls: Sums,
    factor: Tensor,
) -> Weights:
    """``factor`` times the gradient of the block's logits by those of ``sums`` and by what the
    positives cost."""
    r, c = _positives(x, y)
    real, left_out = _real(x, y), _left_out(x, y)
    tables = []
    for side, pull, labels, where, table, axis in (
        (sums.rows, pulls.rows, x, r, scores.i2t, 2),
        (sums.columns, pulls.columns, y, c, scores.t2i, 1),
    ):
        base = side.masked_fill(side.isneginf(), 0.0)  # nothing there: no weights
        logits = _logits(table, scale)
        share = labels.shares(side.dtype)[where]
        hits = (side[:, where] - logits[:, r, c]).sigmoid() * share
        weight = logits.sub_(base.unsqueeze(axis)).exp_().mul_(pull.unsqueeze(axis))
        if left_out is not None:
            weight.masked_fill_(left_out, 0.0)
        weight[:, r, c] = -hits
        tables.append(weight if real is None else weight.masked_fill_(~real, 0.0))
    i2t, t2i = tables
    if scores.i2t is scores.t2i:
        i2t = t2i = i2t.add_(t2i)
        by_scale = _dot(i2t, scores.i2t)
    else:
        by_scale = _dot(i2t, scores.i2t) + _dot(t2i, scores.t2i)
        t2i = t2i.mul_(factor).to(scores.kind)
    i2t = i2t.mul_(factor).to(scores.kind)
    return Weights(i2t, i2t if scores.i2t is scores.t2i else t2i, by_scale.view(1))


def _logits(scores: Tensor, scale: Tensor) -> Tensor:
    wide = torch.promote_types(scores.dtype, torch.float32)
    return scores * scale.to(wide).view(1)  # one axis, or it would not widen bfloat16


def _negative_logits(scores: Tensor, scale: Tensor, x: Labels, y: Labels) -> Tensor:
    """-inf at the positives, at what is left out and where there is nothing."""
    logits = _logits(scores, scale)
    if (left_out := _left_out(x, y)) is not None:
        logits.masked_fill_(left_out, -torch.inf)
    if (real := _real(x, y)) is not None:
        return logits.masked_fill_(meets(x.ids, y.ids) | ~real, -torch.inf)
    r, c = _positives(x, y)
    logits[:, r, c] = -torch.inf
    return logits


def _real(x: Labels, y: Labels) -> Tensor | None:
    if x.real is None or y.real is None:
        return None
    return x.real[:, None] & y.real


def _left_out(x: Labels, y: Labels) -> Tensor | None:
    if x.left_out is None or y.left_out is None:
        return None
    return meets(x.left_out, y.left_out)


def _positives(x: Labels, y: Labels) -> tuple[Tensor, Tensor]:
    """The rows (H,) and columns (H,) of the block's positives."""
    same = meets(x.ids, y.ids)
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
