"""Failures among texts of a picture: captions, hard negatives, the cases of a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from intarsia.evaluation.compositional_cases import Case, score_cases
from intarsia.evaluation.harness import encoded_pictures
from intarsia.evaluation.retrieval import first_captions, rank_with_top
from intarsia.evaluation.vectors import both_ways, gathered, image_to_text, together
from intarsia.model import Model
from intarsia.suite.questions import Inspection, Mistake, Question, Shot, Verdict, forgiving
from intarsia.types import Embeddings, Record

CAPTIONS = 5  # of a picture, as in the protocol


def _retrieval(model: Model, records: Sequence[Record]) -> Iterator[Mistake]:
    """The best caption of each picture against the text of others alone that is ranked first."""
    good, image = encoded_pictures(model, records, forgiving(), lambda r: bool(r.captions))
    texts, truth = first_captions(good, CAPTIONS)
    owner = truth.owner
    image, text = together(image, gathered(model.text_batches(texts), model.device))
    _, top = rank_with_top(image, text, model.method.terms, owner, truth=truth)
    own = image_to_text(model, image.rows(owner), text).cpu()
    for row, record in enumerate(good):
        wrong = (~truth.mask(torch.tensor([row]), top.texts[row])[0]).nonzero().flatten()
        mine = (owner == row).nonzero().flatten()
        if len(wrong):
            best = mine[own[mine].argmax()]
            lead = float(top.text_scores[row, wrong[0]] - own[best])
            if lead >= 0:
                false = texts[int(top.texts[row, wrong[0]])]
                yield lead, Question(Shot.of(record), texts[int(best)], false)


def _negatives(model: Model, records: Sequence[Record]) -> Iterator[Mistake]:
    good, image = encoded_pictures(model, records, forgiving(), lambda r: bool(r.negatives))
    cases = [(i, negative) for i, record in enumerate(good) for negative in record.negatives]
    owner = image.rows(torch.tensor([i for i, _ in cases]))
    true, false = (
        both_ways(model, owner, model.encode_texts(texts))
        for texts in (
            [good[i].captions[negative.caption] for i, negative in cases],
            [negative.text for _, negative in cases],
        )
    )
    for (i, negative), lead in zip(cases, (false - true).tolist(), strict=True):
        if lead >= 0:
            true_text = good[i].captions[negative.caption]
            yield lead, Question(Shot.of(good[i]), true_text, negative.text, negative.kind)


def _cases(model: Model, cases: Sequence[Case]) -> Iterator[Mistake]:
    good, scores = score_cases(model, cases, forgiving())
    best, where = scores[:, 1:].max(1)
    leads = (best - scores[:, 0]).tolist()
    for case, lead, index in zip(good, leads, where.tolist(), strict=True):
        if lead >= 0:
            shot = Shot(case.source, case.image, crop=case.box)
            yield lead, Question(shot, case.texts[0], case.texts[1 + index], case.kind)


def _judge_texts(
    score: Callable[[Model, Embeddings, Embeddings], Tensor],
) -> Callable[[Model, Any, Sequence[Question]], list[Verdict]]:
    def judge(model: Model, _: Any, questions: Sequence[Question]) -> list[Verdict]:
        pictures = (q.shot.shown(model) for q in questions)
        regions = [q.shot.regions for q in questions] if model.takes_regions else None
        image = model.encode_images(pictures, regions=regions)
        true, false = (
            score(model, image, model.encode_texts(texts)).tolist()
            for texts in ([q.true for q in questions], [q.false for q in questions])
        )
        return list(map(Verdict, true, false))

    return judge


inspect_retrieval = Inspection(_retrieval, _judge_texts(image_to_text))
inspect_negatives = Inspection(_negatives, _judge_texts(both_ways))
inspect_cases = Inspection(_cases, _judge_texts(both_ways))
