"""FILIP's scores in loops, and its selection of tokens."""

import pytest
import torch
import torch.nn.functional as F

from intarsia.methods import Filip
from intarsia.terms.similarity import pairwise_scores
from intarsia.types import Dims, Features

DIMS = Dims(embed=8, grid=(2, 3), context=6)


def features() -> Features:
    g = torch.Generator().manual_seed(0)
    return Features(
        image_global=torch.randn(3, 8, generator=g),
        image_patches=torch.randn(3, 6, 8, generator=g),
        text_global=torch.randn(3, 8, generator=g),
        text_tokens=torch.randn(3, 5, 8, generator=g),
        text_mask=torch.arange(5) < torch.tensor([[5], [2], [3]]),
    )


def sides(x: Features) -> tuple[list, list]:
    patches = [F.normalize(p, dim=1) for p in x.image_patches]
    tokens = [F.normalize(t[m], dim=1) for t, m in zip(x.text_tokens, x.text_mask, strict=True)]
    return patches, tokens


def expected_scores(patches, tokens) -> tuple[torch.Tensor, torch.Tensor]:
    table = [[p @ t.T for t in tokens] for p in patches]
    i2t = torch.tensor([[m.max(1).values.mean() for m in row] for row in table])
    return i2t, torch.tensor([[m.max(0).values.mean() for m in row] for row in table])


@pytest.mark.parametrize(("whole", "local"), [(1.0, 1.0), (0.0, 1.0), (0.5, 3.0)])
def test_scores_are_the_best_token_and_the_best_patch(whole, local):
    method, x = Filip(DIMS, global_weight=whole, local_weight=local), features()
    image, text = method.encode_image(x), method.encode_text(x)
    found = pairwise_scores(image, text, method.terms)
    dots = F.normalize(x.image_global, dim=1) @ F.normalize(x.text_global, dim=1).T
    for scores, fine in zip(found, expected_scores(*sides(x)), strict=True):
        torch.testing.assert_close(scores, whole * dots + local / 2 * fine)


def test_the_loss_is_two_cross_entropies():
    method, x = Filip(DIMS, lambda_global=0.5, lambda_local=2.0), features()
    losses = method.loss(method.encode_image(x), method.encode_text(x))
    i2t, t2i = (s / 0.07 for s in expected_scores(*sides(x)))
    rows = torch.arange(3)
    local = (F.cross_entropy(i2t, rows) + F.cross_entropy(t2i.T, rows)) / 2
    torch.testing.assert_close(losses["local"], local)
    torch.testing.assert_close(losses["loss"], 0.5 * losses["global"] + 2 * local)
    paper = Filip(DIMS, lambda_global=0)
    assert set(paper.loss(paper.encode_image(x), paper.encode_text(x))) == {"loss", "local"}


def test_the_nearest_to_the_global_vector_are_kept():
    method, x = Filip(DIMS, top_patches=2, top_tokens=3), features()
    image, text = method.encode_image(x), method.encode_text(x)
    assert image["local"].shape == (3, 2, 8) and text.masks["local"].sum(1).tolist() == [3, 2, 3]
    wholes = x.image_global, x.text_global
    masks = torch.ones(3, 2, dtype=torch.bool), text.masks["local"]
    for vectors, whole, mask, side, num in zip(
        sides(x), wholes, masks, (image, text), (2, 3), strict=True
    ):
        for row in range(3):
            best = (vectors[row] @ whole[row]).argsort(descending=True)[:num]
            torch.testing.assert_close(side["local"][row][mask[row]], vectors[row][best])


def test_more_than_there_are_changes_nothing():
    x = features()
    for name in ("encode_image", "encode_text"):
        all_, many = (
            getattr(m, name)(x)["local"]
            for m in (Filip(DIMS), Filip(DIMS, top_patches=6, top_tokens=99))
        )
        assert torch.equal(all_, many)


def test_gradients_reach_only_what_was_kept():
    method, x = Filip(DIMS, top_tokens=1, lambda_global=0), features()
    x.text_tokens.requires_grad_()
    method.loss(method.encode_image(x), method.encode_text(x))["loss"].backward()
    assert (x.text_tokens.grad.abs().sum(2) > 0).sum(1).tolist() == [1, 1, 1]


def test_a_patch_map_is_the_mean_over_the_tokens():
    method, x = Filip(DIMS), features()
    patches, tokens = sides(x)
    found = method.patch_map(x, x)
    for row in range(3):
        torch.testing.assert_close(found[row], (patches[row] @ tokens[row].T).mean(1))
