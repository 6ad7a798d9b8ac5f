"""Which pairs a step sees: a pure function of (seed, epoch, step, rank), so resuming is exact."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from intarsia.errors import ConfigError


class PairSampler(Sampler[list[int]]):
    """Batches of pair indices from step ``first`` to step ``last``, a new shuffle each epoch.

    Every rank sees its own share of the same global batch. The pairs that do not fill a last batch
    wait for the next epoch's shuffle.

    Args:
        num_pairs: size of the data set.
        batch_size: pairs a rank and micro-step.
        seed: of the shuffles.
        first, last: the micro-steps to yield, ``last`` exclusive.
        rank, world: this process among all.
        flip: give half of the pairs, drawn anew each epoch, as their mirror images: with
            ``num_pairs`` added to their index.

    Raises:
        ConfigError: one global batch is more than the data set holds.
    """

    def __init__(
        self,
        num_pairs: int,
        batch_size: int,
        *,
        seed: int,
        first: int = 0,
        last: int,
        rank: int = 0,
        world: int = 1,
        flip: bool = False,
    ) -> None:
        self.steps_per_epoch = num_pairs // (batch_size * world)
        if self.steps_per_epoch == 0:
            raise ConfigError(
                f"a batch of {batch_size} on each of {world} ranks is more than {num_pairs} pairs"
            )
        self.num_pairs, self.batch_size, self.seed = num_pairs, batch_size, seed
        self.first, self.last, self.rank, self.world = first, last, rank, world
        self.flip = flip

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = -1, torch.empty(0)
        for step in range(self.first, self.last):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                order = torch.randperm(self.num_pairs, generator=generator)
                if self.flip:
                    coins = torch.randint(2, order.shape, generator=generator)
                    order += self.num_pairs * coins
            start = (step % self.steps_per_epoch * self.world + self.rank) * self.batch_size
            yield order[start : start + self.batch_size].tolist()
