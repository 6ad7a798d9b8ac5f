"""Failures among places: where in its picture a phrase is, and in which of all pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intarsia.evaluation.boxes import square_input
from intarsia.evaluation.harness import phrase_boxes
from intarsia.evaluation.mentions import mentions
from intarsia.evaluation.metrics import Array
from intarsia.evaluation.region_retrieval import Collection, collect_regions, rank_regions
from intarsia.model import Model
from intarsia.suite.questions import (
    Inspection,
    Mistake,
    Question,
    Shot,
    Verdict,
    forgiving,
    still_readable,
)
from intarsia.types import Box, Record

# In its picture

Places = Callable[[Record], dict[str, list[Box]]]
Square = Callable[[Model], AbstractContextManager[None]]


def _inspect_places(places: Places, square: Square) -> Inspection:
    """``square`` says how the model sees the pictures."""

    def find(model: Model, records: Sequence[Record]) -> Iterator[Mistake]:
        with square(model):
            for record, image in still_readable(records):
                found = places(record)
                if not found:
                    continue
                maps = model.patch_maps(image, list(found)).numpy(force=True)
                for (phrase, boxes), heat in zip(found.items(), maps, strict=True):
                    inside, outside = _inside_and_outside(model, image, boxes, heat)
                    if outside >= inside:
                        yield outside - inside, Question(Shot.of(record, boxes), phrase)

    def judge(model: Model, _: Any, questions: Sequence[Question]) -> list[Verdict]:
        verdicts = []
        with square(model):
            for question in questions:
                image, boxes = question.shot.picture(), question.shot.boxes
                heat = model.patch_maps(image, [question.true])[0].numpy(force=True)
                verdicts.append(Verdict(*_inside_and_outside(model, image, boxes, heat)))
        return verdicts

    return Inspection(find, judge)


def _inside_and_outside(
    model: Model, image: Image.Image, boxes: Sequence[Box], heat: Array
) -> tuple[float, float]:
    """The greatest cell whose centre is in a box, and the greatest of the others.

    Boxes without a centre of a cell, and boxes that fill the picture, give the lowest cell.
    """
    (h, w), side = heat.shape, model.backbone.transform.size
    x = (np.arange(w) + 0.5) * side / w
    y = ((np.arange(h) + 0.5) * side / h)[:, None]
    seen = model.backbone.transform.boxes(boxes, image.size)
    parts = [(x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1) for x0, y0, x1, y1 in seen]
    covered = np.any(parts, axis=0)
    lowest = float(heat.min())
    return (
        float(heat[covered].max(initial=lowest)),
        float(heat[~covered].max(initial=lowest)),
    )


def _mentioned(record: Record) -> dict[str, list[Box]]:
    """The boxes of every text that means one set of regions."""
    return {
        text: [record.regions[index].box for index in next(iter(meanings))]
        for text, meanings in mentions(record).items()
        if len(meanings) == 1
    }


inspect_pointing = _inspect_places(phrase_boxes, lambda _: nullcontext())
inspect_grounding = _inspect_places(_mentioned, partial(square_input, size=None))


# Among the regions of all pictures


def _misplaced(model: Model, records: Sequence[Record]) -> Iterator[Mistake]:
    """Of the regions that a phrase names, the best one against the region that is ranked first."""
    found = collect_regions(model, records, forgiving())
    ranking = rank_regions(found.queries, found.vectors, list(found.right.values()))
    leads = _scores(found, found.queries, ranking.wrong) - _scores(
        found, found.queries, ranking.right
    )
    rows = zip(found.right, ranking.ranks, ranking.right, ranking.wrong, leads, strict=True)
    for text, rank, right, wrong, lead in rows:
        if rank:
            yield float(lead), Question(_shot(found, right), text, rival=_shot(found, wrong))


def _judge_regions(
    model: Model, records: Sequence[Record], questions: Sequence[Question]
) -> list[Verdict]:
    """The true score is that of the model's own best among the regions that the phrase names."""
    found = collect_regions(model, records, forgiving())
    places = {(record.id, box): place for place, (record, box) in enumerate(found.regions)}
    texts = list(found.right)
    queries = found.queries[[texts.index(q.true) for q in questions]]
    ranking = rank_regions(queries, found.vectors, [found.right[q.true] for q in questions])
    rivals = [places[q.rival.source, q.rival.boxes[0]] for q in questions if q.rival]
    return [
        Verdict(float(true), float(false), int(rank) + 1)
        for true, false, rank in zip(
            _scores(found, queries, ranking.right),
            _scores(found, queries, np.array(rivals)),
            ranking.ranks,
            strict=True,
        )
    ]


def _scores(found: Collection, queries: Tensor, places: Array) -> Tensor:
    """Of each query with the region at its place, (Q,)."""
    return (queries * found.vectors[torch.from_numpy(places)]).sum(1)


def _shot(found: Collection, place: int) -> Shot:
    record, box = found.regions[place]
    return Shot.of(record, [box])


inspect_region_retrieval = Inspection(_misplaced, _judge_regions)
