"""Region and span pooling against sums worked out one by one."""

import pytest
import torch
import torch.nn.functional as F

from intarsia.errors import ShapeError
from intarsia.ops.regions import pool_regions, pool_spans


def test_a_box_on_whole_patches_is_bilinear_at_its_sampling_points():
    """A box of exactly one cell samples that cell's centre only."""
    patches = torch.randn(2, 12, 5)
    boxes = torch.tensor([[32.0, 0.0, 48.0, 16.0], [0.0, 32.0, 16.0, 48.0]])
    pooled = pool_regions(patches, (3, 4), boxes, torch.tensor([0, 1]), (48, 64))
    torch.testing.assert_close(pooled[0], F.normalize(patches[0, 2], dim=-1))
    torch.testing.assert_close(pooled[1], F.normalize(patches[1, 8], dim=-1))


def test_a_box_of_two_cells_is_their_normalised_mean():
    patches = torch.randn(1, 4, 6)
    pooled = pool_regions(
        patches, (2, 2), torch.tensor([[0.0, 0.0, 32.0, 16.0]]), torch.tensor([0]), (32, 32)
    )
    unit = F.normalize(patches[0], dim=-1)
    torch.testing.assert_close(pooled[0], F.normalize(unit[0] + unit[1], dim=-1))


def test_region_gradients():
    patches = torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[3.0, 2.0, 30.0, 17.0]])
    assert torch.autograd.gradcheck(
        lambda p: pool_regions(p, (2, 2), boxes, torch.tensor([0]), (32, 32)), (patches,)
    )


def test_wrong_grid_is_named():
    with pytest.raises(ShapeError, match="3 x 4"):
        pool_regions(torch.zeros(1, 9, 2), (3, 4), torch.zeros(1, 4), torch.tensor([0]), (4, 4))


OFFSETS = torch.tensor([[[0, 0], [0, 1], [2, 5], [6, 9], [6, 9], [0, 0]]])  # bos a red cat+ pad
MASK = torch.tensor([[False, True, True, True, True, False]])


def test_a_phrase_is_the_mean_of_its_tokens():
    tokens = torch.randn(1, 6, 4, dtype=torch.float64)
    spans = torch.tensor([[2, 9], [0, 1], [20, 25]])
    pooled, found = pool_spans(tokens, MASK, OFFSETS, spans, torch.zeros(3, dtype=torch.long))
    unit = F.normalize(tokens[0], dim=-1)
    torch.testing.assert_close(pooled[0], F.normalize(unit[2] + unit[3] + unit[4], dim=-1))
    torch.testing.assert_close(pooled[1], unit[1])
    assert found.tolist() == [True, True, False]
    assert pooled[2].abs().sum() == 0


def test_span_gradients():
    tokens = torch.randn(1, 6, 4, dtype=torch.float64, requires_grad=True)
    spans, caption = torch.tensor([[2, 9], [20, 25]]), torch.zeros(2, dtype=torch.long)
    assert torch.autograd.gradcheck(
        lambda t: pool_spans(t, MASK, OFFSETS, spans, caption)[0], (tokens,)
    )
