"""Protocols on records: encode with any model, hand the vectors to the pure metric functions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intarsia.data.coco import Category
from intarsia.data.problems import Problems
from intarsia.data.records import at, chosen, without_pictures
from intarsia.errors import DataError
from intarsia.evaluation.boxes import (
    BOX_PROTOCOLS,
    BoxFeatures,
    ClassText,
    ProtocolName,
    box_outcomes,
    rank_boxes,
)
from intarsia.evaluation.mentions import Counting, asked_of, mentions, numbered, readable
from intarsia.evaluation.metrics import Metric, Outcomes, summarise
from intarsia.evaluation.negatives import hard_negative_outcomes
from intarsia.evaluation.pointing import pointing_chance, pointing_hits, pointing_outcomes
from intarsia.evaluation.retrieval import (
    first_captions,
    rank,
    retrieval_metrics,
    retrieval_outcomes,
    similarity_terms,
)
from intarsia.evaluation.vectors import all_texts, both_ways, distinct, gathered, together
from intarsia.model import Model
from intarsia.runtime import chunks
from intarsia.types import Box, Embeddings, Negative, Record

logger = logging.getLogger(__name__)

MAPS_AT_ONCE = 16  # pictures whose maps are made together


@dataclass(frozen=True)
class Evaluation:
    """What a protocol gives: the metrics, and the outcome of each query for paired comparisons.

    ``variant`` is part of the protocol's name: results of two variants are not compared.
    ``answered`` are the records or cases that the figures are of, whose pictures could be read;
    filled where a judge without pictures can be asked the same. ``counted`` says of what the
    figures are, where the metrics' n do not.
    """

    metrics: Mapping[str, Metric]
    per_query: Mapping[str, Outcomes]
    variant: str = ""
    answered: Sequence[Any] = ()
    counted: Mapping[str, int] = field(default_factory=dict)

    def of(self, protocol: str) -> str:
        """The protocol's whole name: ``retrieval (5 captions)``."""
        return f"{protocol} ({self.variant})" if self.variant else protocol


Protocol = Callable[..., Evaluation]  # of a Model, a Sequence[Record] and Problems


def evaluate_retrieval(
    model: Model, records: Sequence[Record], problems: Problems, *, captions: int | None = 5
) -> Evaluation:
    """Recall@1/5/10 both ways; the first ``captions`` of each picture (None = all), which is in the
    protocol's name: Karpathy's splits are published with all, val2017 of COCO with five.

    A caption that several pictures share word for word is right for all of them; how many of the
    captions are such, and how many were not looked at, is ``counted``.
    """
    good, image = encoded_pictures(
        model, records, problems, lambda r: bool(r.captions), "a caption"
    )
    texts, truth = first_captions(good, captions)
    text = all_texts(model, texts)
    image, text = together(image, text)
    terms = similarity_terms(model.method, image, text)
    ranks = rank(image, text, terms, truth.owner, truth=truth)
    counted = {
        "pictures": len(good),
        "captions": len(texts),
        "captions_left_out": sum(len(r.captions) for r in without_pictures(good)) - len(texts),
        "shared_captions": int(truth.is_shared.sum()),
        "cut_captions": 0 if text.cut is None else int(text.cut.sum()),
    }
    if counted["shared_captions"]:
        logger.info(
            "%(shared_captions)d of %(captions)d captions are shared word for word by several "
            "pictures and are right for all of these",
            counted,
        )
    variant = "1 caption" if captions == 1 else f"{captions or 'all'} captions"
    if model.method.normalise != "none":
        variant += f", {model.method.normalise}"
    metrics, outcomes = retrieval_metrics(ranks), retrieval_outcomes(ranks)
    return Evaluation(metrics, outcomes, variant, counted=counted)


def evaluate_negatives(model: Model, records: Sequence[Record], problems: Problems) -> Evaluation:
    """Share of hard negatives that score strictly below their true caption, by kind."""
    good, owner, negatives, true, false = score_negatives(model, records, problems)
    kinds = [negative.kind for negative in negatives]
    outcomes = hard_negative_outcomes(true, false, kinds, owner.numpy())
    return Evaluation(summarise(outcomes), outcomes, answered=good)


def score_negatives(
    model: Model, records: Sequence[Record], problems: Problems
) -> tuple[Sequence[Record], Tensor, list[Negative], Tensor, Tensor]:
    """The readable records; of each of their Q negatives the row of its record (Q,), itself, and
    the scores (Q,) of the true caption and of the false one."""
    good, image = encoded_pictures(
        model, records, problems, lambda r: bool(r.negatives), "negatives"
    )
    negatives: list[Negative] = []
    owner: list[int] = []
    captions: list[str] = []
    for i, record in enumerate(without_pictures(good)):
        negatives += record.negatives
        owner += [i] * len(record.negatives)
        captions += [record.captions[negative.caption] for negative in record.negatives]
    rows = torch.tensor(owner)
    text, columns = distinct(model, captions, [negative.text for negative in negatives])
    true, false = (both_ways(model, image, text, rows, column) for column in columns)
    return good, rows, negatives, true, false


def evaluate_pointing(
    model: Model,
    records: Sequence[Record],
    problems: Problems,
    *,
    counting: Counting = "mentions",
) -> Evaluation:
    """Pointing game of every phrase that has a box on the patch grid: of every mention, as is
    published, or of each distinct text of a picture (``counting``); which is in the variant."""
    hits, chance, owner = [], [], []
    grid, transform = model.backbone.dims.grid, model.backbone.transform
    size = (transform.size, transform.size)
    kept = chosen(records, lambda record: bool(record.phrases))
    asked = (
        (i, image, record.regions, goals)
        for i, (record, image) in enumerate(readable(kept, problems))
        if (goals := asked_of(record, counting)[0])
    )
    for some in chunks(asked, MAPS_AT_ONCE):
        texts = [[text for text, _ in goals] for *_, goals in some]
        maps = model.maps_of([image for _, image, *_ in some], texts)
        for (index, image, regions, goals), heat in zip(some, maps, strict=True):
            boxes = [[regions[place].box for place in places] for _, places in goals]
            seen = [transform.boxes(part, image.size) for part in boxes]
            hits.append(pointing_hits(heat, seen, size))
            chance.append(pointing_chance(seen, grid, size))
            owner += [index] * len(boxes)
    if not hits:
        raise DataError("no record has phrases with boxes to point at")
    outcomes = pointing_outcomes(np.concatenate(hits), np.concatenate(chance), np.array(owner))
    counted = {"pictures": len(set(owner)), "phrases": len(owner)}
    return Evaluation(summarise(outcomes), outcomes, counting, counted=counted)


def evaluate_boxes(
    model: Model,
    records: Sequence[Record],
    problems: Problems,
    *,
    categories: Sequence[Category] | None = None,
    protocol: ProtocolName = "instances",
    features: BoxFeatures = "roi",
    text: ClassText = "method",
    input_size: int | None = None,
) -> Evaluation:
    """Zero-shot classification of labelled boxes among the names of all categories.

    Args:
        model: what gives the vectors.
        records: pictures with regions, whose labels are names of categories.
        problems: collects unreadable pictures and boxes that cannot be used.
        categories: all that a box could be; None = every label of the records, a thing each.
        protocol: which boxes count and what is averaged over (METHODS.md section 5): instances is
            micro, clipself macro with things and stuff apart, fineclip macro.
        features: roi pools a box from the patches of the whole picture; crop embeds its crop, which
            is enlarged 1.5 times if it shows a thing.
        text: of a prompt's vectors, the one that the method compares regions with, the global one,
            or the mean of the tokens of the category's name.
        input_size: side of the square input in pixels, larger than the backbone's own for finer
            patches.
    """
    kept = chosen(records, lambda record: bool(record.regions))
    if categories is None:
        told = without_pictures(kept)
        names = {region.label for record in told for region in record.regions} - {""}
        categories = [Category(name) for name in sorted(names)]
    rules = BOX_PROTOCOLS[protocol]
    found = rank_boxes(
        model,
        readable(kept, problems),
        categories,
        rules,
        problems,
        features=features,
        text=text,
        input_size=input_size,
    )
    outcomes = box_outcomes(found, categories, rules)
    return Evaluation(summarise(outcomes), outcomes)


PROTOCOLS: dict[str, Protocol] = {
    "retrieval": evaluate_retrieval,
    "negatives": evaluate_negatives,
    "pointing": evaluate_pointing,
    "boxes": evaluate_boxes,
}


def phrase_boxes(record: Record) -> dict[str, list[Box]]:
    """Boxes of each distinct phrase; one that could mean several sets of regions is left out."""
    return {
        text: [record.regions[i].box for i in next(iter(meant))]
        for text, meant in (mentions(record) if record.phrases else {}).items()
        if len(meant) == 1
    }


def encoded_pictures(
    model: Model,
    records: Sequence[Record],
    problems: Problems,
    keep: Callable[[Record], bool],
    needs: str = "",
) -> tuple[Sequence[Record], Embeddings]:
    """The readable records and their pictures' embeddings, row by row.

    Raises:
        DataError: no record has what it ``needs``, as ``keep`` tells, and a readable picture.
    """
    kept = chosen(records, keep)
    good: list[int] = []

    def readable_ones() -> Iterator[tuple[Record, Image.Image]]:
        for place, record, image in numbered(kept, problems):
            good.append(place)
            yield record, image

    first = next(stream := readable_ones(), None)
    if first is None:
        both = f"{needs} and a readable picture" if needs else "a readable picture"
        raise DataError(f"none of {len(records)} records has {both}")
    pictures = chain([first], stream)
    if model.matches_components:
        batches = model.record_batches(record for record, _ in pictures)
    else:
        batches = model.image_batches(image for _, image in pictures)
    image = gathered(batches, model.device)
    return at(kept, good), image
