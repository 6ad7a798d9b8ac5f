import numpy as np
import pytest
import torch

from intarsia.errors import DataError, ShapeError
from intarsia.evaluation.metrics import summarise
from intarsia.evaluation.pointing import pointing_chance, pointing_hits, pointing_outcomes


def peak(h, w, row, column):
    return torch.zeros(h, w).index_put((torch.tensor(row), torch.tensor(column)), torch.tensor(1.0))


def test_the_centre_of_the_peak_cell_decides():
    """In a 60 x 40 picture under a 2 x 3 grid the last cell's centre is (50, 30)."""
    maps = peak(2, 3, 1, 2).expand(4, 2, 3)
    boxes = [[(49, 29, 51, 31)], [(51, 20, 60, 40)], [(40, 31, 60, 40)], [(50, 30, 60, 40)]]
    assert pointing_hits(maps, boxes, (60, 40)).tolist() == [True, False, False, True]


def test_any_box_of_the_phrase_counts_and_none_is_a_miss():
    maps = peak(2, 2, 0, 1).expand(3, 2, 2)
    left, right = (0, 0, 50, 50), (50, 0, 100, 50)
    hits = pointing_hits(maps, [[left, right], [left], []], (100, 100))
    assert hits.tolist() == [True, False, False]


def test_the_first_of_equal_cells_wins():
    flat = torch.zeros(1, 3, 3)
    assert pointing_hits(flat, [[(0, 0, 10, 10)]], (30, 30)).tolist() == [True]
    assert pointing_hits(flat, [[(20, 20, 30, 30)]], (30, 30)).tolist() == [False]


def test_chance_is_the_share_of_cells_of_the_union():
    top, left = (0, 0, 40, 10), (0, 0, 10, 40)
    chance = pointing_chance([[top], [top, left], []], (4, 4), (40, 40))
    assert chance.tolist() == [4 / 16, 7 / 16, 0]


def test_random_maps_land_at_chance():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 150, (600, 2))
    boxes = [[(x, y, x + 70, y + 90)] for x, y in corner]
    maps = torch.rand(600, 7, 7, generator=torch.Generator().manual_seed(1))
    hits = pointing_hits(maps, boxes, (224, 224))
    metrics = summarise(pointing_outcomes(hits, pointing_chance(boxes, (7, 7), (224, 224))))
    low, high = metrics["pointing"].ci95
    assert low <= metrics["pointing_chance"].value <= high
    assert 5 < metrics["pointing_chance"].value < 30


def test_bad_maps_are_named():
    with pytest.raises(DataError, match=r"the maps hold NaN, first at \[1, 0, 1\]"):
        pointing_hits(torch.tensor([[[0.0, 1]], [[0, torch.nan]]]), [[], []], (10, 10))
    with pytest.raises(ShapeError, match="2 maps and the boxes of 1 phrases"):
        pointing_hits(torch.zeros(2, 3, 3), [[]], (10, 10))
