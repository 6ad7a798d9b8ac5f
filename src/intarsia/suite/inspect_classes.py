"""Failures among names: of the category of a box, of the class of a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from intarsia.data.coco import Category
from intarsia.evaluation.boxes import (
    BOX_PROTOCOLS,
    ProtocolName,
    class_vectors,
    label_ranks,
    labelled_boxes,
    roi_vectors,
    square_input,
)
from intarsia.evaluation.probe import probe_scores
from intarsia.evaluation.zero_shot import Sentences, class_labels, global_scores
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
from intarsia.types import Record

# Of boxes


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
        for record, image in still_readable(records):
            found = labelled_boxes(record, image.size, numbers, rules, forgiving())
            if not found[0]:
                continue
            scores = (roi_vectors(model, [image], [found[0]]) @ classes.mT).float().cpu()
            for box, label, row in zip(*found, scores, strict=True):
                false, lead = _best_other(row, label)
                if lead >= 0:
                    yield lead, Question(Shot.of(record, [box]), names[label], names[false])


@torch.inference_mode()
def _judge_names(model: Model, _: Any, questions: Sequence[Question]) -> list[Verdict]:
    model.eval()
    names = list(dict.fromkeys(name for q in questions for name in (q.true, q.false)))
    verdicts: list[Verdict] = []
    with square_input(model, None):
        classes = dict(zip(names, class_vectors(model, names, "method"), strict=True))
        size = model.backbone.images_at_once
        for start in range(0, len(questions), size):
            some = questions[start : start + size]
            pictures = [q.shot.picture() for q in some]
            vectors = roi_vectors(model, pictures, [q.shot.boxes for q in some])
            verdicts += [
                Verdict(float(vector @ classes[q.true]), float(vector @ classes[q.false]))
                for q, vector in zip(some, vectors, strict=True)
            ]
    return verdicts


# Of whole pictures, whose one caption is the name of their class

Score = Callable[[Model, Any, Sequence[Record]], tuple[Sequence[Record], Tensor]]


def inspect_zero_shot(sentences: Sentences) -> Inspection:
    """Scores are cosines with the classes."""

    def score(model: Model, _: Any, records: Sequence[Record]) -> tuple[Sequence[Record], Tensor]:
        return global_scores(model, records, forgiving(), sentences)

    return _inspect_classes(list(sentences), score, lambda items: items)


def inspect_probe(names: Sequence[str]) -> Inspection:
    """Scores are the probabilities of the regression; the items are its training pictures and the
    ones that it is asked about."""

    def score(
        model: Model, items: Any, records: Sequence[Record]
    ) -> tuple[Sequence[Record], Tensor]:
        good, logits, _ = probe_scores(model, items[0], records, forgiving(), names=names)
        return good, logits.double().softmax(1)

    return _inspect_classes(names, score, lambda items: items[1])


def _inspect_classes(
    names: Sequence[str], score: Score, asked: Callable[[Any], Sequence[Record]]
) -> Inspection:
    """``score`` gives the readable ones of some records and their scores of the classes (I,C)."""

    def find(model: Model, items: Any) -> Iterator[Mistake]:
        good, scores = score(model, items, asked(items))
        for record, label, row in zip(good, class_labels(good, names), scores, strict=True):
            false, lead = _best_other(row, label)
            if lead >= 0:
                yield lead, Question(Shot.of(record), names[label], names[false])

    def judge(model: Model, items: Any, questions: Sequence[Question]) -> list[Verdict]:
        wanted = [Record(q.shot.source, q.shot.image, (q.true,)) for q in questions]
        good, scores = score(model, items, wanted)
        labels = class_labels(good, names)
        ranks = label_ranks(scores, labels)
        return [
            Verdict(
                float(row[label]),
                float(row[names.index(question.false)]),
                int(rank) + 1,
                names[int(row.argmax())],
                float(row.max()),
            )
            for question, row, label, rank in zip(questions, scores, labels, ranks, strict=True)
        ]

    return Inspection(find, judge)


def _best_other(row: Tensor, label: int) -> tuple[int, float]:
    """The best of the other classes, and its lead over the true one."""
    others = row.clone()
    others[label] = -torch.inf
    best = int(others.argmax())
    return best, float(row[best] - row[label])
