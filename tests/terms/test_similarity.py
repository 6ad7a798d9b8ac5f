"""Similarities as data: weighted sums of terms, of all pairs and of rows."""

import pytest
import torch

from intarsia.errors import ShapeError
from intarsia.ops.matching import fine_grained_scores
from intarsia.terms import Aligned, Dot, MeanMax
from intarsia.terms.similarity import halved, paired_scores, pairwise_scores
from intarsia.types import Embeddings

TERMS = (
    Dot("global"),
    Aligned("slots", 0.5, 0.25),
    MeanMax("words", 2.0, 3.0),
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
    masks = image.masks["words"], text.masks["words"]
    match = fine_grained_scores(image["words"], text["words"], *masks)
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


def test_halved_embeddings_score_in_bfloat16():
    image, text = embeddings(6, 5, 0), embeddings(8, 6, 1)
    exact, ours = (
        pairwise_scores(image, text, TERMS),
        pairwise_scores(*map(halved, (image, text)), TERMS),
    )
    for a, b in zip(exact, ours, strict=True):
        assert b.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=0.2, rtol=0.02)
        assert not torch.equal(a, b)


def test_paired_scores_of_rows_without_vectors_are_zero():
    image, text = embeddings(4, 5, 0), embeddings(4, 6, 1)
    image.masks["words"][1], text.masks["words"][2] = False, False
    term = (MeanMax("words"),)
    for matrix, row in zip(
        pairwise_scores(image, text, term), paired_scores(image, text, term), strict=True
    ):
        torch.testing.assert_close(matrix.diagonal(), row)
        assert row[1] == row[2] == 0 and (row[[0, 3]] != 0).all()
