"""What the passes of fine-grained matching hand to one another."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

Maxima = tuple[Tensor, Tensor]


class Side(NamedTuple):
    """Rows of vectors: row r has ``counts[r]`` of ``vectors`` (V,D), from ``starts[r]`` on.

    ``most`` is what no row has more of, 0 where only the device knows; ``even``: all have as many.
    """

    vectors: Tensor
    starts: Tensor
    counts: Tensor
    most: int
    even: bool


class Room:
    """Memory for one block of similarities, used again for each: fresh pages cost as much as
    the reductions."""

    def __init__(self, like: Tensor) -> None:
        self.numbers = like.new_empty(0)

    def similarity(self, a: Block, b: Block) -> Tensor:
        rows, columns = len(a.vectors), len(b.vectors)
        if rows * columns > len(self.numbers):
            self.numbers = self.numbers.new_empty(rows * columns)
        out = self.numbers[: rows * columns].view(rows, columns)
        torch.mm(a.vectors, b.vectors.mT, out=out)
        return out.view(*a.places.shape, *b.places.shape)


class Block(NamedTuple):
    """Some rows of a side, side by side: K vectors of each of r rows."""

    rows: slice  # in the side's order by count
    vectors: Tensor  # (K * r, D)
    places: Tensor  # (K,r) where they come from
    weights: Tensor  # (K,r) 1 / count, 0 for padding
    even: bool  # every row has K vectors


class Results(NamedTuple):
    """What a forward pass fills in, rows of both sides in order of their number of vectors."""

    i2t: Tensor  # (I,T) float32 or better
    t2i: Tensor  # (I,T)
    first_n: Tensor  # (P,I,T) uint8: where each maximum over N stands first
    first_p: Tensor  # (I,N,T) uint8: where each maximum over P does; both empty if not wanted
