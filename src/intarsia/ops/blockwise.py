"""The engine of the contrastive losses: tables of logits that exist one block at a time.

A table compares every row (a picture) with every column (a text). Whatever the comparison, a
contrastive loss needs three things of it: the log-sum-exp of each row's and of each column's
negatives, and the logits of the positives. :func:`contrast` finds them in one pass over blocks;
the backward pass computes each block again and pulls the gradients through it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor

from intarsia.ops.ranks import Ranks

BLOCK_NUMBERS = 2**22  # logits held at once: 16 MiB in float32

Scores = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Table:
    """What is compared with what, apart from the vectors themselves.

    Args:
        scores: (a,...) rows, (c,...) columns and their masks -> the scores i2t and t2i, (G,a,c);
            one and the same tensor where the direction makes no difference.
        groups: G, the number of independent tables.
        num_columns: C, the columns of all ranks together.
        pairs: (2,S) int64, a row of this rank and a column of all ranks: the positives.
        ranks: the processes whose columns are compared with the rows of this one.
        x_mask: which of a row's vectors are real; None = all.
        y_mask: which of a column's vectors are real.
    """

    scores: Scores
    groups: int
    num_columns: int
    pairs: Tensor
    ranks: Ranks
    x_mask: Tensor | None = None
    y_mask: Tensor | None = None

    def peers(self, y: Tensor) -> Iterator[_Peer]:
        masks = repeat(None) if self.y_mask is None else self.ranks.each(self.y_mask)
        start = 0
        for rank, (part, mask) in enumerate(zip(self.ranks.each(y), masks, strict=False)):
            yield _Peer(rank, start, part, mask)
            start += len(part)

    def blocks(self, num_rows: int, peer: _Peer) -> Iterator[_Block]:
        """The blocks of this rank's rows and one rank's columns, as square as they can be."""
        num_columns = len(peer.y)
        pairs_at_once = max(1, BLOCK_NUMBERS // max(1, self.groups))
        a = max(1, min(math.isqrt(pairs_at_once), num_rows))
        c = pairs_at_once // a
        for row in range(0, num_rows, a):
            for column in range(0, num_columns, c):
                rows = slice(row, min(row + a, num_rows))
                columns = slice(column, min(column + c, num_columns))
                yield _Block.of(rows, columns, peer.start, self.pairs)

    def compare(self, x: Tensor, peer: _Peer, block: _Block, *, track: bool) -> _Scored:
        part_x = x[block.rows].detach().requires_grad_(track)
        part_y = peer.y[block.own_columns].detach().requires_grad_(track)
        x_mask = None if self.x_mask is None else self.x_mask[block.rows]
        y_mask = None if peer.mask is None else peer.mask[block.own_columns]
        with torch.set_grad_enabled(track):
            return _Scored(part_x, part_y, *self.scores(part_x, part_y, x_mask, y_mask))


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
    inside: Tensor  # (H,) which of the S positives lie in the block,
    r: Tensor  # (H,) in which of its rows
    c: Tensor  # (H,) and columns

    @staticmethod
    def of(rows: slice, own_columns: slice, start: int, pairs: Tensor) -> _Block:
        columns = slice(start + own_columns.start, start + own_columns.stop)
        r, c = pairs
        here = (r >= rows.start) & (r < rows.stop) & (c >= columns.start) & (c < columns.stop)
        inside = here.nonzero()[:, 0]
        return _Block(
            rows, columns, own_columns, inside, r[inside] - rows.start, c[inside] - columns.start
        )


class _Scored(NamedTuple):
    """A block's scores and the leaves they were computed from."""

    x: Tensor
    y: Tensor
    i2t: Tensor
    t2i: Tensor


class Contrast(NamedTuple):
    """What a loss needs of a table, float32 or better.

    ``rows`` (G,A): log-sum-exp of each row's negatives over the columns of all ranks. ``columns``
    (G,C): of the negatives of each column of all ranks, but over this rank's rows only. -inf where
    there are none. ``i2t`` and ``t2i`` (G,S): the logits of the positives.
    """

    rows: Tensor
    columns: Tensor
    i2t: Tensor
    t2i: Tensor


def contrast(x: Tensor, y: Tensor, scale: Tensor, table: Table) -> Contrast:
    """Contrast the rows ``x`` (A,...) with the columns ``y`` of all ranks at 1 / temperature.

    Extra memory is one block of logits, forward and backward, and with several ranks the columns
    of one other rank and their gradient. A process alone keeps a table of a single block for the
    backward pass; all other blocks are computed again.
    """
    with torch.autocast(x.device.type, enabled=False):
        return Contrast(*_Contrast.apply(x, y, scale, table))


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, scale: Tensor, table: Table) -> tuple[Tensor, ...]:
        wide = torch.promote_types(x.dtype, torch.float32)
        found = Contrast(
            rows=x.new_full((table.groups, len(x)), -torch.inf, dtype=wide),
            columns=x.new_full((table.groups, table.num_columns), -torch.inf, dtype=wide),
            i2t=x.new_empty((table.groups, table.pairs.shape[1]), dtype=wide),
            t2i=x.new_empty((table.groups, table.pairs.shape[1]), dtype=wide),
        )
        ctx.kept = None
        for peer in table.peers(y):
            for block in table.blocks(len(x), peer):
                whole = block.rows == slice(0, len(x)) and block.columns == slice(0, len(y))
                keep = whole and table.ranks.size == 1 and any(ctx.needs_input_grad)
                scored = table.compare(x, peer, block, track=keep)
                ctx.kept = (scored, block) if keep else None
                _enter(found, scored, scale, block)
        ctx.table = table
        ctx.save_for_backward(x, y, scale, found.rows, found.columns)
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, y, scale, rows, columns = ctx.saved_tensors
        table: Table = ctx.table
        pull = _Pull(rows, columns, scale.to(rows.dtype), Contrast(*grads))
        if ctx.kept is not None:
            return *pull.back(*ctx.kept), None
        grad_x = torch.zeros_like(x, dtype=rows.dtype)
        grad_y = torch.empty_like(y, dtype=rows.dtype)
        grad_scale = torch.zeros_like(scale)
        for peer in table.peers(y):
            grad_theirs = torch.zeros_like(peer.y, dtype=rows.dtype)
            for block in table.blocks(len(x), peer):
                scored = table.compare(x, peer, block, track=True)
                part_x, part_y, part_scale = pull.back(scored, block)
                grad_x[block.rows] += part_x
                grad_theirs[block.own_columns] += part_y
                grad_scale += part_scale
            grad_theirs = table.ranks.sum_at(peer.rank, grad_theirs)
            if peer.rank == table.ranks.rank:
                grad_y = grad_theirs
        return grad_x.to(x.dtype), grad_y.to(y.dtype), grad_scale, None


def _enter(found: Contrast, scored: _Scored, scale: Tensor, block: _Block) -> None:
    """Add a block's part to what was found so far."""
    by_row, hits = _logits(scored.i2t, scale, block)
    found.i2t[:, block.inside] = hits
    by_column = by_row
    if scored.t2i is not scored.i2t:
        by_column, hits = _logits(scored.t2i, scale, block)
    found.t2i[:, block.inside] = hits
    columns, rows = found.columns[:, block.columns], found.rows[:, block.rows]
    torch.logaddexp(columns, by_column.logsumexp(1), out=columns)
    torch.logaddexp(rows, _last_logsumexp_(by_row), out=rows)


def _logits(scores: Tensor, scale: Tensor, block: _Block) -> tuple[Tensor, Tensor]:
    """The negatives' logits (G,a,c), -inf at the positives, and the positives' (G,H)."""
    wide = torch.promote_types(scores.dtype, torch.float32)
    logits = scores.detach() * scale.to(wide).view(1)  # one axis, or it would not widen bfloat16
    hits = logits[:, block.r, block.c]
    logits[:, block.r, block.c] = -torch.inf
    return logits, hits


def _last_logsumexp_(x: Tensor) -> Tensor:
    """Log-sum-exp over the last axis, spoiling x."""
    top = x.amax(-1, keepdim=True)
    top = top.masked_fill_(top.isneginf(), 0.0)
    return (x.sub_(top).exp_().sum(-1).log_()).add_(top[..., 0])


class _Pull:
    """The way back from a table's sums and hits to the vectors of its blocks."""

    def __init__(self, rows: Tensor, columns: Tensor, scale: Tensor, grad: Contrast) -> None:
        self.scale = scale
        self.minus_rows = -rows.masked_fill(rows.isneginf(), 0.0)  # nothing there: no weights
        self.minus_columns = -columns.masked_fill(columns.isneginf(), 0.0)
        self.grad = Contrast(*(part * scale for part in grad))

    def back(self, scored: _Scored, block: _Block) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of the block's rows, of its columns and of the scale."""
        r, c = (slice(None), block.rows, None), (slice(None), None, block.columns)
        grad = self.grad
        weights = [
            self._weights(scored.i2t, self.minus_rows[r], grad.rows[r], grad.i2t, block),
            self._weights(scored.t2i, self.minus_columns[c], grad.columns[c], grad.t2i, block),
        ]
        scores = [scored.i2t, scored.t2i]
        if scored.i2t is scored.t2i:
            weights, scores = [weights[0].add_(weights[1])], scores[:1]
        grad_x, grad_y = torch.autograd.grad(
            scores,
            [scored.x, scored.y],
            [w.to(s.dtype) for w, s in zip(weights, scores, strict=True)],
            retain_graph=True,  # a kept block may be asked again
        )
        pairs = zip(weights, scores, strict=True)
        total = torch.stack([w.flatten().dot(s.detach().to(w.dtype).flatten()) for w, s in pairs])
        return grad_x, grad_y, total.sum() / self.scale

    def _weights(
        self, scores: Tensor, minus: Tensor, grad_sums: Tensor, grad_hits: Tensor, block: _Block
    ) -> Tensor:
        weights = torch.addcmul(minus, scores.detach(), self.scale.view(1)).exp_().mul_(grad_sums)
        weights[:, block.r, block.c] = grad_hits[:, block.inside]
        return weights
