import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from intarsia.evaluation.heat import boxes_from_map, contrast, upsampled


def test_upsampling_keeps_the_centres_and_is_halfway_at_the_borders_of_patches():
    """Two patches 0 and 1 over 8 cells: 3 cells a side are even by half a patch, then a ramp."""
    (row,) = upsampled(torch.tensor([[[0.0, 1.0]]]), 8)[:, 0].tolist()
    assert row == pytest.approx([0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1])


def test_the_box_of_a_block_of_patches_is_the_block():
    """Upsampled, the level 0.5 lies on the border between hot and cold patches."""
    maps = torch.zeros(1, 7, 7)
    maps[0, 2:4, 1:5] = 1
    best = boxes_from_map(upsampled(maps, 112)[0].numpy())[0]
    assert np.abs(best - [16, 32, 80, 64]).max() <= 2


def test_separate_peaks_give_separate_boxes_the_hotter_first():
    heat = np.zeros((10, 20))
    heat[2:5, 2:5] = 0.9
    heat[6:9, 12:15] = 1.0
    boxes = boxes_from_map(heat).tolist()
    assert boxes[:2] == [[12, 6, 15, 9], [2, 2, 5, 5]]


def test_touching_corners_do_not_connect():
    heat = np.zeros((4, 4))
    heat[0, 0] = heat[1, 1] = 1
    assert [0, 0, 2, 2] not in boxes_from_map(heat).tolist()


def test_overlapping_candidates_are_thinned_and_at_most_ten():
    """A pyramid has one candidate a level, each within the one below it."""
    ring = np.minimum.reduce(np.meshgrid(*2 * [20 - np.abs(np.arange(41) - 20)]))
    boxes = boxes_from_map(ring.astype(float))
    sides = boxes[:, 2] - boxes[:, 0]
    for i in range(len(boxes)):
        for j in range(i):
            small, large = sorted((sides[i], sides[j]))
            assert (small / large) ** 2 <= 0.7
    noise = np.random.default_rng(0).random((30, 30))
    assert len(boxes_from_map(noise)) == 10


def test_an_even_map_suggests_the_whole_picture():
    assert boxes_from_map(np.full((3, 5), 0.2, np.float32)).tolist() == [[0, 0, 5, 3]]


def test_contrast_is_the_correlation_with_the_box():
    rng = np.random.default_rng(0)
    heat = rng.random((6, 9))
    boxes = np.array([[0, 0, 3, 2], [4, 1, 9, 6], [2.4, 3.1, 4.6, 3.9]])
    inside = np.zeros((3, 6, 9))
    inside[0, 0:2, 0:3] = inside[1, 1:6, 4:9] = inside[2, 3:4, 2:5] = 1
    wanted = [pearsonr(heat.ravel(), mask.ravel())[0] * heat.std() for mask in inside]
    assert contrast(heat, boxes) == pytest.approx(wanted)
    assert contrast(heat, np.array([[0, 0, 9, 6]])).tolist() == [0]
