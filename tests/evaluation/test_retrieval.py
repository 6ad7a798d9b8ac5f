import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize
from torchmetrics.retrieval import RetrievalHitRate, RetrievalRecall

from intarsia.data.problems import Problems
from intarsia.errors import DataError, ShapeError
from intarsia.evaluation import retrieval
from intarsia.evaluation.harness import evaluate_retrieval
from intarsia.evaluation.retrieval import (
    rank,
    rank_with_top,
    retrieval_metrics,
    retrieval_outcomes,
    similarity_terms,
)
from intarsia.methods import Clip, ComAlign
from intarsia.ops.true_texts import true_texts
from intarsia.terms import Dot, MeanMax
from intarsia.terms.similarity import halved, pairwise_scores
from intarsia.types import Embeddings, Record

DOT = (Dot("global"),)
MIXED = (Dot("global", i2t=0.5, t2i=2.0), MeanMax("parts", i2t=1.0, t2i=0.3))


def embeddings(rows, seed, parts=4, correct=None):
    """Random vectors; with ``correct`` rows they lean towards those."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(rows, 16, generator=generator)
    if correct is not None:
        vectors = 0.6 * vectors + correct
    grouped = torch.randn(rows, parts, 16, generator=generator)
    mask = torch.rand(rows, parts, generator=generator) < 0.7
    mask[:, 0] = True
    groups = {"global": normalize(vectors, dim=-1), "parts": normalize(grouped, dim=-1)}
    return Embeddings(groups, {"parts": mask})


@pytest.fixture
def case():
    """30 pictures with 1 to 6 captions each, in mixed order."""
    generator = torch.Generator().manual_seed(0)
    num_captions = torch.randint(1, 7, (30,), generator=generator)
    owner = torch.arange(30).repeat_interleave(num_captions)
    owner = owner[torch.randperm(len(owner), generator=generator)]
    image = embeddings(30, 1)
    text = embeddings(len(owner), 2, parts=6, correct=image["global"][owner])
    return image, text, owner


def brute_force(i2t, t2i, owner):
    ranks_i2t, ranks_t2i = [], []
    for i, row in enumerate(i2t.tolist()):
        best = max(s for s, o in zip(row, owner, strict=True) if o == i)
        ranks_i2t.append(sum(s >= best for s, o in zip(row, owner, strict=True) if o != i))
    for t, column in enumerate(t2i.T.tolist()):
        mine = owner[t]
        ranks_t2i.append(sum(s >= column[mine] for i, s in enumerate(column) if i != mine))
    return ranks_i2t, ranks_t2i


@pytest.mark.parametrize("terms", [DOT, MIXED])
@pytest.mark.parametrize("block", [1, 7, 30, 1000])
def test_any_block_size_gives_the_ranks_of_brute_force(case, terms, block):
    image, text, owner = case
    ranks = rank(image, text, terms, owner, block=block)
    i2t, t2i = brute_force(*pairwise_scores(image, text, terms), owner.tolist())
    assert ranks.i2t.tolist() == i2t
    assert ranks.t2i.tolist() == t2i
    assert len(set(i2t)) > 3 and len(set(t2i)) > 3


@pytest.mark.parametrize("block", [7, 1000])
def test_the_best_items_come_from_the_stream(case, block):
    image, text, owner = case
    ranks, top = rank_with_top(image, text, MIXED, owner, block=block)
    assert torch.equal(ranks.i2t, rank(image, text, MIXED, owner).i2t)
    i2t, t2i = pairwise_scores(image, text, MIXED)
    for scores, items, found in (
        (i2t, top.texts, top.text_scores),
        (t2i.mT, top.images, top.image_scores),
    ):
        wanted = scores.sort(1, descending=True)
        torch.testing.assert_close(found, wanted.values[:, :10])
        assert torch.equal(items, wanted.indices[:, :10])


def test_the_best_items_of_few_are_all_of_them():
    image = Embeddings({"global": torch.eye(3)})
    _, top = rank_with_top(image, image, DOT, torch.tensor([0, 1, 2]), block=2)
    assert top.texts.sort(1).values.tolist() == [[0, 1, 2]] * 3
    assert top.images[:, 0].tolist() == [0, 1, 2]


def test_the_directions_have_scores_of_their_own(case):
    image, text, owner = case
    own_i2t = rank(image, text, (MeanMax("parts", i2t=1.0, t2i=0.0), *DOT), owner)
    own_t2i = rank(image, text, (MeanMax("parts", i2t=0.0, t2i=1.0), *DOT), owner)
    plain = rank(image, text, DOT, owner)
    assert own_i2t.t2i.tolist() == plain.t2i.tolist() != own_t2i.t2i.tolist()
    assert own_t2i.i2t.tolist() == plain.i2t.tolist() != own_i2t.i2t.tolist()


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_is_that_of_torchmetrics(case, k):
    image, text, owner = case
    metrics = retrieval_metrics(rank(image, text, DOT, owner, block=8))
    scores = pairwise_scores(image, text, DOT)[0]
    hit = owner[None] == torch.arange(30)[:, None]
    picture = torch.arange(30)[:, None].expand_as(scores)
    caption = torch.arange(len(owner))[None].expand_as(scores)
    i2t = RetrievalHitRate(top_k=k)(scores.flatten(), hit.flatten(), picture.flatten())
    t2i = RetrievalRecall(top_k=k)(scores.flatten(), hit.flatten(), caption.flatten())
    assert metrics[f"i2t_r{k}"].value == pytest.approx(100 * float(i2t), abs=1e-4)
    assert metrics[f"t2i_r{k}"].value == pytest.approx(100 * float(t2i), abs=1e-4)
    assert (metrics[f"i2t_r{k}"].n, metrics[f"t2i_r{k}"].n) == (30, len(owner))


def test_median_rank_counts_from_one(case):
    image, text, owner = case
    ranks = rank(image, text, DOT, owner)
    metrics = retrieval_metrics(ranks)
    assert metrics["i2t_median_rank"].value == np.median(ranks.i2t.numpy() + 1) >= 1
    assert metrics["t2i_median_rank"].value == np.median(ranks.t2i.numpy() + 1) >= 1


@pytest.mark.parametrize("block", [1, 5, 7, 16])
def test_a_model_that_scores_everything_alike_is_last(block):
    owner = torch.arange(16).repeat_interleave(5)
    for seed in range(5):
        one = normalize(torch.randn(1, 333, generator=torch.Generator().manual_seed(seed)), dim=-1)
        image, text = (
            Embeddings({"global": one.repeat(16, 1)}),
            Embeddings({"global": one.repeat(80, 1)}),
        )
        ranks = rank(image, text, DOT, owner, block=block)
        assert ranks.i2t.tolist() == [75] * 16
        assert ranks.t2i.tolist() == [15] * 80


def test_a_tie_goes_to_the_wrong_item():
    image = Embeddings({"global": torch.eye(3)})
    text = Embeddings({"global": torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 0, 1.0]])})
    ranks = rank(image, text, DOT, torch.tensor([0, 1, 2]))
    assert ranks.i2t.tolist() == [1, 2, 0]
    assert ranks.t2i.tolist() == [0, 2, 0]


def test_any_caption_of_the_picture_is_a_hit():
    image = Embeddings({"global": torch.eye(2)})
    text = Embeddings({"global": torch.tensor([[-1.0, 0], [1.0, 0], [0, 1.0]])})
    ranks = rank(image, text, DOT, torch.tensor([0, 0, 1]))
    assert ranks.i2t.tolist() == [0, 0]
    assert ranks.t2i.tolist() == [1, 0, 0]


def shared_case(case):
    """The case with a third of the texts exchanged for a few that several pictures then share."""
    image, text, owner = case
    generator = torch.Generator().manual_seed(8)
    words = torch.arange(len(owner))
    some = torch.rand(len(owner), generator=generator) < 0.4
    words[some] = torch.randint(5, (int(some.sum()),), generator=generator) - 5
    rows = torch.unique(words, return_inverse=True)[1]
    first = torch.tensor([int((rows == row).nonzero()[0]) for row in rows])
    return image, text.rows(first), owner, [str(word) for word in words.tolist()]


@pytest.mark.parametrize("terms", [DOT, MIXED])
@pytest.mark.parametrize("block", [1, 7, 1000])
def test_a_text_is_right_for_every_picture_that_bears_it(case, terms, block):
    """Against plain Python: right is what one of the picture's captions says, too."""
    image, text, owner, texts = shared_case(case)
    truth = true_texts(texts, owner, len(image))
    ranks = rank(image, text, terms, owner, truth=truth, block=block)
    borne = [{t for t, o in zip(texts, owner.tolist(), strict=True) if o == i} for i in range(30)]
    i2t, t2i = pairwise_scores(image, text, terms)
    margins = [retrieval.TIE * sum(getattr(t, way) for t in terms) for way in ("i2t", "t2i")]
    for i, row in enumerate(i2t.tolist()):
        best = max(s for s, t in zip(row, texts, strict=True) if t in borne[i]) - margins[0]
        wrong = [s for s, t in zip(row, texts, strict=True) if t not in borne[i]]
        assert ranks.i2t[i] == sum(s >= best for s in wrong)
    for t, column in enumerate(t2i.mT.tolist()):
        best = max(s for s, some in zip(column, borne, strict=True) if texts[t] in some)
        wrong = [s for s, some in zip(column, borne, strict=True) if texts[t] not in some]
        assert ranks.t2i[t] == sum(s >= best - margins[1] for s in wrong)
    alone = rank(image, text, terms, owner, block=block)
    assert (ranks.i2t <= alone.i2t).all() and ranks.i2t.sum() < alone.i2t.sum()
    assert (ranks.t2i <= alone.t2i).all() and ranks.t2i.sum() < alone.t2i.sum()


def test_where_nothing_is_shared_the_ranks_are_the_published_ones(case):
    image, text, owner = case
    truth = true_texts([str(i) for i in range(len(owner))], owner, len(image))
    ours, alone = rank(image, text, MIXED, owner, truth=truth), rank(image, text, MIXED, owner)
    assert torch.equal(ours.i2t, alone.i2t) and torch.equal(ours.t2i, alone.t2i)


def test_pictures_that_all_say_the_same_are_all_right(model, caplog):
    """Six cards, "a plain card" each: any text and any picture is right, and it is told."""
    rng = np.random.default_rng(0)
    texts = ["a plain card", "A plain card", "a plain  card"] * 2
    records = [
        Record(str(i), rng.integers(0, 256, (20, 20, 3), dtype=np.uint8), (text, "x", "y")[: 1 + i])
        for i, text in enumerate(texts)
    ]
    with caplog.at_level(logging.INFO):
        found = evaluate_retrieval(model, records, Problems(), captions=1)
    assert {found.metrics[name].value for name in ("i2t_r1", "t2i_r1")} == {100.0}
    assert found.counted == {
        "pictures": 6,
        "captions": 6,
        "captions_left_out": 9,
        "shared_captions": 6,
        "cut_captions": 0,
    }
    assert "6 of 6 captions are shared word for word" in caplog.text


def test_scores_never_exist_as_a_whole(case, monkeypatch):
    image, text, owner = case
    sizes = []

    def spy(*arguments):
        scores = pairwise_scores(*arguments)
        sizes.append(scores[0].numel())
        return scores

    monkeypatch.setattr(retrieval, "pairwise_scores", spy)
    rank(image, text, DOT, owner, block=3)
    assert sum(sizes) == len(image) * len(text)
    assert max(sizes) <= 3 * (3 * 6)


def test_shuffled_labels_land_at_chance():
    generator = torch.Generator().manual_seed(3)
    owner = torch.arange(200).repeat_interleave(5)
    image = embeddings(200, 4)
    text = embeddings(1000, 5, correct=image["global"][owner])
    honest = retrieval_metrics(rank(image, text, DOT, owner))
    shuffled = owner[torch.randperm(1000, generator=generator)]
    metrics = retrieval_metrics(rank(image, text, DOT, shuffled))
    for k in (1, 5, 10):
        miss = np.prod([(995 - j) / (1000 - j) for j in range(k)])
        for name, chance in ((f"i2t_r{k}", 100 * (1 - miss)), (f"t2i_r{k}", 100 * k / 200)):
            low, high = metrics[name].ci95
            assert low <= chance <= high, name
            assert honest[name].ci95[0] > high
    assert 80 <= metrics["t2i_median_rank"].value <= 120


def test_captions_of_a_picture_are_one_cluster(case):
    image, text, owner = case
    outcomes = retrieval_outcomes(rank(image, text, DOT, owner))
    assert outcomes["t2i_r5"].clusters.tolist() == owner.tolist()
    assert outcomes["i2t_r5"].clusters is None


@pytest.mark.parametrize("block", [4, None])
def test_a_nan_score_names_its_pair(case, block):
    image, text, owner = case
    text.groups["global"][11] = torch.nan
    with pytest.raises(DataError, match="picture 0 and text 11 is NaN"):
        rank(image, text, DOT, owner, block=block)


def test_of_many_nan_scores_the_first_is_named():
    image, text = (Embeddings({"global": torch.eye(6)}) for _ in range(2))
    image["global"][4], text["global"][5] = torch.nan, torch.nan
    with pytest.raises(DataError, match="picture 4 and text 0 is NaN"):
        rank(image, text, DOT, torch.arange(6), block=2)
    with pytest.raises(DataError, match="picture 0 and text 5 is NaN"):
        rank(image, text, DOT, torch.arange(6), block=6)


def gpu_of(monkeypatch, total_memory):
    properties = SimpleNamespace(total_memory=total_memory)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    return torch.device("cuda", 0)


def test_a_gpu_ranks_as_many_pictures_at_once_as_its_memory_allows(monkeypatch):
    gpu = gpu_of(monkeypatch, 32 * 2**30)
    assert retrieval._at_once(gpu, 2**20) == 128  # x 2**20 texts x 2 directions x 4 bytes = 1 GiB
    assert retrieval._at_once(gpu, 2**30) == 1
    assert retrieval._at_once(torch.device("cpu"), 2**30) == 256


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@pytest.mark.parametrize("block", [7, None])
def test_a_gpu_ranks_as_the_cpu_does(case, block):
    image, text, owner = case
    ranks, top = rank_with_top(image, text, MIXED, owner)
    sides = image.to("cuda"), text.to("cuda")
    found, best = rank_with_top(*sides, MIXED, owner, block=block)
    assert torch.equal(found.i2t, ranks.i2t) and torch.equal(found.t2i, ranks.t2i)
    assert torch.equal(best.texts, top.texts) and torch.equal(best.images, top.images)
    torch.testing.assert_close(best.text_scores, top.text_scores)
    torch.testing.assert_close(best.image_scores, top.image_scores)
    for mine, theirs in zip(
        pairwise_scores(*map(halved, sides), DOT),
        pairwise_scores(*map(halved, (image, text)), DOT),
        strict=True,
    ):
        torch.testing.assert_close(mine.cpu(), theirs)


def test_labels_that_do_not_fit_are_named(case):
    image, text, owner = case
    with pytest.raises(DataError, match=r"1 of 30 pictures have no caption to find: \[7\]"):
        rank(image, text, DOT, torch.where(owner == 7, 8, owner))
    with pytest.raises(DataError, match="names picture 30: choose from 0 to 29"):
        rank(image, text, DOT, torch.where(owner == 7, 30, owner))
    with pytest.raises(ShapeError, match="the picture of each text"):
        rank(image, text, DOT, owner[:-1])


def test_row_max_divides_each_matrix_by_the_mean_of_its_best_scores(backbone):
    method = ComAlign(backbone.dims, terms=["global"], normalise="row-max", alpha1=2.0)
    vectors = {"base": torch.tensor([[1.0, 0.0], [0.5, 0.5]]), "global": torch.eye(2)}
    image, text = Embeddings(vectors), Embeddings(dict.fromkeys(vectors, torch.eye(2)))
    base, own = similarity_terms(method, image, text, block=1)
    # base: best of the pictures 1 and 0.5, of the texts 1 and 0.5; global: all 1
    assert (base.i2t, base.t2i) == (pytest.approx(1 / 0.75), pytest.approx(1 / 0.75))
    assert (own.i2t, own.t2i) == (2.0, 1.0)
    assert similarity_terms(Clip(backbone.dims), image, text) == Clip(backbone.dims).terms


def test_row_max_leaves_what_has_no_positive_score(backbone):
    method = ComAlign(backbone.dims, terms=["global"], normalise="row-max")
    image = Embeddings({"base": -torch.eye(2) - 1, "global": torch.zeros(2, 2)})
    text = Embeddings({"base": torch.eye(2), "global": torch.eye(2)})
    assert similarity_terms(method, image, text) == method.terms
