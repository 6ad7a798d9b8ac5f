from dataclasses import replace

import numpy as np
import pytest
import torch

from intarsia.data.problems import Problems
from intarsia.errors import DataError
from intarsia.evaluation.region_retrieval import (
    collect_regions,
    evaluate_region_retrieval,
    rank_regions,
)
from intarsia.types import Phrase, Record, Region

LEFT, RIGHT = (0, 0, 48, 112), (64, 0, 112, 112)
NAMES = ("red", "green", "blue", "yellow", "magenta", "cyan")


def record_of(key, image, texts, boxes=(LEFT, RIGHT)):
    """Phrase i is of region i."""
    phrases = tuple(Phrase(i, (0, len(text)), (i,)) for i, text in enumerate(texts))
    return Record(key, np.asarray(image), tuple(texts), tuple(map(Region, boxes)), phrases)


def test_ranks_worked_by_hand():
    """Scores 9, 7, 5, 3, 1 of five regions; a wrong one that is as good goes first."""
    regions = torch.tensor([[9.0], [7.0], [5.0], [3.0], [1.0]])
    queries = torch.ones(300, 1)
    right = [[0], [1, 4], [4], [2, 3, 4]] * 75
    found = rank_regions(queries, regions, right)
    assert found.ranks.tolist() == [0, 1, 4, 2] * 75
    assert found.right.tolist() == [0, 1, 4, 2] * 75 and found.wrong.tolist() == [1, 0, 0, 0] * 75
    even = torch.ones(4, 1)
    assert rank_regions(torch.ones(1, 1), even, [[2]]).ranks.tolist() == [3]
    assert rank_regions(torch.ones(1, 1), even, [[2, 0]]).ranks.tolist() == [2]
    with pytest.raises(DataError, match=r"scores of the regions hold NaN, first at \[0, 3\]"):
        rank_regions(torch.ones(1, 1), torch.tensor([[1], [1], [1], [torch.nan]]), [[0]])


def test_regions_are_found_in_the_whole_collection(colour_model, painted):
    """Six colours in three pictures; "Red" and "red" are one query with two right regions."""
    pairs = [("red", "green"), ("blue", "yellow"), ("magenta", "cyan"), ("Red", "blue")]
    records = [
        record_of(str(i), painted((112, 112), {a.lower(): LEFT, b: RIGHT}), (a, b))
        for i, (a, b) in enumerate(pairs)
    ]
    evaluation = evaluate_region_retrieval(colour_model, records, Problems(0.0))
    found = {name: metric.value for name, metric in evaluation.metrics.items()}
    assert (found["r1"], found["median_rank"], evaluation.metrics["r1"].n) == (100, 1, 6)
    assert found["r1_chance"] == pytest.approx(100 * (2 + 1 + 2 + 1 + 1 + 1) / 6 / 8)
    assert evaluation.per_query["r10"].values.tolist() == [100] * 6


def test_a_picture_that_says_the_same_twice_has_one_right_region(colour_model, painted):
    image = painted((112, 112), {"red": LEFT, "blue": RIGHT})
    texts = ("red", "blue", "Red ")
    record = record_of("a", image, texts)
    twice = replace(record, phrases=(*record.phrases[:2], Phrase(2, (0, 4), (0,))))
    found = collect_regions(colour_model, [twice], Problems(0.0))
    assert found.right == {"red": [0], "blue": [1]}


def test_bad_regions_are_told_and_do_not_shift_the_others(colour_model, painted):
    image = painted((112, 112), {"red": LEFT, "blue": RIGHT})
    outside = (200, 0, 240, 50)
    records = [
        record_of("a", image, ("green", "red", "blue"), (outside, LEFT, RIGHT)),
        record_of("b", image, ("green",), (outside,)),
    ]
    problems = Problems(1.0)
    metrics = evaluate_region_retrieval(colour_model, records, problems).metrics
    assert (metrics["r1"].value, metrics["r1"].n) == (100, 2)
    assert [(p.source, p.field) for p in problems] == [("a", "regions[0]"), ("b", "regions[0]")]
    with pytest.raises(DataError, match="none of 1 records has a phrase or a label with a box"):
        evaluate_region_retrieval(colour_model, records[1:], Problems(1.0))
    with pytest.raises(DataError, match="2 of 2 boxes are bad"):
        evaluate_region_retrieval(colour_model, records, Problems())
