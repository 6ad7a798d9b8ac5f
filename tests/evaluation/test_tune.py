"""The search for ComAlign's weights, on embeddings in which the best are known."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from intarsia.data.problems import Problems
from intarsia.errors import ConfigError
from intarsia.evaluation.harness import evaluate_retrieval
from intarsia.evaluation.tune import GRID, plot, tune
from intarsia.methods import Clip, ComAlign
from intarsia.model import Model
from intarsia.types import Dims, Embeddings, Record

NUM = 24
DIMS = Dims(embed=NUM, grid=(1, 1), context=4)


class Planted:
    """A model whose similarities are given: rows of pictures against an identity of texts."""

    matches_components = True

    def __init__(self, base: Tensor, fine: Tensor):
        self.method = ComAlign(DIMS, terms=["global"])
        self.base, self.fine = base, fine

    device = torch.device("cpu")

    def tell_cut(self, cut) -> None:
        assert cut is None

    def record_batches(self, records) -> Iterator[Embeddings]:
        rows = torch.tensor([int(record.image[0, 0, 0]) for record in records])
        yield Embeddings({"base": self.base[rows], "global": self.fine[rows]})

    def text_batches(self, texts) -> Iterator[Embeddings]:
        rows = torch.eye(NUM)[[int(text) for text in texts]]
        yield Embeddings({"base": rows, "global": rows})


def numbered() -> list[Record]:
    pictures = [torch.full((1, 1, 3), i, dtype=torch.uint8).numpy() for i in range(NUM)]
    return [Record(str(i), picture, (str(i),)) for i, picture in enumerate(pictures)]


def planted(lowest: float, highest: float) -> Planted:
    """Only with a weight between the two is every true pair above all others.

    Half of the pictures need the fine score: the base prefers a stranger by ``lowest``; the other
    half need the base, for the fine score prefers a stranger by 1 / ``highest``.
    """
    base, fine = torch.zeros(NUM, NUM), torch.zeros(NUM, NUM)
    for i in range(NUM):
        strangers = [(i + 2 * k) % NUM for k in range(1, NUM // 2)]
        if i % 2:
            fine[i, i] = 1.0
            base[i, strangers] = lowest
        else:
            base[i, i] = 1.0
            fine[i, strangers] = 1 / highest
    return Planted(base, fine)


@pytest.mark.parametrize("best", [0.1, 0.2, 0.75, 3.0, 5.0])
def test_it_finds_the_planted_best_weights(best):
    model = planted(best * 0.9, best * 1.1)
    found = tune(model, numbered(), Problems())
    assert (found.alpha1, found.beta1, found.n) == (best, best, NUM)
    assert found.alpha2 == 0  # without fine groups it changes nothing: the smallest wins
    assert model.method.mixture.tolist() == pytest.approx([best, 0, best])
    i = GRID.index(best)
    assert float(found.i2t[i, 0]) == float(found.t2i[i]) == 100
    assert (found.i2t[:, 0] == 100).sum() == 1


def test_equal_scores_are_misses():
    """A model that says nothing must not look perfect."""
    found = tune(Planted(torch.zeros(NUM, NUM), torch.zeros(NUM, NUM)), numbered(), Problems())
    assert found.i2t.max() == found.t2i.max() == 0
    assert (found.alpha1, found.alpha2, found.beta1) == (0, 0, 0)


@pytest.fixture
def model(backbone) -> Model:
    pytest.importorskip("spacy", reason="needs the extra 'text'")
    torch.manual_seed(0)
    return Model(backbone, ComAlign(backbone.dims), freeze="backbone")


@pytest.mark.parametrize("normalise", ["none", "row-max"])
def test_what_is_tuned_is_what_retrieval_reports(model, records, normalise):
    """At the best point and at another, with several captions a picture and all three groups."""
    few = [replace(r, captions=("a shape", *r.captions)) for r in records[:10:2]] + records[1:10:2]
    model.method.normalise = normalise
    found = tune(model, few, Problems(), captions=3)
    i, j = GRID.index(found.alpha1), GRID.index(found.alpha2)
    k = GRID.index(found.beta1)
    assert found.i2t[i, j] == found.i2t.max() and found.t2i[k] == found.t2i.max()
    for a, b, c in ((i, j, k), (3, 7, 2)):
        model.method.mixture.copy_(torch.tensor([GRID[a], GRID[b], GRID[c]]))
        metrics = evaluate_retrieval(model, few, Problems(), captions=3).metrics
        for way, mean in (("i2t", found.i2t[a, b]), ("t2i", found.t2i[c])):
            reported = [metrics[f"{way}_r{at}"].value for at in (1, 5, 10)]
            assert float(mean) == pytest.approx(sum(reported) / 3, abs=1e-4)


def test_the_picture_of_the_search(tmp_path):
    found = tune(planted(0.19, 0.22), numbered(), Problems())
    plot(found, tmp_path / "new" / "tune.png")
    assert (tmp_path / "new" / "tune.png").read_bytes().startswith(b"\x89PNG")
    assert found.as_dict()["alpha1"] == 0.2 and len(found.as_dict()["i2t"]) == len(GRID)


def test_only_comalign_has_weights_to_tune(backbone, records):
    with pytest.raises(ConfigError, match="Clip has no weights to tune"):
        tune(Model(backbone, Clip(backbone.dims)), records, Problems())
