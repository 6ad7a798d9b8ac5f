"""Protocols on records: encode with any model, hand the vectors to the pure metric functions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch

from intarsia.data.coco import Category
from intarsia.data.images import AnyImage
from intarsia.data.problems import Problems
from intarsia.errors import DataError
from intarsia.evaluation.boxes import (
    BOX_PROTOCOLS,
    BoxFeatures,
    ClassText,
    ProtocolName,
    box_outcomes,
    rank_boxes,
)
from intarsia.evaluation.mentions import mentions, readable
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
from intarsia.evaluation.vectors import both_ways, gathered, together
from intarsia.model import Model
from intarsia.types import Box, Embeddings, Record

logger = logging.getLogger(__name__)


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


Protocol = Callable[..., Evaluation]  # of a Model, a Sequence[Record] and Problems


def evaluate_retrieval(
    model: Model, records: Sequence[Record], problems: Problems, *, captions: int | None = 5
) -> Evaluation:
    """Recall@1/5/10 both ways; the first ``captions`` of each picture (None = all).

    A caption that several pictures share word for word is right for all of them; how many of the
    captions are such, and how many were not looked at, is ``counted``.
    """
    good, image = encoded_pictures(model, records, problems, lambda r: bool(r.captions))
    texts, truth = first_captions(good, captions)
    text = gathered(model.text_batches(texts), model.device)
    image, text = together(image, text)
    terms = similarity_terms(model.method, image, text)
    ranks = rank(image, text, terms, truth.owner, truth=truth)
    counted = {
        "pictures": len(good),
        "captions": len(texts),
        "captions_left_out": sum(len(record.captions) for record in good) - len(texts),
        "shared_captions": int(truth.is_shared.sum()),
        "cut_captions": 0 if text.cut is None else int(text.cut.sum()),
    }
    if counted["shared_captions"]:
        logger.info(
            "%(shared_captions)d of %(captions)d captions are shared word for word by several "
            "pictures and are right for all of these",
            counted,
        )
    variant = "" if model.method.normalise == "none" else model.method.normalise
    metrics, outcomes = retrieval_metrics(ranks), retrieval_outcomes(ranks)
    return Evaluation(metrics, outcomes, variant, counted=counted)


def evaluate_negatives(model: Model, records: Sequence[Record], problems: Problems) -> Evaluation:
    """Share of hard negatives that score strictly below their true caption, by kind."""
    good, image = encoded_pictures(model, records, problems, lambda r: bool(r.negatives))
    cases = [(i, negative) for i, record in enumerate(good) for negative in record.negatives]
    owner = torch.tensor([i for i, _ in cases])
    true = [good[i].captions[negative.caption] for i, negative in cases]
    scores = [
        both_ways(model, image.rows(owner), model.encode_texts(texts))
        for texts in (true, [negative.text for _, negative in cases])
    ]
    kinds = [negative.kind for _, negative in cases]
    outcomes = hard_negative_outcomes(scores[0], scores[1], kinds, owner.numpy())
    return Evaluation(summarise(outcomes), outcomes, answered=good)


def evaluate_pointing(model: Model, records: Sequence[Record], problems: Problems) -> Evaluation:
    """Pointing game of every distinct phrase of a picture on the patch grid."""
    hits, chance, owner = [], [], []
    grid, transform = model.backbone.dims.grid, model.backbone.transform
    size = (transform.size, transform.size)
    kept = [record for record in records if record.phrases]
    for index, (record, image) in enumerate(readable(kept, problems)):
        boxes = phrase_boxes(record)
        if not boxes:
            continue
        maps = model.patch_maps(image, list(boxes))
        seen = [transform.boxes(part, image.size) for part in boxes.values()]
        hits.append(pointing_hits(maps, seen, size))
        chance.append(pointing_chance(seen, grid, size))
        owner += [index] * len(boxes)
    if not hits:
        raise DataError("no record has phrases with boxes to point at")
    outcomes = pointing_outcomes(np.concatenate(hits), np.concatenate(chance), np.array(owner))
    return Evaluation(summarise(outcomes), outcomes)


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
    kept = [record for record in records if record.regions]
    if categories is None:
        names = {region.label for record in kept for region in record.regions} - {""}
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
    model: Model, records: Sequence[Record], problems: Problems, keep: Callable[[Record], bool]
) -> tuple[list[Record], Embeddings]:
    """The readable records and their pictures' embeddings, row by row."""
    good: list[Record] = []

    as_stored = "components" in model.method.needs  # whose crops are known by the file's content

    def images() -> Iterator[AnyImage]:
        for record, image in readable([r for r in records if keep(r)], problems):
            good.append(record)
            yield record.image if as_stored else image

    first = next(stream := images(), None)
    if first is None:
        raise DataError(f"none of {len(records)} records has what this protocol needs")
    regions = (record.regions for record in good) if model.takes_regions else None
    batches = model.image_batches(chain([first], stream), regions=regions)
    return good, gathered(batches, model.device)
