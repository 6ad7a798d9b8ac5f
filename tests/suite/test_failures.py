"""Pictures of failures: what is drawn lies where it belongs."""

from io import BytesIO
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from intarsia.methods import Clip, ComAlign
from intarsia.model import Model
from intarsia.suite.failures import failure_cases
from intarsia.suite.questions import Question, inspect_negatives, inspect_pointing


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
    question = Question("1", wide(), "blue", boxes=((400, 0, 800, 400),))
    (case,) = failure_cases([question], inspect_pointing, [clip])
    assert (case["width"], case["height"]) == opened(case["picture"]).size == (320, 160)
    assert case["boxes"] == [[160, 0, 160, 160]]
    (view,) = case["models"][0]["views"]
    assert view["frame"] == pytest.approx(
        [80, 0, 160, 160], abs=1
    )  # the square that is not cut off
    assert opened(view["heat"]).size == clip.backbone.dims.grid[::-1]


def test_only_the_crop_is_shown(clip):
    question = Question("1", wide(), "blue", "red", crop=(500, 0, 900, 100))
    (case,) = failure_cases([question], inspect_negatives, [clip, clip])
    picture = np.asarray(opened(case["picture"]), float)
    assert picture.shape[:2] == (100, 300) and picture[..., 2].mean() > 200
    assert case["models"][0] == case["models"][1]
    assert [view["text"] for view in case["models"][0]["views"]] == ["blue", "red"]


def test_scores_are_of_the_two_texts(clip, records):
    record = records[0]
    negative = record.negatives[0]
    question = Question(record.id, record.image, record.captions[negative.caption], negative.text)
    (case,) = failure_cases([question], inspect_negatives, [clip])
    image = clip.encode_images([record.image])
    for text, score in (("true", question.true), ("false", question.false)):
        i2t, t2i = clip.similarity(image, clip.encode_texts([score]))
        assert case["models"][0][text] == pytest.approx(float((i2t + t2i) / 2), abs=1e-5)


def test_methods_of_components_show_a_matrix(backbone, records):
    pytest.importorskip("spacy", reason="needs the extra 'text'")
    model = Model(backbone, ComAlign(backbone.dims, layers=1), freeze="backbone").eval()
    record = records[0]
    question = Question(
        record.id, record.image, "a red circle above a blue square", "a dog", regions=record.regions
    )
    (case,) = failure_cases([question], inspect_negatives, [model])
    first, second = case["models"][0]["views"]
    assert "red circle" in first["columns"] and "dog" in second["columns"]
    assert len(first["rows"]) == len(first["values"]) == len(first["regions"]) > 0
    assert {len(row) for row in first["values"]} == {len(first["columns"])}
    assert "heat" not in first
