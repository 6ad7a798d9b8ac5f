"""Each kind of term against what its definition says, and a kind of one's own."""

import pytest
import torch
import torch.nn.functional as F

from intarsia.errors import ShapeError
from intarsia.ops import blockwise
from intarsia.ops.attended import AttentionPool
from intarsia.terms import Aligned, Attended, Dot, MeanMax, Side, Term
from intarsia.terms.similarity import paired_scores, pairwise_scores
from intarsia.types import Embeddings


class Nearest(Term):
    """The best of all pairs of vectors, less a penalty from text to picture."""

    directed = True

    def scores(self, x: Side, y: Side):
        best = torch.einsum("ipd,tnd->itpn", x.vectors, y.vectors).amax((2, 3))
        return best, best - 0.5 * y.vectors.square().mean((1, 2))


class Pooled(Term):
    """Words that a layer has turned, their mean over real ones: with weights of its own."""

    turn = torch.nn.Linear(4, 4)

    def scores(self, x: Side, y: Side):
        words = (self.turn(y.vectors) * y.mask[..., None]).sum(1) / y.mask.sum(1)[:, None]
        own = (x.vectors * x.mask[..., None]).sum(1) / x.mask.sum(1)[:, None]
        found = own @ words.mT
        return found, found


KINDS = [Dot("whole"), Aligned("slots"), MeanMax("words"), Nearest("slots")]


def pooling() -> tuple[Attended, Embeddings, Embeddings]:
    """A term of pictures with many vectors and texts with one, whose ends are sides of a batch."""
    torch.manual_seed(0)
    ids = torch.tensor([0, 1, 2, 2, 3, 4, 5])
    image, text = embeddings(7, 0, ids=ids), embeddings(7, 1, ids=ids)
    asks = Embeddings({"words": text["whole"]}, ids=ids)
    return Attended("words", pool=AttentionPool(4, 2)), image, asks


def embeddings(rows: int, seed: int, **more) -> Embeddings:
    g = torch.Generator().manual_seed(seed)
    shapes = {"whole": (rows, 4), "slots": (rows, 3, 4), "words": (rows, 5, 4)}
    groups = {
        name: F.normalize(torch.randn(shape, generator=g), dim=-1).requires_grad_()
        for name, shape in shapes.items()
    }
    mask = torch.rand(rows, 5, generator=g) > 0.3
    mask[:, 0] = True
    return Embeddings(groups, {"words": mask}, **more)


def dense_loss(term: Term, image: Embeddings, text: Embeddings, scale, ids):
    """InfoNCE of the whole table; other positives of a row are left out of its denominator."""
    same = ids[:, None] == ids[None]
    i2t, t2i = term.scores(*term.sides(image, text))
    total = torch.zeros(())
    for logits in (i2t * scale, t2i.mT * scale):
        rest = logits.masked_fill(same, -torch.inf).logsumexp(1, keepdim=True)
        costs = F.softplus(rest - logits) * same
        total = total + (costs.sum(1) / same.sum(1)).mean() / 2
    return total


@pytest.mark.parametrize("term", KINDS, ids=lambda term: type(term).__name__)
@pytest.mark.parametrize("numbers", [2**22, 12], ids=["one block", "many blocks"])
def test_the_contrast_is_that_of_the_whole_table(term, numbers, monkeypatch):
    monkeypatch.setattr(blockwise, "BLOCK_NUMBERS", numbers)
    ids = torch.tensor([0, 1, 2, 2, 3, 4, 5])
    image, text = embeddings(7, 0, ids=ids), embeddings(7, 1, ids=ids)
    scale = torch.tensor(7.0, requires_grad=True)
    leaves = image[term.group], text[term.group], scale
    ours = term.contrast(image, text, scale)
    theirs = dense_loss(term, image, text, scale, ids)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True
    ):
        assert b.abs().sum() > 0
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("term", KINDS, ids=lambda term: type(term).__name__)
def test_pairs_score_as_in_the_whole_table(term):
    image, text = embeddings(6, 0), embeddings(6, 1)
    whole, rows = (scores(image, text, [term]) for scores in (pairwise_scores, paired_scores))
    for matrix, row in zip(whole, rows, strict=True):
        assert row.shape == (6,)
        torch.testing.assert_close(matrix.diagonal(), row)
    nothing = paired_scores(image.rows(slice(0)), text.rows(slice(0)), [term])
    assert [way.shape for way in nothing] == [(0,), (0,)]


@pytest.mark.parametrize("term", KINDS, ids=lambda term: type(term).__name__)
def test_only_a_directed_term_has_two_directions(term):
    i2t, t2i = term.scores(*term.sides(embeddings(3, 0), embeddings(4, 1)))
    assert (i2t is t2i) is not term.directed
    assert torch.equal(i2t, t2i) is not term.directed


@pytest.mark.parametrize("term", KINDS[:2], ids=lambda term: type(term).__name__)
def test_what_enters_an_index_as_one_vector_scores_the_same(term):
    image, text = embeddings(3, 0), embeddings(4, 1)
    found = term.index_vectors(image) @ term.index_vectors(text).mT
    torch.testing.assert_close(found, pairwise_scores(image, text, [term])[0])


@pytest.mark.parametrize("term", KINDS[2:], ids=lambda term: type(term).__name__)
def test_what_does_not_says_so(term):
    with pytest.raises(ShapeError, match=f"no single vector: it enters as {term.entry}"):
        term.index_vectors(embeddings(3, 0))


@pytest.mark.parametrize("numbers", [2**22, 12 * 25], ids=["one block", "many blocks"])
def test_weights_inside_a_term_are_trained(numbers, monkeypatch):
    monkeypatch.setattr(blockwise, "BLOCK_NUMBERS", numbers)
    ids = torch.arange(7)
    image, text = embeddings(7, 0, ids=ids), embeddings(7, 1, ids=ids)
    term, scale = Pooled("words"), torch.tensor(7.0)
    weights = [*term.turn.parameters(), image["words"]]
    ours = torch.autograd.grad(term.contrast(image, text, scale), weights)
    theirs = torch.autograd.grad(dense_loss(term, image, text, scale, ids), weights)
    for a, b in zip(ours, theirs, strict=True):
        assert b.abs().sum() > 0
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "term", [MeanMax("words"), Pooled("words")], ids=lambda t: type(t).__name__
)
def test_what_has_no_real_vector_scores_nothing_and_is_left_out(term):
    image, text = embeddings(5, 0, ids=torch.arange(5)), embeddings(5, 1, ids=torch.arange(5))
    text.masks["words"][2] = False
    i2t, t2i = pairwise_scores(image, text, [term])
    assert (i2t[:, 2] == 0).all() and (t2i[:, 2] == 0).all() and (i2t[:, 1] != 0).all()
    assert paired_scores(image, text, [term])[0][2] == 0
    scale = torch.tensor(7.0, requires_grad=True)
    leaves = image["words"], text["words"], scale
    found = torch.autograd.grad(term.contrast(image, text, scale), leaves)
    assert all(grad.isfinite().all() for grad in found) and not found[1][2].any()


def test_blocks_of_a_term_are_as_small_as_its_numbers_ask(monkeypatch):
    monkeypatch.setattr(blockwise, "BLOCK_NUMBERS", 5 * 5 * 4)
    seen = []

    class Watched(MeanMax):
        contrast = Term.contrast

        def scores(self, x, y):
            seen.append((len(x.vectors), len(y.vectors)))
            return super().scores(x, y)

    image, text = embeddings(6, 0), embeddings(6, 1)
    Watched("words").contrast(image, text, torch.tensor(7.0))
    assert max(a * b for a, b in seen) <= 4


@pytest.mark.parametrize("numbers", [2**22, 12], ids=["one block", "many blocks"])
@pytest.mark.parametrize("loss", ["contrast", "sigmoid"])
def test_a_pool_of_patches_is_trained_by_either_loss(numbers, loss, monkeypatch):
    monkeypatch.setattr(blockwise, "BLOCK_NUMBERS", numbers)
    term, image, text = pooling()
    scale, bias = torch.tensor(7.0, requires_grad=True), torch.tensor(-2.0, requires_grad=True)
    if loss == "contrast":
        ours = term.contrast(image, text, scale)
        theirs = dense_loss(term, image, text, scale, image.ids)
    else:
        ours = term.sigmoid(image, text, scale, bias)
        z = 2.0 * (image.ids[:, None] == text.ids) - 1
        logits = term.scores(*term.sides(image, text))[0] * scale + bias
        theirs = -F.logsigmoid(z * logits).sum() / 7
    leaves = [image["words"], text["words"], scale, *term.pool.parameters()]
    torch.testing.assert_close(ours, theirs)
    grads = (torch.autograd.grad(side, leaves) for side in (ours, theirs))
    for a, b in zip(*grads, strict=True):
        assert b.abs().sum() > 0
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_every_term_knows_the_sigmoid_loss():
    ids = torch.tensor([0, 1, 2, 2, 3, 4, 5])
    image, text = embeddings(7, 0, ids=ids), embeddings(7, 1, ids=ids)
    z = 2.0 * (ids[:, None] == ids) - 1
    for term in KINDS:
        ways = term.scores(*term.sides(image, text))
        costs = [-F.logsigmoid(z * (way * 7 - 3)).sum() / 7 for way in ways]
        found = term.sigmoid(image, text, torch.tensor(7.0), torch.tensor(-3.0))
        torch.testing.assert_close(found, sum(costs) / 2)


def test_pools_score_in_pairs_and_alone():
    term, image, text = pooling()
    image.masks["words"][3] = False
    i2t, t2i = pairwise_scores(image, text, [term])
    assert torch.equal(i2t, t2i) and (i2t[3] == 0).all() and (i2t[2] != 0).all()
    for way in paired_scores(image, text, [term]):
        torch.testing.assert_close(way, i2t.diagonal())
    with pytest.raises(ShapeError, match="no single vector: it enters as candidates"):
        term.index_vectors(image)
    with pytest.raises(ShapeError, match=r"\(Attended\) is \(7, 5, 4\).*\(7, 5, 4\)"):
        term.sides(image, image)
    found = term.alignment(image.rows(slice(1)), text.rows(slice(1)))
    assert found.shape == (5, 1)
    for k in range(5):
        alone = Embeddings({"words": image["words"][:1, k : k + 1]})
        score = pairwise_scores(alone, text.rows(slice(1)), [term])[0]
        torch.testing.assert_close(found[k], score[0])


def test_a_group_with_padding_is_for_terms_that_look_at_masks():
    image, text = embeddings(3, 0), embeddings(3, 1)
    with pytest.raises(ShapeError, match="'words' has a mask, which Aligned does not look at"):
        pairwise_scores(image, text, [Aligned("words")])


def test_scores_of_16_bits_are_summed_in_32():
    class Halved(Nearest):
        def scores(self, x, y):
            return tuple(way.bfloat16() for way in super().scores(x, y))

    image, text = embeddings(40, 0), embeddings(40, 1)
    found = Halved("slots").contrast(image, text, torch.tensor(20.0))
    exact = Nearest("slots").contrast(image, text, torch.tensor(20.0))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=0.01, atol=0.01)


def test_many_vectors_may_be_none():
    image, text = (embeddings(3, seed) for seed in (0, 1))
    for side in (image, text):
        side.groups["words"], side.masks["words"] = torch.zeros(3, 0, 4), torch.zeros(3, 0).bool()
    for way in paired_scores(image, text, [MeanMax("words")]):
        assert torch.equal(way, torch.zeros(3))


def test_alignment_is_of_all_vectors_of_the_pair():
    image, text = embeddings(1, 0), embeddings(1, 1)
    for term, shape in zip(KINDS, [(1, 1), (3, 3), (5, 5), (3, 3)], strict=True):
        found = term.alignment(image, text)
        assert found.shape == shape
        x, y = image[term.group][0].view(-1, 4), text[term.group][0].view(-1, 4)
        torch.testing.assert_close(found[-1, 0], x[-1] @ y[0])


def test_a_term_names_what_it_lacks():
    with pytest.raises(ShapeError, match="texts have no group 'whole': slots"):
        Dot("whole").sides(embeddings(2, 0), Embeddings({"slots": torch.ones(2, 3, 4)}))
    with pytest.raises(ShapeError, match=r"group 'slots' \(Aligned\) is \(2, 3, 4\).*\(2, 2, 4\)"):
        Aligned("slots").sides(embeddings(2, 0), Embeddings({"slots": torch.ones(2, 2, 4)}))
