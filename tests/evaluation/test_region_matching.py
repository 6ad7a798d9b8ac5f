"""The colour model of conftest.py knows red from green: so its regions tell swaps apart."""

import numpy as np
import pytest

from intarsia.data.problems import Problems
from intarsia.errors import DataError
from intarsia.evaluation.region_matching import evaluate_region_negatives
from intarsia.types import Negative, Record, Region


def record(colours, negatives, boxes=((0, 0, 56, 112), (56, 0, 112, 112))):
    image = np.zeros((112, 112, 3), np.uint8)
    for (x0, y0, x1, y1), colour in zip(boxes, colours, strict=True):
        image[y0:y1, x0:x1] = 255 * np.eye(3, dtype=np.uint8)[colour]
    regions = tuple(Region(box) for box in boxes)
    return Record("1", image, ("a red dog and a green cat",), regions, negatives=negatives)


@pytest.mark.parametrize("colours", [(0, 1), (2, 2)])
def test_phrases_look_for_their_regions(colour_model, colours):
    """What is not there loses against what is; in a blue picture the true caption loses."""
    false = Negative(0, "replace", "a blue dog and a green cat")
    found = evaluate_region_negatives(colour_model, [record(colours, (false,))], Problems())
    assert found.metrics["replace"].value == (100.0 if colours == (0, 1) else 0.0)


def test_captions_without_a_phrase_are_counted(colour_model):
    negatives = (Negative(0, "replace", "."), Negative(0, "replace", "a blue dog"))
    problems = Problems()
    found = evaluate_region_negatives(colour_model, [record((0, 1), negatives)], problems)
    assert found.metrics["replace"].n == 1
    assert "hard negative without a phrase" in problems.summary()
    with pytest.raises(DataError, match="no hard negative has a phrase"):
        evaluate_region_negatives(colour_model, [record((0, 1), negatives[:1])], Problems())
    with pytest.raises(DataError, match="none of 1 records has regions and hard negatives"):
        evaluate_region_negatives(colour_model, [record((0, 1), ())], Problems())
