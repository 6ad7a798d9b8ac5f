"""Failures among texts of a picture: captions, hard negatives, the cases of a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from intarsia.evaluation.compositional_cases import Case, score_cases
from intarsia.evaluation.harness import encoded_pictures, score_negatives
from intarsia.evaluation.retrieval import first_captions, rank_with_top
from intarsia.evaluation.vectors import all_texts, both_ways, distinct, paired, together
from intarsia.model import Model
from intarsia.suite.questions import Inspection, Mistake, Question, Shot, Verdict, forgiving
from intarsia.types import Embeddings, Record


def _retrieval(captions: int | None, model: Model, records: Sequence[Record]) -> Iterator[Mistake]:
    """The best caption of each picture against the text of others alone that is ranked first."""
    good, image = encoded_pictures(
        model, records, forgiving(), lambda r: bool(r.captions), "a caption"
    )
    texts, truth = first_captions(good, captions)
    owner = truth.owner
    image, text = together(image, all_texts(model, texts))
    _, top = rank_with_top(image, text, model.method.terms, owner, truth=truth)
    own, _ = paired(model, image, text, owner, torch.arange(len(text)))
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
    good, owner, negatives, true, false = score_negatives(model, records, forgiving())
    leads = (false - true).tolist()
    for i, negative, lead in zip(owner.tolist(), negatives, leads, strict=True):
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
    score: Callable[[Model, Embeddings, Embeddings, Tensor, Tensor], Tensor],
) -> Callable[[Model, Any, Sequence[Question]], list[Verdict]]:
    def judge(model: Model, _: Any, questions: Sequence[Question]) -> list[Verdict]:
        pictures = (q.shot.shown(model) for q in questions)
        regions = [q.shot.regions for q in questions] if model.takes_regions else None
        image = model.encode_images(pictures, regions=regions)
        text, columns = distinct(model, [q.true for q in questions], [q.false for q in questions])
        rows = torch.arange(len(questions))
        scores = (score(model, image, text, rows, column).tolist() for column in columns)
        return list(map(Verdict, *scores))

    return judge


def inspect_retrieval(captions: int | None) -> Inspection:
    """Of the first ``captions`` of each picture (None = all), as in the protocol."""
    find = partial(_retrieval, captions)
    return Inspection(find, _judge_texts(lambda *asked: paired(*asked)[0]))


inspect_negatives = Inspection(_negatives, _judge_texts(both_ways))
inspect_cases = Inspection(_cases, _judge_texts(both_ways))
