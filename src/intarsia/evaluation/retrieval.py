"""The protocol ``retrieval``: Recall@1/5/10 and median rank, from pictures to texts and back.

Any caption of a picture is a hit for it, and so is one of another picture that says the same word
for word (:mod:`intarsia.ops.true_texts`): that text is true of both. Published protocols take the
latter for a mistake, which lowers their figures where captions are shared (6 of the 5,000 of
Flickr8k's dev split are). Ties count against the model: a wrong item that scores as high as the
correct one is ranked before it, so a model that scores everything alike is last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from intarsia.data.records import without_pictures
from intarsia.errors import DataError, ShapeError
from intarsia.evaluation.metrics import Metric, Outcomes, median_metric, summarise
from intarsia.methods.base import Method
from intarsia.ops.devices import memory_of
from intarsia.ops.true_texts import TrueTexts, true_texts
from intarsia.runtime import progress
from intarsia.terms import Term
from intarsia.terms.similarity import pairwise_scores
from intarsia.types import Embeddings, Record

RECALL_AT = (1, 5, 10)
CAPTIONS = 5
ALL_CAPTIONS = ("coco-karpathy",)
"""Data sets of which published figures take all captions of a picture, not ``CAPTIONS``."""
NUM_TOP = 10
TIE = 1e-6  # of the greatest possible score: what float32 sums of another order differ by
CPU_BLOCK = 256  # pictures
SCORES_SHARE = 1 / 32  # of a GPU's memory for the scores of all correct pairs' blocks


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
    """Consecutive pictures and all their texts, so that the correct pairs never leave a block.

    ``pictures`` (i,) and ``texts`` (t,) are their rows, on the device of the embeddings.
    """

    images: slice
    pictures: Tensor
    texts: Tensor


def published_captions(data: str) -> int | None:
    """How many captions of a picture count in a data set's published figures; None = all."""
    return None if data in ALL_CAPTIONS else CAPTIONS


def first_captions(records: Sequence[Record], most: int | None) -> tuple[list[str], TrueTexts]:
    """The first ``most`` captions of each record (None = all), and which are true of which."""
    captions = [record.captions[:most] for record in without_pictures(records)]
    texts = [text for own in captions for text in own]
    owner = torch.arange(len(records)).repeat_interleave(torch.tensor(list(map(len, captions))))
    return texts, true_texts(texts, owner, len(records))


def rank(
    image: Embeddings,
    text: Embeddings,
    terms: Sequence[Term],
    caption_image: Tensor,
    *,
    truth: TrueTexts | None = None,
    block: int | None = None,
) -> Ranks:
    """:func:`rank_with_top` without the top."""
    return rank_with_top(image, text, terms, caption_image, truth=truth, block=block)[0]


@torch.no_grad()
def rank_with_top(
    image: Embeddings,
    text: Embeddings,
    terms: Sequence[Term],
    caption_image: Tensor,
    *,
    truth: TrueTexts | None = None,
    block: int | None = None,
) -> tuple[Ranks, Top]:
    """Rank every text for every picture and every picture for every text, and keep the best.

    Scores are made in blocks of ``block`` pictures x the texts of ``block`` pictures and dropped
    again, so memory does not grow with I x T; only the blocks of correct pairs are kept. Scores
    are as precise as the embeddings (:mod:`intarsia.terms.similarity`) and are ranked where those
    are; what comes of it moves to the CPU once, at the end.

    Args:
        image: I pictures.
        text: T texts.
        terms: What similarity is the sum of; the two directions may weigh them differently.
        caption_image: (T,) the row in ``image`` of each text's picture.
        truth: which texts are true of which pictures; None = each of its own alone.
        block: Pictures a block; None = 256, or on a GPU as many as its memory allows.

    Raises:
        DataError: A picture has no text, a text's picture does not exist, a score is NaN.
        ShapeError: ``caption_image`` is not one index a text.
    """
    caption_image = caption_image.cpu()
    device = _device(image)
    block = block or _at_once(device, len(text))
    blocks = _blocks(len(image), len(text), caption_image, block, device)
    truth = (truth or TrueTexts.of_owners(caption_image, len(image))).to(device)
    own = [  # of the correct pairs: kept, since their bars are needed before all else
        pairwise_scores(image.rows(part.images), text.rows(part.texts), terms) for part in blocks
    ]
    bars_i2t, bars_t2i = _bars(image, text, terms, truth, blocks, own, block)

    before_i2t = torch.zeros(len(image), dtype=torch.int64, device=device)
    before_t2i = torch.zeros(len(text), dtype=torch.int64, device=device)
    best_texts = _Best(len(image), len(text), device)
    best_images = _Best(len(text), len(image), device)
    first_nans = []
    columns = list(zip(blocks, own, strict=True))
    for column, scores in progress(columns, "ranking, by block"):
        texts = text.rows(column.texts)
        for row in blocks:
            i2t, t2i = (
                scores if row is column else pairwise_scores(image.rows(row.images), texts, terms)
            )
            first_nans.append((_first_nan(i2t, t2i), row, column))
            wrong = ~truth.mask(row.pictures, column.texts)
            before_i2t[row.images] += ((i2t >= bars_i2t[row.images, None]) & wrong).sum(1)
            before_t2i[column.texts] += ((t2i >= bars_t2i[column.texts]) & wrong).sum(0)
            best_texts.add(row.pictures, column.texts, i2t)
            best_images.add(column.texts, row.pictures, t2i.mT)
    _require_numbers(first_nans)
    return (
        Ranks(before_i2t.cpu(), before_t2i.cpu(), caption_image),
        Top(*best_texts.on_cpu(), *best_images.on_cpu()),
    )


def similarity_terms(
    method: Method, image: Embeddings, text: Embeddings, *, block: int | None = None
) -> tuple[Term, ...]:
    """The terms to rank a test set with.

    A method that asks for ``normalise="row-max"`` has each matrix of scores divided by the mean of
    its queries' best scores in this very test set (the ComAlign authors' code). That is
    transductive: the similarity of a pair then depends on all others.
    """
    if method.normalise == "none":
        return method.terms
    block = block or _at_once(_device(image), len(text))
    return tuple(
        _over_best(term, *_mean_best(image, text, term.alone(), block)) for term in method.terms
    )


def _over_best(term: Term, i2t: float, t2i: float) -> Term:
    return replace(term, i2t=term.i2t / i2t, t2i=term.t2i / t2i, reverse=term.reverse / t2i)


@torch.no_grad()
def _mean_best(image: Embeddings, text: Embeddings, term: Term, block: int) -> tuple[float, float]:
    """The mean over pictures of their best image-to-text score, and the same of texts; 1 where that
    is not positive and dividing would turn the order round."""
    best_text = torch.full((len(image),), -torch.inf, device=_device(image))
    best_image = torch.full((len(text),), -torch.inf, device=_device(image))
    for start in progress(range(0, len(image), block), "best scores, by block"):
        rows = slice(start, start + block)
        for first in range(0, len(text), 5 * block):
            columns = slice(first, first + 5 * block)
            i2t, t2i = pairwise_scores(image.rows(rows), text.rows(columns), [term])
            best_text[rows] = best_text[rows].maximum(i2t.amax(1))
            best_image[columns] = best_image[columns].maximum(t2i.amax(0))
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


def _device(embeddings: Embeddings) -> torch.device:
    return next(iter(embeddings.groups.values())).device


def _at_once(device: torch.device, num_texts: int) -> int:
    """Pictures a block: the scores kept are block x T in float32, in both directions."""
    if device.type != "cuda":
        return CPU_BLOCK
    return max(1, int(SCORES_SHARE * memory_of(device)) // (2 * 4 * max(1, num_texts)))


def _blocks(
    num_images: int, num_texts: int, caption_image: Tensor, block: int, device: torch.device
) -> list[_Block]:
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
    pictures = torch.arange(num_images, device=device)
    order = caption_image.argsort(stable=True).to(device)
    ends = num_captions.cumsum(0).tolist()
    blocks = []
    for start in range(0, num_images, block):
        stop = min(start + block, num_images)
        texts = order[ends[start] - int(num_captions[start]) : ends[stop - 1]]
        blocks.append(_Block(slice(start, stop), pictures[start:stop], texts))
    return blocks


class _Best:
    """The best items of each query among all that were added so far, on ``device``."""

    def __init__(self, num_queries: int, num_items: int, device: torch.device) -> None:
        size = (num_queries, min(NUM_TOP, num_items))
        self.items = torch.full(size, -1, device=device)
        self.scores = torch.full(size, -torch.inf, device=device)

    def add(self, queries: Tensor, items: Tensor, scores: Tensor) -> None:
        """``scores`` (q,c) of ``queries`` (q,) with ``items`` (c,)."""
        size = self.items.shape[1]
        found, where = scores.topk(min(size, scores.shape[1]), 1)
        found = torch.cat([self.scores[queries], found], 1)
        items = torch.cat([self.items[queries], items[where]], 1)
        self.scores[queries], where = found.topk(size, 1)
        self.items[queries] = items.gather(1, where)

    def on_cpu(self) -> tuple[Tensor, Tensor]:
        return self.items.cpu(), self.scores.cpu()


def _bars(
    image: Embeddings,
    text: Embeddings,
    terms: Sequence[Term],
    truth: TrueTexts,
    blocks: Sequence[_Block],
    own: Sequence[tuple[Tensor, Tensor]],
    block: int,
) -> tuple[Tensor, Tensor]:
    """What a wrong item must reach to stand before the best correct one: for each picture (I,) and
    for each text (T,).

    ``own`` are the scores of the ``blocks``, which hold each text with its own picture; those with
    other pictures that bear it, too, are made here.
    """
    first = own[0][0]
    best_i2t = first.new_full((len(image),), -torch.inf)
    best_t2i = first.new_full((len(text),), -torch.inf)
    for part, (i2t, t2i) in zip(blocks, own, strict=True):
        wrong = ~truth.mask(part.pictures, part.texts)
        best_i2t[part.images] = i2t.masked_fill(wrong, -torch.inf).amax(1)
        best_t2i[part.texts] = t2i.masked_fill(wrong, -torch.inf).amax(0)
    for pictures, texts in truth.groups():
        for some in pictures.split(block):
            i2t, t2i = pairwise_scores(image.rows(some), text.rows(texts), terms)
            best_i2t[some] = best_i2t[some].maximum(i2t.amax(1))
            best_t2i[texts] = best_t2i[texts].maximum(t2i.amax(0))
    margin_i2t = TIE * sum(abs(term.i2t) for term in terms)
    margin_t2i = TIE * sum(abs(term.t2i) for term in terms)
    return best_i2t - margin_i2t, best_t2i - margin_t2i


def _first_nan(i2t: Tensor, t2i: Tensor) -> Tensor:
    """Where the first NaN of either stands among a block's scores, () int64; -1 without one."""
    bad = (i2t.isnan() | t2i.isnan()).flatten()
    return bad.view(torch.uint8).argmax().where(bad.any(), -1)


def _require_numbers(first_nans: Sequence[tuple[Tensor, _Block, _Block]]) -> None:
    places = torch.stack([place for place, _, _ in first_nans]).tolist()
    for place, (_, row, column) in zip(places, first_nans, strict=True):
        if place >= 0:
            picture, text = divmod(place, len(column.texts))
            raise DataError(
                f"the score of picture {int(row.pictures[picture])} and text "
                f"{int(column.texts[text])} is NaN; the embeddings of one of them are broken"
            )
