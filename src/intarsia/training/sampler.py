"""Which pairs a step sees: a pure function of (seed, epoch, step, rank), so resuming is exact."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from intarsia.errors import ConfigError
from intarsia.ops.true_texts import TrueTexts

logger = logging.getLogger(__name__)

LONELY = 0.01  # of all pairs, that may find nothing to be told from without a word


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


def check_batch(batch_size: int, world: int) -> None:
    """One pair alone is contrasted with nothing: its loss is 0, however many steps are added up.

    Raises:
        ConfigError: the ranks' batches are a single pair.
    """
    if batch_size * world < 2:
        raise ConfigError(
            f"trainer.batch_size is {batch_size} on {world} device: a batch of one pair has no "
            "negatives, so that nothing is learnt (accumulate does not help, since the pairs of "
            "its micro-steps do not meet). Set batch_size to at least 2; with grad_cache_chunk a "
            "large batch takes the memory of a small one"
        )


def check_negatives(truth: TrueTexts, batch_size: int) -> None:
    """Whether pairs find others to be told from; says so if many of them will often not.

    Args:
        truth: of all captions of the data set, each a pair with its picture.
        batch_size: pairs of a batch, of all ranks together.

    Raises:
        ConfigError: no text is untrue of any picture: there is but one, or all say the same.
    """
    if truth.num_true.amin() == len(truth.said):
        kind = "are of one picture" if len(truth.true) < 2 else "say the same of every picture"
        raise ConfigError(
            f"all {len(truth.said)} captions of the data set {kind}: there are no negatives, so "
            "that nothing is learnt. Choose data whose pictures have captions of their own"
        )
    share = lonely_share(truth, batch_size)
    if share > LONELY:
        logger.warning(
            "about %.0f%% of the pairs will find no negative in their batch of %d, since so many "
            "captions are of one picture or shared by several: a larger trainer.batch_size helps",
            *(100 * share, batch_size),
        )


def lonely_share(truth: TrueTexts, batch_size: int) -> float:
    """The expected share of pairs for whose picture every text of their batch is true.

    >>> from intarsia.ops.true_texts import true_texts
    >>> two_each = true_texts(["a", "b", "c", "d"], torch.tensor([0, 0, 1, 1]), 2)
    >>> round(lonely_share(two_each, 2), 3), lonely_share(two_each, 3)
    (0.333, 0.0)
    """
    others, drawn = len(truth.said) - 1, min(batch_size, len(truth.said)) - 1
    alike = truth.num_true[truth.owner] - 1  # of the others
    ways = _log_ways(alike.clamp(min=drawn), drawn) - _log_ways(torch.tensor(others), drawn)
    return float(ways.exp().where(alike >= drawn, 0.0).mean())


def _log_ways(num: Tensor, drawn: int) -> Tensor:
    """Logarithm of the number of ways to choose ``drawn`` of ``num``, up to a constant."""
    num = num.double()
    return (num + 1).lgamma() - (num - drawn + 1).lgamma()
