"""The protocol ``retrieval``: Recall@1/5/10 and median rank, from pictures to texts and back.

Any caption of a picture is a hit for it. Ties count against the model: a wrong item that scores
as high as the correct one is ranked before it, so a model that scores everything alike is last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from intarsia.errors import DataError, ShapeError
from intarsia.evaluation.metrics import Metric, Outcomes, median_metric, summarise
from intarsia.methods.base import Method
from intarsia.ops.similarity import pairwise_scores
from intarsia.types import Embeddings, Kind, Term

RECALL_AT = (1, 5, 10)
NUM_TOP = 10
TIE = 1e-6  # of the greatest possible score: what float32 sums of another order differ by


@dataclass(frozen=True, slots=True, eq=False)
class Ranks:
    """How many wrong items stand before the best correct one: 0 is a perfect answer.

    ``i2t`` (I,) of each picture among the texts, ``t2i`` (T,) of each text among the pictures,
    ``caption_image`` (T,) the picture of each text; all int64 on the CPU.
    """

    i2t: Tensor
    t2i: Tensor
    caption_image: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Top:
    """The best items of each query, best first: at most 10, all on the CPU.

    ``texts`` (I,10) int64 of each picture with their ``text_scores``; ``images`` (T,10) of each
    text with their ``image_scores``, float32.
    """

    texts: Tensor
    text_scores: Tensor
    images: Tensor
    image_scores: Tensor


@dataclass(frozen=True, slots=True)
class _Block:
    """Consecutive pictures and all their texts, so that the correct pairs never leave a block."""

    images: slice
    texts: Tensor


def rank(
    image: Embeddings,
    text: Embeddings,
    terms: Sequence[Term],
    caption_image: Tensor,
    *,
    block: int = 256,
) -> Ranks:
    """:func:`rank_with_top` without the top."""
    return rank_with_top(image, text, terms, caption_image, block=block)[0]


@torch.no_grad()
def rank_with_top(
    image: Embeddings,
    text: Embeddings,
    terms: Sequence[Term],
    caption_image: Tensor,
    *,
    block: int = 256,
) -> tuple[Ranks, Top]:
    """Rank every text for every picture and every picture for every text, and keep the best.

    Scores are made in blocks of ``block`` pictures x the texts of ``block`` pictures and dropped
    again, so memory does not grow with I x T; only the blocks of correct pairs are kept. Scores
    are as precise as the embeddings (:mod:`intarsia.ops.similarity`).

    Args:
        image: I pictures.
        text: T texts.
        terms: What similarity is the sum of; the two directions may weigh them differently.
        caption_image: (T,) the row in ``image`` of each text's picture.
        block: Pictures a block.

    Raises:
        DataError: A picture has no text, a text's picture does not exist, a score is NaN.
        ShapeError: ``caption_image`` is not one index a text.
    """
    caption_image = caption_image.cpu()
    blocks = _blocks(len(image), len(text), caption_image, block)
    own = [  # of the correct pairs: kept, since their bars are needed before all else
        pairwise_scores(image.rows(part.images), text.rows(part.texts), terms) for part in blocks
    ]
    bars = [
        _bars(*scores, terms, _wrong(part, part, caption_image))
        for part, scores in zip(blocks, own, strict=True)
    ]

    before_i2t = torch.zeros(len(image), dtype=torch.int64)
    before_t2i = torch.zeros(len(text), dtype=torch.int64)
    best_texts = _Best(len(image), len(text))
    best_images = _Best(len(text), len(image))
    for column, scores, (_, bar_t2i) in zip(blocks, own, bars, strict=True):
        texts = text.rows(column.texts)
        for row, (bar_i2t, _) in zip(blocks, bars, strict=True):
            i2t, t2i = (
                scores if row is column else pairwise_scores(image.rows(row.images), texts, terms)
            )
            _require_numbers(i2t, t2i, row, column)
            wrong = _wrong(row, column, caption_image).to(i2t.device)
            before_i2t[row.images] += ((i2t >= bar_i2t[:, None]) & wrong).sum(1).cpu()
            before_t2i[column.texts] += ((t2i >= bar_t2i) & wrong).sum(0).cpu()
            pictures = torch.arange(row.images.start, row.images.stop)
            best_texts.add(pictures, column.texts, i2t)
            best_images.add(column.texts, pictures, t2i.mT)
    top = Top(best_texts.items, best_texts.scores, best_images.items, best_images.scores)
    return Ranks(before_i2t, before_t2i, caption_image), top


def similarity_terms(
    method: Method, image: Embeddings, text: Embeddings, *, block: int = 256
) -> tuple[Term, ...]:
    """The terms to rank a test set with.

    A method that asks for ``normalise="row-max"`` has each matrix of scores divided by the mean of
    its queries' best scores in this very test set (the ComAlign authors' code). That is
    transductive: the similarity of a pair then depends on all others.
    """
    if method.normalise == "none":
        return method.terms
    return tuple(
        _over_best(term, *_mean_best(image, text, term.group, term.kind, block))
        for term in method.terms
    )


def _over_best(term: Term, i2t: float, t2i: float) -> Term:
    return replace(term, i2t=term.i2t / i2t, t2i=term.t2i / t2i, reverse=term.reverse / t2i)


@torch.no_grad()
def _mean_best(
    image: Embeddings, text: Embeddings, group: str, kind: Kind, block: int
) -> tuple[float, float]:
    """The mean over pictures of their best image-to-text score, and the same of texts; 1 where that
    is not positive and dividing would turn the order round."""
    alone = [Term(group, kind)]
    best_text = torch.full((len(image),), -torch.inf)
    best_image = torch.full((len(text),), -torch.inf)
    for start in range(0, len(image), block):
        rows = slice(start, start + block)
        for first in range(0, len(text), 5 * block):
            columns = slice(first, first + 5 * block)
            i2t, t2i = pairwise_scores(image.rows(rows), text.rows(columns), alone)
            best_text[rows] = best_text[rows].maximum(i2t.amax(1).cpu())
            best_image[columns] = best_image[columns].maximum(t2i.amax(0).cpu())
    means = float(best_text.mean()), float(best_image.mean())
    return means[0] if means[0] > 0 else 1.0, means[1] if means[1] > 0 else 1.0


def retrieval_outcomes(ranks: Ranks) -> dict[str, Outcomes]:
    """Hits of each query at 1, 5 and 10; the captions of one picture are one cluster."""
    i2t, t2i = ranks.i2t.numpy(), ranks.t2i.numpy()
    pictures = ranks.caption_image.numpy()
    return {f"i2t_r{k}": Outcomes.of_hits(i2t < k) for k in RECALL_AT} | {
        f"t2i_r{k}": Outcomes.of_hits(t2i < k, pictures) for k in RECALL_AT
    }


def retrieval_metrics(ranks: Ranks) -> dict[str, Metric]:
    """``i2t_r1/5/10`` and ``t2i_r1/5/10`` in percent, ``i2t_median_rank`` and ``t2i_median_rank``
    counted from 1, each with n and 95% interval.

    >>> ranks = Ranks(torch.tensor([0, 6]), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 1]))
    >>> {name: metric.value for name, metric in retrieval_metrics(ranks).items()}
    ... # doctest: +NORMALIZE_WHITESPACE
    {'i2t_r1': 50.0, 'i2t_r5': 50.0, 'i2t_r10': 100.0,
     't2i_r1': 50.0, 't2i_r5': 100.0, 't2i_r10': 100.0,
     'i2t_median_rank': 4.0, 't2i_median_rank': 1.5}
    """
    return summarise(retrieval_outcomes(ranks)) | {
        "i2t_median_rank": median_metric(ranks.i2t.numpy() + 1),
        "t2i_median_rank": median_metric(ranks.t2i.numpy() + 1, ranks.caption_image.numpy()),
    }


def _blocks(num_images: int, num_texts: int, caption_image: Tensor, block: int) -> list[_Block]:
    if caption_image.shape != (num_texts,):
        raise ShapeError(
            f"caption_image is {tuple(caption_image.shape)}; it must be ({num_texts},), "
            "the picture of each text"
        )
    outside = (caption_image < 0) | (caption_image >= num_images)
    if outside.any():
        bad = int(outside.nonzero()[0])
        raise DataError(
            f"text {bad} names picture {int(caption_image[bad])}: choose from 0 to {num_images - 1}"
        )
    num_captions = torch.bincount(caption_image, minlength=num_images)
    bare = (num_captions == 0).nonzero().flatten().tolist()
    if bare:
        raise DataError(
            f"{len(bare)} of {num_images} pictures have no caption to find: {bare[:10]}"
        )
    order = caption_image.argsort(stable=True)
    ends = num_captions.cumsum(0).tolist()
    blocks = []
    for start in range(0, num_images, block):
        stop = min(start + block, num_images)
        texts = order[ends[start] - int(num_captions[start]) : ends[stop - 1]]
        blocks.append(_Block(slice(start, stop), texts))
    return blocks


class _Best:
    """The best items of each query among all that were added so far."""

    def __init__(self, num_queries: int, num_items: int) -> None:
        size = (num_queries, min(NUM_TOP, num_items))
        self.items = torch.full(size, -1)
        self.scores = torch.full(size, -torch.inf)

    def add(self, queries: Tensor, items: Tensor, scores: Tensor) -> None:
        """``scores`` (q,c) of ``queries`` (q,) with ``items`` (c,)."""
        size = self.items.shape[1]
        found, where = scores.topk(min(size, scores.shape[1]), 1)
        found = torch.cat([self.scores[queries], found.cpu()], 1)
        items = torch.cat([self.items[queries], items[where.cpu()]], 1)
        self.scores[queries], where = found.topk(size, 1)
        self.items[queries] = items.gather(1, where)


def _bars(i2t: Tensor, t2i: Tensor, terms: Sequence[Term], wrong: Tensor) -> tuple[Tensor, Tensor]:
    """What a wrong item must reach to stand before the best correct one, in both directions."""
    wrong = wrong.to(i2t.device)
    best_i2t = i2t.masked_fill(wrong, -torch.inf).amax(1)
    best_t2i = t2i.masked_fill(wrong, -torch.inf).amax(0)
    margin_i2t = TIE * sum(abs(term.i2t) for term in terms)
    margin_t2i = TIE * sum(abs(term.t2i) for term in terms)
    return best_i2t - margin_i2t, best_t2i - margin_t2i


def _wrong(row: _Block, column: _Block, caption_image: Tensor) -> Tensor:
    """(pictures of ``row``, texts of ``column``): True where the text is another picture's."""
    pictures = torch.arange(row.images.start, row.images.stop)
    return caption_image[column.texts] != pictures[:, None]


def _require_numbers(i2t: Tensor, t2i: Tensor, row: _Block, column: _Block) -> None:
    bad = (i2t.isnan() | t2i.isnan()).nonzero()
    if len(bad):
        picture, text = bad[0].tolist()
        raise DataError(
            f"the score of picture {row.images.start + picture} and text "
            f"{int(column.texts[text])} is NaN; the embeddings of one of them are broken"
        )
