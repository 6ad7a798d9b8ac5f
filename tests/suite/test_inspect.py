"""Failures that are named: the true answer, the one that was given, and what another model says."""

import numpy as np
import pytest
from PIL import Image

from intarsia.backbones.loading import load_backbone
from intarsia.data.image_folder import class_names, image_folder
from intarsia.data.problems import Problems
from intarsia.evaluation.probe import evaluate_probe
from intarsia.evaluation.region_retrieval import collect_regions, evaluate_region_retrieval
from intarsia.evaluation.zero_shot import class_sentences, evaluate_zero_shot
from intarsia.methods import Clip, Filip
from intarsia.model import Model
from intarsia.runtime import seed_everything
from intarsia.suite.inspect_classes import inspect_probe, inspect_zero_shot
from intarsia.suite.inspect_places import inspect_region_retrieval
from intarsia.suite.questions import Question, Shot, worst


@pytest.fixture
def models(backbone) -> list[Model]:
    """Two with different random weights."""
    seed_everything(7)
    other = load_backbone("scenes-clip")
    return [Model(backbone, Clip(backbone.dims)).eval(), Model(other, Filip(other.dims)).eval()]


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """Noise sorted into five classes: nothing to learn, so that even a probe is wrong."""
    root, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("circle", "square", "star", "triangle", "ring"):
            (root / split / name).mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def answers(evaluation, records) -> set[str]:
    """The ids of the pictures that a protocol counts as wrong."""
    hits = evaluation.per_query["top1"].values
    return {record.id for record, hit in zip(records, hits, strict=True) if not hit}


@pytest.mark.parametrize("protocol", ["zero-shot", "probe"])
def test_the_class_that_was_given_and_the_true_one(models, noise, protocol):
    names = class_names(noise, "val")
    train, records = (list(image_folder(noise, split, Problems())) for split in ("train", "val"))
    if protocol == "zero-shot":
        sentences = class_sentences(names)
        inspection, items = inspect_zero_shot(sentences), records
        found = [evaluate_zero_shot(m, records, Problems(), sentences=sentences) for m in models]
    else:
        inspection, items = inspect_probe(names), [train, records]
        found = [evaluate_probe(m, train, records, Problems(), names=names) for m in models]
    questions = worst(inspection, models[1], items, 50)
    assert {q.shot.source for q in questions} == answers(found[1], records)
    assert len(questions) > 5
    truth = {record.id: record.captions[0] for record in records}
    for model, evaluation in zip(models, found, strict=True):
        wrong = answers(evaluation, records)
        verdicts = inspection.judge(model, items, questions)
        for question, verdict in zip(questions, verdicts, strict=True):
            assert question.true == truth[question.shot.source] != question.false
            assert verdict.is_right == (question.shot.source not in wrong)
            assert (verdict.answer == question.true) == verdict.is_right
            assert verdict.answer_score >= max(verdict.true, verdict.false)
            if model is models[1]:
                assert verdict.answer == question.false and verdict.rank > 1
    leads = [v.false - v.true for v in verdicts]
    assert leads == sorted(leads, reverse=True)


def test_scores_of_a_probe_are_probabilities(models, noise):
    names = class_names(noise, "val")
    both = [list(image_folder(noise, split, Problems())) for split in ("train", "val")]
    questions = [
        Question(Shot.of(both[1][0]), both[1][0].captions[0], name)
        for name in names
        if name != both[1][0].captions[0]
    ]
    verdicts = inspect_probe(names).judge(models[0], both, questions)
    assert verdicts[0].true + sum(v.false for v in verdicts) == pytest.approx(1)


def test_the_region_that_was_found_instead_is_in_its_own_picture(models, records):
    some = records[:8]
    found = [evaluate_region_retrieval(m, some, Problems()) for m in models]
    questions = worst(inspect_region_retrieval, models[1], some, 1000)
    assert len(questions) == (found[1].per_query["r1"].values == 0).sum() > 5
    assert any(q.rival.source != q.shot.source for q in questions)
    boxes = {(record.id, region.box) for record in some for region in record.regions}
    said = {
        (record.id, record.phrase_text(phrase).lower(), record.regions[index].box)
        for record in some
        for phrase in record.phrases
        for index in phrase.regions
    }
    for q in questions:
        assert (q.rival.source, q.rival.boxes[0]) in boxes
        assert (q.shot.source, q.true, q.shot.boxes[0]) in said
        assert (q.rival.source, q.true, q.rival.boxes[0]) not in said
    queries = list(collect_regions(models[0], some, Problems()).right)
    rows = [queries.index(q.true) for q in questions]
    for model, evaluation in zip(models, found, strict=True):
        verdicts = inspect_region_retrieval.judge(model, some, questions)
        for k in (1, 5, 10):
            hits = evaluation.per_query[f"r{k}"].values[rows]
            assert [verdict.rank <= k for verdict in verdicts] == (hits > 0).tolist()
    assert all(v.false >= v.true - 1e-6 and not v.is_right for v in verdicts)
