"""Fine-grained matching against loops in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from intarsia.errors import ShapeError
from intarsia.ops import matching
from intarsia.ops.matching import fine_grained_scores
from intarsia.ops.similarity import paired_scores, pairwise_scores
from intarsia.types import Embeddings, Term


def reference(x: Tensor, y: Tensor, x_mask: Tensor, y_mask: Tensor) -> tuple[Tensor, Tensor]:
    i2t, t2i = x.new_zeros(len(x), len(y)), x.new_zeros(len(x), len(y))
    for i in range(len(x)):
        for t in range(len(y)):
            left, right = x[i][x_mask[i]], y[t][y_mask[t]]
            if len(left) and len(right):
                table = torch.stack([torch.stack([a @ b for b in right]) for a in left])
                i2t[i, t] = table.max(1).values.mean()
                t2i[i, t] = table.max(0).values.mean()
    return i2t, t2i


def random_case(seed: int, images: int, texts: int, p: int, n: int, d: int = 4):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(images, p, d, generator=g, dtype=torch.float64)
    y = torch.randn(texts, n, d, generator=g, dtype=torch.float64)
    return x, y, torch.rand(images, p, generator=g) > 0.4, torch.rand(texts, n, generator=g) > 0.4


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 6),
    st.sampled_from([1, 30, 2**24]),
)
def test_equals_reference(seed, images, texts, p, n, block):
    case = random_case(seed, images, texts, p, n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "BLOCK_NUMBERS", block)
        for ours, expected in zip(fine_grained_scores(*case), reference(*case), strict=True):
            torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("block", [1, 2**24])
def test_gradients_also_with_rows_of_padding(monkeypatch, block):
    monkeypatch.setattr(matching, "BLOCK_NUMBERS", block)
    x, y, x_mask, y_mask = random_case(3, 3, 4, 3, 5)
    x_mask[1], y_mask[2] = False, False
    assert torch.autograd.gradcheck(
        lambda a, b: fine_grained_scores(a, b, x_mask, y_mask),
        (x.requires_grad_(), y.requires_grad_()),
    )


def test_padding_never_beats_negative_similarities():
    x = torch.tensor([[[-1.0, 0.0], [0.0, 0.0]]])
    y = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    mask = torch.tensor([[True, False]])
    i2t, t2i = fine_grained_scores(x, y, mask, mask)
    assert i2t.item() == t2i.item() == -1.0


@pytest.mark.parametrize(
    ("y", "mask", "message"),
    [
        (torch.zeros(2, 3, 5), None, r"\(1, 2, 4\).*\(2, 3, 5\)"),
        (torch.zeros(2, 3, 4, dtype=torch.bfloat16), None, "float32.*bfloat16"),
        (torch.zeros(2, 3, 4), torch.ones(2, 4, dtype=torch.bool), r"y_mask.*\(2, 4\)"),
        (torch.zeros(2, 3, 4), torch.ones(2, 3), "y_mask.*float32"),
        (torch.zeros(3, 4), None, "y must be"),
    ],
)
def test_what_does_not_fit_is_named(y, mask, message):
    with pytest.raises(ShapeError, match=message):
        fine_grained_scores(torch.zeros(1, 2, 4), y, None, mask)


TERMS = (
    Term("global", "dot"),
    Term("slots", "aligned", 0.5, 0.25),
    Term("words", "mean_max", 2.0, 3.0),
)


def embeddings(rows: int, k: int, seed: int) -> Embeddings:
    g = torch.Generator().manual_seed(seed)
    groups = {
        "global": torch.randn(rows, 4, generator=g),
        "slots": torch.randn(rows, 3, 4, generator=g),
        "words": torch.randn(rows, k, 4, generator=g),
    }
    return Embeddings(groups, {"words": torch.rand(rows, k, generator=g) > 0.3})


def test_similarity_is_the_weighted_sum_of_its_terms():
    image, text = embeddings(3, 5, 0), embeddings(4, 6, 1)
    i2t, t2i = pairwise_scores(image, text, TERMS)
    match = reference(image["words"], text["words"], image.masks["words"], text.masks["words"])
    for i in range(3):
        for t in range(4):
            dot = image["global"][i] @ text["global"][t]
            aligned = (image["slots"][i] * text["slots"][t]).sum(1).mean()
            assert i2t[i, t].item() == pytest.approx(
                (dot + 0.5 * aligned + 2 * match[0][i, t]).item(), abs=1e-5
            )
            assert t2i[i, t].item() == pytest.approx(
                (dot + 0.25 * aligned + 3 * match[1][i, t]).item(), abs=1e-5
            )


def test_paired_scores_are_the_diagonal_of_pairwise_scores():
    image, text = embeddings(4, 5, 0), embeddings(4, 6, 1)
    whole, rows = pairwise_scores(image, text, TERMS), paired_scores(image, text, TERMS)
    for matrix, row in zip(whole, rows, strict=True):
        torch.testing.assert_close(matrix.diagonal(), row)


def test_similarity_names_a_group_that_does_not_fit():
    image, text = embeddings(2, 5, 0), embeddings(2, 5, 1)
    text.groups["slots"] = torch.zeros(2, 7, 4)
    with pytest.raises(ShapeError, match=r"'slots'.*\(2, 3, 4\).*\(2, 7, 4\)"):
        pairwise_scores(image, text, TERMS)
