"""Zero-shot classification, against hand-worked ranks and a reference that goes one by one."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from intarsia.data.image_folder import class_names, image_folder
from intarsia.data.images import load_image
from intarsia.data.problems import Problems
from intarsia.errors import DataError
from intarsia.evaluation.boxes import label_ranks
from intarsia.evaluation.metrics import summarise
from intarsia.evaluation.prompts import TEMPLATES
from intarsia.evaluation.zero_shot import (
    class_labels,
    class_outcomes,
    class_sentences,
    evaluate_zero_shot,
)
from intarsia.methods import Filip
from intarsia.model import Model


@pytest.fixture
def colours(colour_folder):
    records = list(image_folder(colour_folder, "val", Problems()))
    return records, class_sentences(class_names(colour_folder, "val"))


def test_figures_worked_by_hand():
    """Class 0 has ranks 0, 0, 1, 6 and class 1 has 0: top-1 3/5, top-5 4/5, macro (2/4 + 1)/2."""
    ranks, labels = np.array([0, 0, 1, 6, 0]), np.array([0, 0, 0, 0, 1])
    metrics = summarise(class_outcomes(ranks, labels, 7))
    assert {name: m.value for name, m in metrics.items()} == {
        "top1": 60,
        "top5": 80,
        "macro_top1": 75,
    }
    assert "top5" not in class_outcomes(ranks, labels, 5)


def test_ties_and_nan_are_not_hits():
    assert label_ranks(torch.zeros(2, 6), np.array([0, 5])).tolist() == [5, 5]
    with pytest.raises(DataError, match=r"scores of the classes hold NaN, first at \[0, 1\]"):
        label_ranks(torch.tensor([[0.0, torch.nan]]), np.array([0]))


@pytest.mark.parametrize("score", ["global", "method"])
def test_a_model_that_is_right_is_found_right(colour_model, colours, score):
    records, sentences = colours
    evaluation = evaluate_zero_shot(
        colour_model, records, Problems(0.0), sentences=sentences, score=score
    )
    assert {m.value for m in evaluation.metrics.values()} == {100.0}
    assert evaluation.metrics["top1"].n == 30
    assert evaluation.variant == {"global": "", "method": "method"}[score]


@pytest.mark.parametrize("score", ["global", "method"])
def test_both_scores_agree_with_one_by_one(backbone, records, score):
    """Classes with 1, 3 and 2 sentences; pictures of scenes, labelled at random."""
    model = Model(backbone, Filip(backbone.dims)).eval()
    sentences = {
        "circle": ["a red circle"],
        "square": ["a blue square", "the square", "a green square above a circle"],
        "star": ["a small star", "a star"],
    }
    some = [replace(r, captions=(list(sentences)[i % 3],)) for i, r in enumerate(records[:9])]
    ranks = []
    for i, record in enumerate(some):
        scores = []
        for texts in sentences.values():
            if score == "global":
                whole = model.image_features([load_image(record.image)]).image_global[0]
                each = [model.text_features([text]).text_global[0] for text in texts]
                mean = sum(vector / vector.norm() for vector in each)
                scores.append(float(whole @ mean / mean.norm()))
            else:
                image = model.encode_images([record.image])
                each = [float(model.similarity(image, model.encode_texts([t]))[0]) for t in texts]
                scores.append(sum(each) / len(each))
        ranks.append(sum(s > scores[i % 3] for s in scores))
    found = evaluate_zero_shot(model, some, Problems(), sentences=sentences, score=score)
    assert found.per_query["top1"].values.tolist() == [100 * (rank == 0) for rank in ranks]
    assert 0 < found.metrics["top1"].value < 100


def test_sentences_are_prompts_templates_or_ones_own(tmp_path):
    default = class_sentences(["hot_dog"])["hot_dog"]
    assert len(default) == len(TEMPLATES) and default[1] == "a photo of a hot dog."
    lines = tmp_path / "templates.txt"
    lines.write_text("a photo of a {}.\n\nart of {}\n")
    assert class_sentences(["hot_dog"], lines) == {
        "hot_dog": ["a photo of a hot dog.", "art of hot dog"]
    }
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"cat": ["a furry pet", "it purrs"], "dog": ["it barks"]}))
    assert class_sentences(["dog"], own) == {"dog": ["it barks"]}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("t.txt", "", "t.txt: no template in it"),
        ("t.txt", "a photo of {}\na photo", "t.txt: the template 'a photo' needs one {}"),
        ("t.txt", "{} and {}", "needs one {}"),
        ("o.json", '{"cat": ["it purrs"]}', "o.json: the class 'dog' needs a list .* has None"),
        ("o.json", '{"cat": ["it purrs"], "dog": []}', r"the class 'dog' needs .* has \[\]"),
        ("o.json", '{"cat": "it purrs"}', "the class 'cat' needs a list .* has 'it purrs'"),
        ("o.json", '["it purrs"]', "o.json: must be an object of lists of sentences"),
        ("o.json", '{"cat": ["a pet"], "dog": ["a pet"]}', "'cat' and 'dog' have the same"),
    ],
)
def test_bad_sentences_are_told(tmp_path, file, content, message):
    (tmp_path / file).write_text(content)
    with pytest.raises(DataError, match=message):
        class_sentences(["cat", "dog"], tmp_path / file)


def test_names_that_are_spoken_alike_are_refused():
    with pytest.raises(DataError, match="'hot_dog' and 'hot-dog' have the same sentences"):
        class_sentences(["hot_dog", "hot-dog"])


def test_labels_that_are_no_class_and_broken_pictures_are_told(colour_model, colours):
    records, sentences = colours
    odd = replace(records[0], captions=("mauve",))
    with pytest.raises(DataError, match=r"\('mauve',\) of blue/0.png are not one of the 6 classes"):
        evaluate_zero_shot(colour_model, [odd], Problems(), sentences=sentences)
    with pytest.raises(DataError, match="are not one of the 2 classes"):
        class_labels([replace(odd, captions=("a", "b"))], ["a", "b"])
    broken = replace(records[0], image=b"none")
    with pytest.raises(DataError, match="blue/0.png: image: picture of 4 bytes"):
        evaluate_zero_shot(colour_model, [broken, *records[1:]], Problems(), sentences=sentences)
    metrics = evaluate_zero_shot(
        colour_model, [broken, *records[1:]], Problems(1.0), sentences=sentences
    ).metrics
    assert (metrics["top1"].value, metrics["top1"].n) == (100, 29)
