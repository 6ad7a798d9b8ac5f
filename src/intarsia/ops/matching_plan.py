"""Which rows of both sides make the blocks that a GPU matches at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from intarsia.ops.devices import memory_of
from intarsia.ops.matching_parts import Side

WORTH_TRIMMING = 2**31  # similarities, from which on padding is cut off
ALIGNED = 8  # columns of a block come in multiples of this, or no product is fast


class Rows(NamedTuple):
    """Some rows of a side, side by side: K vectors of each of r rows, padding being zero."""

    rows: slice  # in the order of the plan; r may be more, aligned
    width: int  # K
    counts: Tensor  # (r,) int64
    places: Tensor  # (K * r,) where the vectors come from; one past the last for padding
    vectors: Tensor  # (K * r, D)


class Plan(NamedTuple):
    """In which order a side's rows are taken, and how many vectors the longest of a block has."""

    side: Side
    order: Tensor | None  # None = as they come
    sizes: list[int] | None  # in that order; None = all ``side.most``
    ragged: bool

    def blocks(self, vectors: int, *, aligned: int = 1) -> Iterator[Rows]:
        """Rows with about ``vectors`` vectors together, in blocks of equal numbers of rows."""
        row, end = 0, len(self.side.counts)
        if self.sizes is not None:
            end = sum(size > 0 for size in self.sizes)
        while row < end:
            width = self.side.most if self.sizes is None else self.sizes[row]
            left, most = end - row, max(1, vectors // width)
            num = -(-left // -(-left // most))
            num = min(left, -(-num // aligned) * aligned)
            yield self._gathered(slice(row, row + num), width, aligned)
            row += num

    def _gathered(self, rows: slice, width: int, aligned: int) -> Rows:
        side, num = self.side, rows.stop - rows.start
        starts, counts = side.starts, side.counts
        if self.order is not None:
            starts, counts = starts[self.order[rows]], counts[self.order[rows]]
        else:
            starts, counts = starts[rows], counts[rows]
        extra = -num % aligned
        starts, counts = F.pad(starts, (0, extra)), F.pad(counts, (0, extra))
        k = torch.arange(width, device=starts.device)[:, None]
        places = (starts + k).flatten()
        if not (self.ragged or extra):
            return Rows(rows, width, counts, places, side.vectors.index_select(0, places))
        real = (k < counts).flatten()
        places = places.where(real, len(side.vectors))
        vectors = side.vectors.index_select(0, places.clamp(max=len(side.vectors) - 1))
        return Rows(rows, width, counts, places, vectors.masked_fill_(~real[:, None], 0))


def plans(x: Side, y: Side) -> tuple[Plan, Plan]:
    known = x.most and y.most
    if known and x.even and y.even:
        return Plan(x, None, None, False), Plan(y, None, None, False)
    if known and x.most * y.most * len(x.counts) * len(y.counts) < WORTH_TRIMMING:
        return Plan(x, None, None, True), Plan(y, None, None, True)
    orders = [side.counts.argsort(descending=True, stable=True) for side in (x, y)]
    sizes = torch.cat([x.counts[orders[0]], y.counts[orders[1]]]).tolist()
    x_sizes, y_sizes = sizes[: len(x.counts)], sizes[len(x.counts) :]
    return (
        Plan(x._replace(most=max(x_sizes, default=0)), orders[0], x_sizes, True),
        Plan(y._replace(most=max(y_sizes, default=0)), orders[1], y_sizes, True),
    )


def both_blocks(x: Plan, y: Plan) -> tuple[Iterator[Rows], list[Rows]]:
    """Blocks of similarities as square as they can be, of a small part of the device's memory."""
    vectors = x.side.vectors
    numbers = max(2**16, memory_of(vectors.device) // 128 // vectors.itemsize)
    x_vectors = len(x.side.counts) * max(1, x.side.most)
    columns = max(math.isqrt(numbers), numbers // max(1, x_vectors))
    y_blocks = list(y.blocks(columns, aligned=ALIGNED))
    widest = max((len(b.vectors) for b in y_blocks), default=1)
    return x.blocks(max(1, numbers // widest)), y_blocks


def padded(columns: int) -> int:
    return -(-columns // ALIGNED) * ALIGNED
