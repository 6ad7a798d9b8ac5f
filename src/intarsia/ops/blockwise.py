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

from intarsia.ops import contrast_blocks
from intarsia.ops.comparisons import Comparison, Scores
from intarsia.ops.contrast_blocks import Costs, Labels, Sums
from intarsia.ops.devices import has_triton, memory_of
from intarsia.ops.ranks import Ranks

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
    """

    comparison: Comparison
    groups: int
    x: Labels
    y: Labels
    ranks: Ranks
    x_mask: Tensor | None = None
    y_mask: Tensor | None = None

    def peers(self, y: Tensor) -> Iterator[_Peer]:
        masks = repeat(None) if self.y_mask is None else self.ranks.each(self.y_mask)
        start = 0
        for rank, (part, mask) in enumerate(zip(self.ranks.each(y), masks, strict=False)):
            yield _Peer(rank, start, part, mask)
            start += len(part)

    def blocks(self, peer: _Peer) -> Iterator[_Block]:
        """The blocks of this rank's rows and one rank's columns, as square as they can be."""
        num_rows, num_columns = len(self.x.ids), len(peer.y)
        at_once = max(1, _numbers(peer.y.device) // max(1, self.groups))
        a = max(1, min(math.isqrt(at_once), num_rows))
        c = at_once // a
        for row in range(0, num_rows, a):
            for column in range(0, num_columns, c):
                rows = slice(row, min(row + a, num_rows))
                columns = slice(column, min(column + c, num_columns))
                yield _Block.of(self, rows, columns, peer.start)

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

    A row's positives cost its share (:class:`Labels`) each, a column's likewise; this rank's part
    of the sum over rows, columns and groups. Extra memory is a block of logits and one of their
    gradients, and with several ranks the columns of two others. A process alone keeps a table of a
    single block for the backward pass; all other blocks are computed again.

    Args:
        scale: scalar, 1 / temperature.
        others: log-sum-exp of further negatives of the rows (G,A) and of all columns (G,C).
    """
    with torch.autocast(x.device.type, enabled=False):
        loss: Tensor = _Contrast.apply(x, y, scale, *(others or (None, None)), table)
        return loss


def negatives_of(x: Tensor, y: Tensor, scale: Tensor, table: Table) -> Sums:
    """Log-sum-exp of each row's (G,A) and each column's (G,C) negatives, for :func:`contrast`."""
    with torch.autocast(x.device.type, enabled=False):
        return Sums(*_Negatives.apply(x, y, scale, table))


class _Negatives(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, scale: Tensor, table: Table) -> tuple[Tensor, ...]:
        sums, ctx.kept = _sums(x, y, scale, table, any(ctx.needs_input_grad))
        ctx.table = table
        ctx.save_for_backward(x, y, scale, *sums)
        return tuple(sums)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, *sums = ctx.saved_tensors
        sizes = [grad.abs().flatten() for grad in grads]
        unit = torch.cat([*sizes, sizes[0].new_full((1,), 1e-30)]).amax()
        pulls = Sums(grads[0] / unit, grads[1] / unit)
        table = replace(ctx.table, x=ctx.table.x.free(), y=ctx.table.y.free())
        pulled = _pulled(x, y, scale, table, Sums(*sums), pulls, ctx.kept)
        return *(part * unit.to(part.dtype) for part in pulled), None


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
    ) -> Tensor:
        sums, ctx.kept = _sums(x, y, scale, table, any(ctx.needs_input_grad))
        if other_rows is not None and other_columns is not None:
            sums = Sums(sums.rows.logaddexp(other_rows), sums.columns.logaddexp(other_columns))
        sums = Sums(sums.rows, table.ranks.logsumexp(sums.columns[None]))
        costs = _costs(x, y, scale, table, sums, ctx.kept)
        row_shares, column_shares = (side.shares.to(sums.rows.dtype) for side in (table.x, table.y))
        grads = Sums(
            costs.row_pulls * row_shares, table.ranks.sum(costs.column_pulls) * column_shares
        )
        ctx.table = table
        ctx.save_for_backward(x, y, scale, other_rows, other_columns, *sums, *grads)
        return (costs.rows * row_shares).sum() + (costs.columns * column_shares).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, other_rows, other_columns, *parts = ctx.saved_tensors
        sums, pulls = Sums(*parts[:2]), Sums(*parts[2:])
        grad_x, grad_y, grad_scale = _pulled(x, y, scale, ctx.table, sums, pulls, ctx.kept)
        others = [
            None if other is None else (grads[0] * pull * _exp_gap(other, total)).to(other.dtype)
            for other, total, pull in zip((other_rows, other_columns), sums, pulls, strict=True)
        ]
        return grad_x * grads[0], grad_y * grads[0], grad_scale * grads[0], *others, None


class _Kept(NamedTuple):
    """The only block of a table, with what its gradient needs."""

    scores: Scores
    block: _Block


def _sums(
    x: Tensor, y: Tensor, scale: Tensor, table: Table, learns: bool
) -> tuple[Sums, _Kept | None]:
    """The log-sum-exp of all negatives, and the table itself if it is a single block."""
    wide = torch.promote_types(x.dtype, torch.float32)
    rows = x.new_full((table.groups, len(x)), -torch.inf, dtype=wide)
    columns = x.new_full((table.groups, len(table.y.ids)), -torch.inf, dtype=wide)
    engine, kept = _engine(wide, x.device), None
    for peer in table.peers(y):
        for block in table.blocks(peer):
            whole = block.rows == slice(0, len(x)) and block.columns == slice(0, len(y))
            keep = whole and table.ranks.size == 1
            scores = table.compare(x, peer, block, pull=keep and learns)
            by_row, by_column = engine.negatives(scores, scale, block.x, block.y)
            kept = _Kept(scores, block) if keep else None
            for found, part in (
                (rows[:, block.rows], by_row),
                (columns[:, block.columns], by_column),
            ):
                torch.logaddexp(found, part, out=found)
    return Sums(rows, columns), kept


def _costs(
    x: Tensor, y: Tensor, scale: Tensor, table: Table, sums: Sums, kept: _Kept | None
) -> Costs:
    """What the positives cost, this rank's rows against the columns of all."""
    engine = _engine(sums.rows.dtype, x.device)
    total = Costs.none(sums)
    for peer in table.peers(y):
        for block in table.blocks(peer):
            if x.device.type == "cpu" and not block.x.meets(block.y):
                continue
            scores = table.compare(x, peer, block, pull=False) if kept is None else kept.scores
            part = engine.positives(
                scores, scale, block.x, block.y, sums.of(block.rows, block.columns)
            )
            total.add(part, block.rows, block.columns)
    return total


def _pulled(
    x: Tensor, y: Tensor, scale: Tensor, table: Table, sums: Sums, pulls: Sums, kept: _Kept | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the rows, of this rank's columns and of the scale, by those of ``sums``
    (``pulls``) and by the shares of the positives."""
    engine = _engine(sums.rows.dtype, x.device)
    grad_x = torch.zeros_like(x, dtype=sums.rows.dtype)
    grad_y = torch.zeros_like(y, dtype=sums.rows.dtype)
    grad_scale = torch.zeros((), dtype=sums.rows.dtype, device=x.device)
    for peer in table.peers(y):
        alone = table.ranks.size == 1
        theirs = grad_y if alone else torch.zeros_like(peer.y, dtype=sums.rows.dtype)
        for block in table.blocks(peer):
            scores = table.compare(x, peer, block, pull=True) if kept is None else kept.scores
            weights = engine.weights(
                scores,
                scale,
                block.x,
                block.y,
                sums.of(block.rows, block.columns),
                pulls.of(block.rows, block.columns),
            )
            scores.pull(weights.i2t, weights.t2i, grad_x[block.rows], theirs[block.own_columns])
            grad_scale += weights.by_scale
        theirs = theirs if alone else table.ranks.sum_at(peer.rank, theirs)
        if peer.rank == table.ranks.rank:
            grad_y = theirs
    factor = scale.to(grad_x.dtype)
    grad_x, grad_y = grad_x.mul_(factor), grad_y.mul_(factor)
    return grad_x.to(x.dtype), grad_y.to(y.dtype), grad_scale.to(scale.dtype)


def _exp_gap(part: Tensor, total: Tensor) -> Tensor:
    """exp(part - total), 0 where there is nothing."""
    return (part - total.masked_fill(total.isneginf(), 0.0)).exp()


def _engine(wide: torch.dtype, device: torch.device) -> ModuleType:
    if device.type == "cuda" and wide == torch.float32 and has_triton():
        from intarsia.ops import contrast_gpu

        return contrast_gpu
    return contrast_blocks


def _numbers(device: torch.device) -> int:
    return BLOCK_NUMBERS if device.type == "cpu" else memory_of(device) // 512 // 4
