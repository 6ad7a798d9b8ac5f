"""Pictures of failures: what is drawn lies where it belongs."""

from io import BytesIO
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from intarsia.methods import Clip, ComAlign
from intarsia.model import Model
from intarsia.suite.failures import failure_cases
from intarsia.suite.inspect_places import inspect_pointing
from intarsia.suite.inspect_texts import inspect_negatives
from intarsia.suite.questions import Inspection, Question, Shot, Verdict


def opened(uri: str) -> Image.Image:
    with urlopen(uri) as data:
        return Image.open(BytesIO(data.read())).convert("RGB")


def wide(size=(800, 400)) -> np.ndarray:
    """Left half red, right half blue."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, : size[0] // 2, 0] = 255
    pixels[:, size[0] // 2 :, 2] = 255
    return pixels


@pytest.fixture
def clip(backbone) -> Model:
    return Model(backbone, Clip(backbone.dims)).eval()


def test_a_picture_is_small_and_its_boxes_scale_with_it(clip):
    question = Question(Shot("1", wide(), boxes=((400, 0, 800, 400),)), "blue")
    (case,) = failure_cases([question], inspect_pointing, [clip], [])
    (shot,) = case["shots"]
    assert (shot["width"], shot["height"]) == opened(shot["picture"]).size == (320, 160)
    assert shot["boxes"] == [[160, 0, 160, 160]]
    (view,) = case["models"][0]["views"]
    assert view["frame"] == pytest.approx(
        [80, 0, 160, 160], abs=1
    )  # the square that is not cut off
    assert opened(view["heat"]).size == clip.backbone.dims.grid[::-1]


def test_only_the_crop_is_shown(clip):
    question = Question(Shot("1", wide(), crop=(500, 0, 900, 100)), "blue", "red")
    (case,) = failure_cases([question], inspect_negatives, [clip, clip], [])
    picture = np.asarray(opened(case["shots"][0]["picture"]), float)
    assert picture.shape[:2] == (100, 300) and picture[..., 2].mean() > 200
    assert case["models"][0] == case["models"][1]
    assert [view["text"] for view in case["models"][0]["views"]] == ["blue", "red"]


def test_scores_are_of_the_two_texts(clip, records):
    record = records[0]
    negative = record.negatives[0]
    question = Question(Shot.of(record), record.captions[negative.caption], negative.text)
    (case,) = failure_cases([question], inspect_negatives, [clip], records)
    image = clip.encode_images([record.image])
    for text, score in (("true", question.true), ("false", question.false)):
        i2t, t2i = clip.similarity(image, clip.encode_texts([score]))
        assert case["models"][0][text] == pytest.approx(float((i2t + t2i) / 2), abs=1e-5)


def test_a_rival_is_drawn_in_a_picture_of_its_own(clip):
    """A phrase is in one picture, and another, of another size, was ranked first."""
    left, right = ((0, 0, 400, 400),), ((50, 0, 100, 100),)
    question = Question(
        Shot("a", wide(), None, left), "red", rival=Shot("b", wide((100, 100)), None, right)
    )
    inspection = Inspection(lambda *_: iter(()), lambda *_: [Verdict(0.1, 0.3, rank=2)])
    (case,) = failure_cases([question], inspection, [clip, clip], [])
    assert [shot["source"] for shot in case["shots"]] == ["a", "b"]
    assert [shot["boxes"] for shot in case["shots"]] == [[[0, 0, 160, 160]], [[50, 0, 50, 100]]]
    for model in case["models"]:
        assert [(view["shot"], view["text"]) for view in model["views"]] == [(0, "red"), (1, "red")]
        assert model["rank"] == 2 and not model["is_right"]
    frames = [view["frame"] for view in case["models"][0]["views"]]
    assert frames[0] == pytest.approx([80, 0, 160, 160], abs=1) and frames[1] == [0, 0, 100, 100]


def test_methods_of_components_show_a_matrix(backbone, records):
    pytest.importorskip("spacy", reason="needs the extra 'text'")
    model = Model(backbone, ComAlign(backbone.dims, layers=1), freeze="backbone").eval()
    record = records[0]
    question = Question(Shot.of(record), "a red circle above a blue square", "a dog")
    (case,) = failure_cases([question], inspect_negatives, [model], records)
    first, second = case["models"][0]["views"]
    assert "red circle" in first["columns"] and "dog" in second["columns"]
    assert len(first["rows"]) == len(first["values"]) == len(first["regions"]) > 0
    assert {len(row) for row in first["values"]} == {len(first["columns"])}
    assert "heat" not in first
