"""The engine of the contrastive losses: tables of logits that exist one block at a time.

A table compares every row (a picture) with every column (a text), G times over. A positive pair
costs its row ``softplus(L - l)``: l is its logit, L the log-sum-exp of the row's negatives. So two
passes over blocks make a loss: the first finds L of all rows and columns, the second what the
positives cost. The backward pass computes each block once more and pulls its gradient through it.
What a single block is asked is in :mod:`intarsia.ops.contrast_blocks`, and for a GPU in
:mod:`intarsia.ops.contrast_gpu`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import repeat
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from intarsia.ops import contrast_blocks
from intarsia.ops.comparisons import AlignedScores, Comparison
from intarsia.ops.contrast_blocks import Costs, Labelled, Labels, Sums
from intarsia.ops.devices import has_triton, memory_of, on
from intarsia.ops.ranks import Ranks
from intarsia.ops.scores import Scores

BLOCK_NUMBERS = 2**22  # logits held at once on a CPU: 16 MiB in float32


@dataclass(frozen=True)
class Table:
    """What is compared with what, apart from the vectors themselves.

    Args:
        comparison: how rows are compared with columns.
        groups: G, the number of independent tables.
        x: the rows of this rank.
        y: the columns of all ranks.
        ranks: the processes whose columns are compared with the rows of this one.
        x_mask: which of a row's vectors are real; None = all.
        y_mask: which of a column's vectors (of this rank) are real.
        learnt: weights that the comparison is made with, to be given gradients.
        numbers: that a comparison makes for one logit, at most.
    """

    comparison: Comparison
    groups: int
    x: Labels
    y: Labels
    ranks: Ranks
    x_mask: Tensor | None = None
    y_mask: Tensor | None = None
    learnt: tuple[Tensor, ...] = ()
    numbers: int = 1

    def peers(self, y: Tensor) -> Iterator[_Peer]:
        masks = repeat(None) if self.y_mask is None else self.ranks.each(self.y_mask)
        start = 0
        for rank, (part, mask) in enumerate(zip(self.ranks.each(y), masks, strict=False)):
            yield _Peer(rank, start, part, mask)
            start += len(part)

    def blocks(self, peer: _Peer) -> Iterator[_Block]:
        """The blocks of this rank's rows and one rank's columns, as square as they can be."""
        num_rows, num_columns = len(self.x.ids), len(peer.y)
        at_once = max(1, _numbers(peer.y.device) // max(1, self.groups * self.numbers))
        a = _even(max(1, min(math.isqrt(at_once), num_rows)), num_rows)
        c = _even(max(1, at_once // a), num_columns)
        for row in range(0, num_rows, a):
            for column in range(0, num_columns, c):
                rows = slice(row, min(row + a, num_rows))
                columns = slice(column, min(column + c, num_columns))
                yield _Block.of(self, rows, columns, peer.start)

    def only_block(self, y: Tensor) -> tuple[_Peer, _Block] | None:
        """The block that is the whole table, if one is."""
        if self.ranks.size > 1:
            return None
        peer = _Peer(0, 0, y, self.y_mask)
        first = next(self.blocks(peer), None)
        whole = first is not None and len(first.x.ids) == len(self.x.ids)
        if first is None or not whole or len(first.y.ids) != len(y):
            return None
        return peer, first

    def compare(self, x: Tensor, peer: _Peer, block: _Block, *, pull: bool) -> Scores:
        masks = self.x_mask, peer.mask
        return self.comparison(
            x[block.rows],
            peer.y[block.own_columns],
            None if masks[0] is None else masks[0][block.rows],
            None if masks[1] is None else masks[1][block.own_columns],
            pull=pull,
        )


class _Peer(NamedTuple):
    """One rank's columns and where they start among all."""

    rank: int
    start: int
    y: Tensor
    mask: Tensor | None


class _Block(NamedTuple):
    rows: slice
    columns: slice  # among those of all ranks
    own_columns: slice  # among those of their rank
    x: Labels
    y: Labels

    @staticmethod
    def of(table: Table, rows: slice, own_columns: slice, start: int) -> _Block:
        columns = slice(start + own_columns.start, start + own_columns.stop)
        return _Block(rows, columns, own_columns, table.x.of(rows), table.y.of(columns))


def contrast(
    x: Tensor, y: Tensor, scale: Tensor, table: Table, others: Sums | None = None
) -> Tensor:
    """What this rank's rows ``x`` (A,...) and the columns ``y`` of all ranks cost one another.

    What each positive costs is said by :class:`Labels`; this is this rank's part of the sum over
    rows, columns and groups. Extra memory is a block of logits and one of their gradients, and with
    several ranks the columns of two others. A process alone keeps a table of a single block for the
    backward pass; all other blocks are computed again.

    Args:
        scale: scalar, 1 / temperature.
        others: log-sum-exp of further negatives of the rows (G,A) and of all columns (G,C).
    """
    with torch.autocast(x.device.type, enabled=False), on(x.device):
        loss: Tensor = _Contrast.apply(x, y, scale, *(others or (None, None)), table, *table.learnt)
        return loss


def negatives_of(x: Tensor, y: Tensor, scale: Tensor, table: Table) -> Sums:
    """Log-sum-exp of each row's (G,A) and each column's (G,C) negatives, for :func:`contrast`."""
    with torch.autocast(x.device.type, enabled=False), on(x.device):
        return Sums(*_Negatives.apply(x, y, scale, table))


def labelled(x: Labelled, y: Labelled, wide: torch.dtype) -> tuple[Labels, Labels]:
    """Rows, which may have several ids, and columns with the numbers of their positives."""
    counts = _engine(wide, x[0].device).counts
    alike = x[0] is y[0] and x[1] is y[1]
    x, y = ((ids.contiguous(), None if real is None else real.contiguous()) for ids, real in (x, y))
    each = _each_id(x)
    with on(x[0].device):
        x_counts, x_num = counts(*each, y)
        y_counts, y_num = (x_counts, x_num) if alike else counts(*y, each)
    if x[0].ndim == 2:
        x_counts = x_counts.view_as(x[0]).sum(1, dtype=x_counts.dtype)
        x_num = (x_counts > 0).sum(dtype=x_num.dtype)
    return Labels(x[0], x_counts, x_num, x[1]), Labels(y[0], y_counts, y_num, y[1])


def _each_id(x: Labelled) -> Labelled:
    """As if each of a row's ids were a row of its own; they are all different, but for -1."""
    ids, real = x
    if ids.ndim == 1:
        return x
    return ids.flatten(), None if real is None else real.repeat_interleave(ids.shape[1])


class _Negatives(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, scale: Tensor, table: Table) -> tuple[Tensor, ...]:
        sums, ctx.kept = _sums(x, y, scale, table, any(ctx.needs_input_grad))
        ctx.table = table
        ctx.save_for_backward(x, y, scale, *sums)
        return tuple(sums)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, *sums = ctx.saved_tensors
        sizes = [grad.abs().flatten() for grad in grads]
        unit = torch.cat([*sizes, sizes[0].new_full((1,), 1e-30)]).amax()
        pulls = Sums(grads[0] / unit, grads[1] / unit)
        table = replace(ctx.table, x=ctx.table.x.free(), y=ctx.table.y.free())
        kept, ctx.kept = ctx.kept, None
        return *_pulled(x, y, scale, unit, table, Sums(*sums), pulls, kept)[0], None


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        scale: Tensor,
        other_rows: Tensor | None,
        other_columns: Tensor | None,
        table: Table,
        *_: Tensor,
    ) -> Tensor:
        sums, ctx.kept = _sums(x, y, scale, table, any(ctx.needs_input_grad))
        if other_rows is not None and other_columns is not None:
            sums = Sums(sums.rows.logaddexp(other_rows), sums.columns.logaddexp(other_columns))
        if table.ranks.size > 1:
            sums = Sums(sums.rows, table.ranks.logsumexp(sums.columns[None]))
        costs = _costs(x, y, scale, table, sums, ctx.kept)
        pulls = costs.row_pulls, table.ranks.sum(costs.column_pulls)
        ctx.table = table
        ctx.save_for_backward(x, y, scale, other_rows, other_columns, *sums, *pulls)
        return costs.rows.sum() + costs.columns.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, other_rows, other_columns, *parts = ctx.saved_tensors
        sums, pulls = Sums(*parts[:2]), Sums(*parts[2:])
        kept, ctx.kept = ctx.kept, None
        own, learnt = _pulled(x, y, scale, grads[0], ctx.table, sums, pulls, kept)
        others = [
            None if other is None else (grads[0] * pull * _exp_gap(other, total)).to(other.dtype)
            for other, total, pull in zip((other_rows, other_columns), sums, pulls, strict=True)
        ]
        return *own, *others, None, *learnt


def _sums(
    x: Tensor, y: Tensor, scale: Tensor, table: Table, learns: bool
) -> tuple[Sums, Scores | None]:
    """The log-sum-exp of all negatives, and the scores if a single block holds them."""
    wide = torch.promote_types(x.dtype, torch.float32)
    engine = _engine(wide, x.device)
    if (only := table.only_block(y)) is not None:
        scores = table.compare(x, *only, pull=learns)
        return Sums(*engine.negatives(scores, scale, only[1].x, only[1].y)), scores
    rows = x.new_full((table.groups, len(x)), -torch.inf, dtype=wide)
    columns = x.new_full((table.groups, len(table.y.ids)), -torch.inf, dtype=wide)
    for peer in table.peers(y):
        for block in table.blocks(peer):
            scores = table.compare(x, peer, block, pull=False)
            so_far = Sums(rows[:, block.rows], columns[:, block.columns])
            engine.add_negatives(scores, scale, block.x, block.y, so_far)
    return Sums(rows, columns), None


def _costs(
    x: Tensor, y: Tensor, scale: Tensor, table: Table, sums: Sums, kept: Scores | None
) -> Costs:
    """What the positives cost, this rank's rows against the columns of all."""
    engine = _engine(sums.rows.dtype, x.device)
    if kept is not None:
        costs: Costs = engine.positives(kept, scale, table.x, table.y, sums)
        return costs
    total, everything = Costs.none(sums), slice(0, len(x))
    for peer in table.peers(y):
        if table.comparison is AlignedScores and engine is not contrast_blocks:
            columns = slice(peer.start, peer.start + len(peer.y))
            theirs = table.y.of(columns), sums.of(everything, columns)
            part = engine.aligned_positives(x, peer.y, scale, table.x, *theirs)
            total.add(part, everything, columns)
            continue
        for block in table.blocks(peer):
            if x.device.type == "cpu" and not block.x.meets(block.y):
                continue
            scores = table.compare(x, peer, block, pull=False)
            part = engine.positives(
                scores, scale, block.x, block.y, sums.of(block.rows, block.columns)
            )
            total.add(part, block.rows, block.columns)
    return total


def _pulled(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    grad: Tensor,
    table: Table,
    sums: Sums,
    pulls: Sums,
    kept: Scores | None,
) -> tuple[tuple[Tensor, Tensor, Tensor], list[Tensor]]:
    """``grad`` times the gradients of the rows, of this rank's columns and of the scale, and of
    what the comparison has learnt, by those of ``sums`` (``pulls``) and by what the positives
    cost."""
    wide = sums.rows.dtype
    engine = _engine(wide, x.device)
    factor = scale.to(wide).view(()) * grad.to(wide)
    within, after = _in_range(factor, x.dtype)
    if (only := table.only_block(y)) is not None:
        scores = table.compare(x, *only, pull=True) if kept is None else kept
        found = engine.weights(scores, scale, table.x, table.y, sums, pulls, within)
        grad_x, grad_y = scores.pull(found.i2t, found.t2i, wide if after is not None else x.dtype)
        by_scale, learnt = [found.by_scale], list(scores.by_learnt)
    else:
        grad_x, grad_y = torch.zeros_like(x, dtype=wide), torch.zeros_like(y, dtype=wide)
        by_scale = [torch.zeros(1, dtype=wide, device=x.device)]
        learnt = [torch.zeros_like(weight) for weight in table.learnt]
        for peer in table.peers(y):
            alone = table.ranks.size == 1
            theirs = grad_y if alone else torch.zeros_like(peer.y, dtype=wide)
            for block in table.blocks(peer):
                scores = table.compare(x, peer, block, pull=True)
                parts = (side.of(block.rows, block.columns) for side in (sums, pulls))
                found = engine.weights(scores, scale, block.x, block.y, *parts, within)
                grads = grad_x[block.rows], theirs[block.own_columns]
                scores.add_pull(found.i2t, found.t2i, *grads)
                for total, part in zip(learnt, scores.by_learnt, strict=True):
                    total += part
                by_scale.append(found.by_scale)
            theirs = theirs if alone else table.ranks.sum_at(peer.rank, theirs)
            if peer.rank == table.ranks.rank:
                grad_y = theirs
    if after is not None:
        grad_x, grad_y = grad_x * after, grad_y * after
        learnt = [(weight * after).to(weight.dtype) for weight in learnt]
    grad_scale = torch.cat(by_scale).sum() * grad
    grad_scale = grad_scale.to(scale.dtype).view_as(scale)
    return (grad_x.to(x.dtype), grad_y.to(y.dtype), grad_scale), learnt


def _in_range(factor: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """What the gradient of the logits is multiplied by before it is rounded to ``dtype``, and what
    its products are afterwards: without a factor it is at most 1."""
    if dtype != torch.float16:
        return factor, None
    within = torch.full_like(factor, 2.0**14)
    return within, factor / within


def _exp_gap(part: Tensor, total: Tensor) -> Tensor:
    """exp(part - total), 0 where there is nothing."""
    return (part - total.masked_fill(total.isneginf(), 0.0)).exp()


def _engine(wide: torch.dtype, device: torch.device) -> ModuleType:
    """Where blocks of scores are looked at: in torch operators or by a GPU's kernels."""
    if device.type == "cuda" and wide == torch.float32 and has_triton():
        from intarsia.ops import contrast_gpu

        return contrast_gpu
    return contrast_blocks


def _even(most: int, total: int) -> int:
    """The size of a block, all being about as large and, if there is room, a multiple of 128.

    >>> _even(9000, 32768), _even(3, 10)
    (8192, 3)
    """
    size = -(-total // max(1, -(-total // most)))
    return max(1, min(most, -(-size // 128) * 128)) if most >= 128 else most


def _numbers(device: torch.device) -> int:
    return BLOCK_NUMBERS if device.type == "cpu" else memory_of(device) // 320 // 4
