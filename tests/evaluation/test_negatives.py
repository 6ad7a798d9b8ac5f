import pytest
import torch

from intarsia.errors import DataError, ShapeError
from intarsia.evaluation.negatives import hard_negative_metrics, hard_negative_outcomes


def test_kinds_macro_and_micro():
    positive = torch.tensor([3.0, 3, 3, 3, 3, 3])
    negative = torch.tensor([1.0, 9, 1, 1, 1, 9])
    kinds = ["swap", "swap", "add", "add", "add", "add"]
    metrics = hard_negative_metrics(positive, negative, kinds)
    assert {name: metric.value for name, metric in metrics.items()} == {
        "swap": 50.0,
        "add": 75.0,
        "macro": 62.5,
        "micro": pytest.approx(400 / 6),
    }
    assert [metric.n for metric in metrics.values()] == [2, 4, 6, 6]


def test_ties_are_wrong():
    scores = torch.rand(50)
    assert hard_negative_metrics(scores, scores, ["swap"] * 50)["micro"].value == 0.0


def test_random_scores_land_at_chance():
    generator = torch.Generator().manual_seed(0)
    kinds = ["swap"] * 100 + ["add"] * 900
    metrics = hard_negative_metrics(
        torch.rand(1000, generator=generator), torch.rand(1000, generator=generator), kinds
    )
    assert all(metric.ci95[0] <= 50 <= metric.ci95[1] for metric in metrics.values())
    width = {name: metric.ci95[1] - metric.ci95[0] for name, metric in metrics.items()}
    assert width["micro"] < width["macro"] < width["swap"]


def test_clusters_follow_their_queries():
    clusters = torch.tensor([4, 4, 5]).numpy()
    outcomes = hard_negative_outcomes(
        torch.ones(3), torch.zeros(3), ["swap", "add", "add"], clusters
    )
    assert outcomes["add"].clusters.tolist() == [4, 5]
    assert outcomes["macro"].strata.tolist() == ["swap", "add", "add"]


def test_bad_scores_are_named():
    with pytest.raises(DataError, match=r"negative scores hold NaN, first at \[1\]"):
        hard_negative_metrics(torch.ones(2), torch.tensor([0, torch.nan]), ["a", "a"])
    with pytest.raises(ShapeError, match="2 positive scores, 2 negative scores and 1 kinds"):
        hard_negative_metrics(torch.ones(2), torch.zeros(2), ["a"])
