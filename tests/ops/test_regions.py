"""Region and phrase pooling against sums worked out one by one."""

import pytest
import torch
import torch.nn.functional as F

from intarsia.errors import ShapeError
from intarsia.ops.regions import enlarged_crops, pool_regions, pool_words


def test_a_box_on_whole_patches_is_bilinear_at_its_sampling_points():
    """A box of exactly one cell samples that cell's centre only."""
    patches = torch.randn(2, 12, 5)
    boxes = torch.tensor([[[0.5, 0.0, 0.75, 1 / 3]], [[0.0, 2 / 3, 0.25, 1.0]]])
    pooled = pool_regions(patches, (3, 4), boxes)
    torch.testing.assert_close(pooled[0, 0], F.normalize(patches[0, 2], dim=-1))
    torch.testing.assert_close(pooled[1, 0], F.normalize(patches[1, 8], dim=-1))


def test_a_box_of_two_cells_is_their_normalised_mean():
    patches = torch.randn(1, 4, 6)
    pooled = pool_regions(patches, (2, 2), torch.tensor([[[0.0, 0.0, 1.0, 0.5]]]))
    unit = F.normalize(patches[0], dim=-1)
    torch.testing.assert_close(pooled[0, 0], F.normalize(unit[0] + unit[1], dim=-1))


def test_region_gradients():
    patches = torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[[0.1, 0.05, 0.9, 0.55]]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p: pool_regions(p, (2, 2), boxes), (patches,))


@pytest.mark.parametrize(
    ("patches", "boxes", "message"),
    [((1, 9, 2), (1, 1, 4), "3 x 4"), ((2, 12, 2), (1, 1, 4), "not those of 2 pictures")],
)
def test_wrong_shapes_are_named(patches, boxes, message):
    with pytest.raises(ShapeError, match=message):
        pool_regions(torch.zeros(patches), (3, 4), torch.zeros(boxes))


MASK = torch.tensor([[False, True, True, True, True, False]])  # bos a red cat + pad


def test_a_phrase_is_the_mean_of_its_tokens():
    tokens = torch.randn(1, 6, 4, dtype=torch.float64)
    pooled = pool_words(tokens, MASK, torch.tensor([[[1, 4], [0, 1], [4, 9], [2, 2]]]))
    unit = F.normalize(tokens[0], dim=-1)
    torch.testing.assert_close(pooled[0, 0], F.normalize(unit[2] + unit[3] + unit[4], dim=-1))
    torch.testing.assert_close(pooled[0, 1], unit[1])
    assert pooled[0, 2:].abs().sum() == 0


def test_padding_before_the_real_tokens_changes_nothing():
    tokens = torch.randn(1, 4, 3)
    words = torch.tensor([[[1, 3]]])
    left = torch.cat([torch.full((1, 2, 3), 9.0), tokens], 1)
    mask = torch.tensor([[False, False, True, True, True, True]])
    torch.testing.assert_close(
        pool_words(left, mask, words), pool_words(tokens, mask[:, 2:], words)
    )


def test_phrase_gradients():
    tokens = torch.randn(1, 6, 4, dtype=torch.float64, requires_grad=True)
    words = torch.tensor([[[1, 4], [0, 2]]])
    assert torch.autograd.gradcheck(lambda t: pool_words(t, MASK, words), (tokens,))


def resized(pixels, x0, y0, x1, y1):
    """Bilinear, without smoothing, as if the box were a picture of its own."""
    cut = pixels[None, :, y0:y1, x0:x1]
    size = tuple(pixels.shape[1:])
    return F.interpolate(cut, size, mode="bilinear", align_corners=False)[0]


def assert_crop(found, expected):
    """Alike but for the outermost pixels, which bilinear sampling may take from outside the box."""
    inner = slice(6, -6)
    torch.testing.assert_close(found[:, inner, inner], expected[:, inner, inner], atol=0.02, rtol=0)


def smooth_picture(seed: int):
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (48, 48), mode="bicubic", align_corners=False)[0]


def test_crops_are_enlarged_about_their_centres_and_cut_at_the_edges():
    pixels = torch.stack([smooth_picture(0), smooth_picture(1)])
    boxes = torch.tensor([[[16, 16, 32, 24], [0, 0, 48, 48]], [[40, 0, 48, 16], [0, 0, 1, 1]]]) / 48
    mask = torch.tensor([[True, True], [True, False]])
    crops = enlarged_crops(pixels, boxes, mask)
    assert crops.shape == (3, 3, 48, 48)
    assert_crop(crops[0], resized(pixels[0], 12, 14, 36, 26))
    torch.testing.assert_close(crops[1], pixels[0], atol=0.1, rtol=0)
    assert_crop(crops[1], pixels[0])
    assert_crop(crops[2], resized(pixels[1], 38, 0, 48, 20))
    plain = enlarged_crops(pixels, boxes, mask, factor=1.0)
    assert_crop(plain[0], resized(pixels[0], 16, 16, 32, 24))


def test_no_box_makes_no_crop():
    mask = torch.zeros(2, 3, dtype=torch.bool)
    assert enlarged_crops(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 4), mask).shape == (0, 3, 8, 8)
