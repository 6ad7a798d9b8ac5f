"""Single failures of a protocol: which questions a model got wrong, and how two models score them.

A protocol says how often a model fails; here are the failures themselves. Each is a question with a
true answer and the false one that the model preferred.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intarsia.data.coco import Category
from intarsia.data.images import AnyImage, load_image
from intarsia.data.problems import Problems
from intarsia.errors import DataError
from intarsia.evaluation.boxes import (
    BOX_PROTOCOLS,
    ProtocolName,
    class_vectors,
    labelled_boxes,
    roi_vectors,
    square_input,
)
from intarsia.evaluation.compositional_cases import Case, score_cases
from intarsia.evaluation.harness import encoded_pictures, phrase_boxes
from intarsia.evaluation.mentions import mentions
from intarsia.evaluation.metrics import Array
from intarsia.evaluation.retrieval import rank_with_top
from intarsia.evaluation.zero_shot import global_vectors
from intarsia.model import Model
from intarsia.ops.similarity import paired_scores
from intarsia.types import Box, Embeddings, ImageSource, Record, Region

CAPTIONS = 5  # of a picture, as in the protocol


@dataclass(frozen=True)
class Question:
    """A picture, the true text, and the false one that was preferred.

    ``false`` is empty where the two answers are places: the ``boxes`` of the text, or outside of
    them. With ``crop`` only this part of the picture is shown. ``regions`` are those of the record.
    """

    source: str
    image: ImageSource
    true: str
    false: str = ""
    kind: str = ""
    crop: Box | None = None
    boxes: tuple[Box, ...] = ()
    regions: tuple[Region, ...] = ()

    def picture(self) -> Image.Image:
        """What is shown."""
        image = load_image(self.image)
        if self.crop is None:
            return image
        x0, y0, x1, y1 = (round(value) for value in self.crop)
        return image.crop((max(x0, 0), max(y0, 0), min(x1, image.width), min(y1, image.height)))

    def shown(self, model: Model) -> AnyImage:
        """The same, as the model takes it: a method that cuts its own crops wants the file."""
        as_stored = "components" in model.method.needs and self.crop is None
        return self.image if as_stored else self.picture()


Scores = tuple[float, float]  # of the true answer, of the false one
Mistake = tuple[float, Question]  # the lead of the false answer, at least 0


@dataclass(frozen=True)
class Inspection:
    """``find`` all mistakes of a model among a protocol's records or cases; ``judge`` questions
    with any model."""

    find: Callable[[Model, Any], Iterator[Mistake]]
    judge: Callable[[Model, Sequence[Question]], list[Scores]]


def worst(inspection: Inspection, model: Model, items: Any, num: int) -> list[Question]:
    """The ``num`` mistakes with the greatest lead of the false answer, worst first."""
    mistakes = sorted(inspection.find(model, items), key=lambda mistake: -mistake[0])
    return [question for _, question in mistakes[:num]]


# Texts of a picture


def _retrieval(model: Model, records: Sequence[Record]) -> Iterator[Mistake]:
    """The best caption of each picture against the text of another that is ranked first."""
    good, image = encoded_pictures(model, records, Problems(1.0), lambda r: bool(r.captions))
    texts = [caption for record in good for caption in record.captions[:CAPTIONS]]
    owner = torch.tensor([i for i, r in enumerate(good) for _ in r.captions[:CAPTIONS]])
    text = model.encode_texts(texts)
    _, top = rank_with_top(image, text, model.method.terms, owner)
    own = _image_to_text(model, image.rows(owner), text)
    for row, record in enumerate(good):
        wrong = (owner[top.texts[row]] != row).nonzero().flatten()
        mine = (owner == row).nonzero().flatten()
        if len(wrong):
            best = mine[own[mine].argmax()]
            lead = float(top.text_scores[row, wrong[0]] - own[best])
            if lead >= 0:
                false = texts[int(top.texts[row, wrong[0]])]
                yield (
                    lead,
                    Question(
                        record.id, record.image, texts[int(best)], false, regions=record.regions
                    ),
                )


def _negatives(model: Model, records: Sequence[Record]) -> Iterator[Mistake]:
    good, image = encoded_pictures(model, records, Problems(1.0), lambda r: bool(r.negatives))
    cases = [(i, negative) for i, record in enumerate(good) for negative in record.negatives]
    owner = image.rows(torch.tensor([i for i, _ in cases]))
    true, false = (
        _both_ways(model, owner, model.encode_texts(texts))
        for texts in (
            [good[i].captions[negative.caption] for i, negative in cases],
            [negative.text for _, negative in cases],
        )
    )
    for (i, negative), lead in zip(cases, (false - true).tolist(), strict=True):
        if lead >= 0:
            record, caption = good[i], good[i].captions[negative.caption]
            yield (
                lead,
                Question(
                    record.id,
                    record.image,
                    caption,
                    negative.text,
                    negative.kind,
                    regions=record.regions,
                ),
            )


def _cases(model: Model, cases: Sequence[Case]) -> Iterator[Mistake]:
    good, scores = score_cases(model, cases, Problems(1.0))
    best, where = scores[:, 1:].max(1)
    leads = (best - scores[:, 0]).tolist()
    for case, lead, index in zip(good, leads, where.tolist(), strict=True):
        if lead >= 0:
            false = case.texts[1 + index]
            yield (
                lead,
                Question(case.source, case.image, case.texts[0], false, case.kind, crop=case.box),
            )


def _image_to_text(model: Model, image: Embeddings, text: Embeddings) -> Tensor:
    return paired_scores(image, text, model.method.terms)[0]


def _both_ways(model: Model, image: Embeddings, text: Embeddings) -> Tensor:
    i2t, t2i = paired_scores(image, text, model.method.terms)
    return (i2t + t2i) / 2


def _judge_texts(
    score: Callable[[Model, Embeddings, Embeddings], Tensor],
) -> Callable[[Model, Sequence[Question]], list[Scores]]:
    def judge(model: Model, questions: Sequence[Question]) -> list[Scores]:
        pictures = (question.shown(model) for question in questions)
        image = model.encode_images(pictures, regions=(q.regions for q in questions))
        true, false = (
            score(model, image, model.encode_texts(texts)).tolist()
            for texts in ([q.true for q in questions], [q.false for q in questions])
        )
        return list(zip(true, false, strict=True))

    return judge


inspect_retrieval = Inspection(_retrieval, _judge_texts(_image_to_text))
inspect_negatives = Inspection(_negatives, _judge_texts(_both_ways))
inspect_cases = Inspection(_cases, _judge_texts(_both_ways))


# Names of a box


def inspect_boxes(protocol: ProtocolName, categories: Sequence[Category] | None) -> Inspection:
    """``categories`` None = every label of the records."""

    def find(model: Model, records: Sequence[Record]) -> Iterator[Mistake]:
        labels = {region.label for record in records for region in record.regions} - {""}
        known = [Category(name) for name in sorted(labels)] if categories is None else categories
        yield from _misnamed(model, records, [c.name for c in known], protocol)

    return Inspection(find, _judge_names)


@torch.inference_mode()
def _misnamed(
    model: Model, records: Sequence[Record], names: Sequence[str], protocol: ProtocolName
) -> Iterator[Mistake]:
    model.eval()
    numbers = {name: number for number, name in enumerate(names)}
    rules = BOX_PROTOCOLS[protocol]
    with square_input(model, None):
        classes = class_vectors(model, names, "method")
        for record, image in _readable(records):
            found = labelled_boxes(record, image.size, numbers, rules, Problems(1.0))
            if not found[0]:
                continue
            scores = (roi_vectors(model, [image], [found[0]]) @ classes.mT).float().cpu()
            for box, label, row in zip(*found, scores, strict=True):
                own = float(row[label])
                row[label] = -torch.inf
                lead = float(row.max()) - own
                if lead >= 0:
                    false = names[int(row.argmax())]
                    yield (
                        lead,
                        Question(
                            record.id,
                            record.image,
                            names[label],
                            false,
                            boxes=(box,),
                            regions=record.regions,
                        ),
                    )


@torch.inference_mode()
def _judge_names(model: Model, questions: Sequence[Question]) -> list[Scores]:
    model.eval()
    names = list(dict.fromkeys(name for q in questions for name in (q.true, q.false)))
    scores: list[Scores] = []
    with square_input(model, None):
        classes = dict(zip(names, class_vectors(model, names, "method"), strict=True))
        size = model.backbone.images_at_once
        for start in range(0, len(questions), size):
            some = questions[start : start + size]
            vectors = roi_vectors(model, [q.picture() for q in some], [list(q.boxes) for q in some])
            scores += [
                (float(vector @ classes[q.true]), float(vector @ classes[q.false]))
                for q, vector in zip(some, vectors, strict=True)
            ]
    return scores


def inspect_classes(names: Sequence[str]) -> Inspection:
    """Of whole pictures whose caption is the name of their class."""

    def find(model: Model, records: Sequence[Record]) -> Iterator[Mistake]:
        numbers = {name: number for number, name in enumerate(names)}
        good, vectors = global_vectors(model, records, Problems(1.0))
        scores = vectors @ class_vectors(model, names, "global").float().cpu().mT
        for record, row in zip(good, scores, strict=True):
            label = numbers[record.captions[0]]
            own = float(row[label])
            row[label] = -torch.inf
            lead = float(row.max()) - own
            if lead >= 0:
                yield lead, Question(record.id, record.image, names[label], names[row.argmax()])

    return Inspection(find, _judge_classes)


@torch.inference_mode()
def _judge_classes(model: Model, questions: Sequence[Question]) -> list[Scores]:
    names = list(dict.fromkeys(name for q in questions for name in (q.true, q.false)))
    classes = dict(zip(names, class_vectors(model, names, "global").cpu(), strict=True))
    records = [Record(q.source, q.image, (q.true,)) for q in questions]
    _, vectors = global_vectors(model, records, Problems())
    return [
        (float(vector @ classes[q.true]), float(vector @ classes[q.false]))
        for q, vector in zip(questions, vectors, strict=True)
    ]


# Places of a phrase

Places = Callable[[Record], dict[str, list[Box]]]
Square = Callable[[Model], AbstractContextManager[None]]


def _inspect_places(places: Places, square: Square) -> Inspection:
    """``square`` says how the model sees the pictures."""

    def find(model: Model, records: Sequence[Record]) -> Iterator[Mistake]:
        with square(model):
            for record, image in _readable(records):
                found = places(record)
                if not found:
                    continue
                maps = model.patch_maps(image, list(found)).numpy()
                for (phrase, boxes), heat in zip(found.items(), maps, strict=True):
                    inside, outside = _inside_and_outside(model, image, boxes, heat)
                    if outside >= inside:
                        question = Question(
                            record.id,
                            record.image,
                            phrase,
                            boxes=tuple(boxes),
                            regions=record.regions,
                        )
                        yield outside - inside, question

    def judge(model: Model, questions: Sequence[Question]) -> list[Scores]:
        scores = []
        with square(model):
            for question in questions:
                image = question.picture()
                heat = model.patch_maps(image, [question.true])[0].numpy()
                scores.append(_inside_and_outside(model, image, question.boxes, heat))
        return scores

    return Inspection(find, judge)


def _inside_and_outside(
    model: Model, image: Image.Image, boxes: Sequence[Box], heat: Array
) -> Scores:
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


def _readable(records: Sequence[Record]) -> Iterator[tuple[Record, Image.Image]]:
    """What the protocol has counted as bad already is passed over."""
    for record in records:
        try:
            yield record, load_image(record.image)
        except DataError:
            continue
