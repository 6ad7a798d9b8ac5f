"""What every method promises, checked for every subclass of ``Method`` that the package exports."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import intarsia.methods
from intarsia.errors import ConfigError
from intarsia.methods import Method
from intarsia.terms.similarity import paired_scores, pairwise_scores
from intarsia.types import Components, Dims, Embeddings, Features, Links

DIMS = Dims(embed=16, grid=(2, 3), context=12)
METHODS = [
    cls
    for name in intarsia.methods.__all__
    if issubclass(cls := getattr(intarsia.methods, name), Method) and cls is not Method
]


def features(batch: int = 6, tokens: int = 7, seed: int = 0) -> Features:
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, tokens + 1, (batch,), generator=g)
    corners = torch.rand(batch, 3, 2, generator=g) / 2
    near = torch.tensor([[0, 1], [1, 0], [2, -1]])
    links = Links(
        boxes=torch.cat([corners, corners + 0.5], 2),
        words=torch.tensor([[0, 1], [0, 2], [1, 3]]).expand(batch, 3, 2),
        labels=torch.arange(3 * batch).view(batch, 3),
        mask=torch.arange(3) < torch.randint(1, 4, (batch, 1), generator=g),
        regions=torch.where(near < 0, -1, near + 3 * torch.arange(batch)[:, None, None]),
    )
    return Features(
        links=links,
        image_crops=torch.randn(batch, 3, DIMS.embed, generator=g),
        text_phrases=torch.randn(batch, 3, DIMS.embed, generator=g),
        image_parts=components(batch, 2, g),
        text_parts=components(batch, 3, g),
        image_global=torch.randn(batch, DIMS.embed, generator=g),
        image_patches=torch.randn(batch, DIMS.num_patches, DIMS.embed, generator=g),
        text_global=torch.randn(batch, DIMS.embed, generator=g),
        text_tokens=torch.randn(batch, tokens, DIMS.embed, generator=g),
        text_mask=torch.arange(tokens) < lengths[:, None],
    )


def components(batch: int, ends: int, g: torch.Generator) -> Components:
    def some(num: int) -> Tensor:
        return torch.arange(num) < torch.randint(1, num + 1, (batch, 1), generator=g)

    return Components(
        entities=torch.randn(batch, 4, DIMS.embed, generator=g),
        entity_mask=some(4),
        relations=torch.randn(batch, 3, DIMS.embed, generator=g),
        relation_mask=some(3),
        parts=torch.randn(batch, 3, ends, DIMS.embed, generator=g),
        boxes=torch.rand(batch, 3, 2, 4, generator=g) if ends == 2 else None,
    )


@pytest.fixture(params=METHODS, ids=lambda cls: cls.__name__)
def method(request) -> Method:
    torch.manual_seed(0)
    return request.param(DIMS).eval()


def encoded(method: Method, x: Features) -> tuple[Embeddings, Embeddings]:
    return method.encode_image(x), method.encode_text(x)


def assert_same(a: Embeddings, b: Embeddings) -> None:
    for name, vectors in a.groups.items():
        mine, theirs = (e.masks.get(name, ...) for e in (a, b))
        torch.testing.assert_close(vectors[mine], b.groups[name][theirs], atol=1e-5, rtol=1e-5)


def test_vectors_are_normalised(method):
    for side in encoded(method, features()):
        for name, vectors in side.groups.items():
            real = side.masks.get(name, torch.ones(vectors.shape[:-1]))
            torch.testing.assert_close(vectors.norm(dim=-1), real.float())


def test_more_padding_changes_nothing(method):
    x = features()
    junk = torch.full((6, 3, DIMS.embed), 50.0)
    padded = replace(
        x,
        text_tokens=torch.cat([x.require("text_tokens"), junk], 1),
        text_mask=torch.cat([x.require("text_mask"), torch.zeros(6, 3, dtype=torch.bool)], 1),
    )
    assert_same(method.encode_text(x), method.encode_text(padded))


def test_a_text_without_tokens_is_finite(method):
    x = features()
    mask = x.require("text_mask").clone()
    mask[2] = False
    text = method.encode_text(replace(x, text_mask=mask))
    assert all(vectors.isfinite().all() for vectors in text.groups.values())


def test_rows_do_not_depend_on_their_batch(method):
    x, order = features(), torch.tensor([3, 0, 5, 1, 4, 2])
    for encode in (method.encode_image, method.encode_text):
        assert_same(encode(x).rows(order), encode(x.rows(order)))
        alone = [encode(x.rows(slice(i, i + 1))) for i in range(6)]
        assert_same(encode(x), Embeddings.concatenate(alone))


def test_scores_do_not_depend_on_chunks(method):
    image, text = encoded(method, features())
    whole = pairwise_scores(image, text, method.terms)
    for matrix, index in zip(whole, (0, 1), strict=True):
        rows = [
            pairwise_scores(image.rows(slice(i, i + 2)), text, method.terms)[index]
            for i in (0, 2, 4)
        ]
        torch.testing.assert_close(matrix, torch.cat(rows))
        torch.testing.assert_close(
            matrix.diagonal(), paired_scores(image, text, method.terms)[index]
        )


def test_saved_and_loaded_scores_are_equal(method, tmp_path):
    torch.save(method.state_dict(), tmp_path / "state.pt")
    torch.manual_seed(99)
    other = type(method)(DIMS).eval()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    first, second = (pairwise_scores(*encoded(m, features()), m.terms) for m in (method, other))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def loss_of(
    method: Method, x: Features, ids: Tensor, true: Tensor | None = None
) -> dict[str, Tensor]:
    image, text = encoded(method, x)
    return method.loss(replace(image, ids=ids if true is None else true), replace(text, ids=ids))


def test_gradients_are_finite_and_reach_every_weight(method):
    x = features().map(lambda t: t.requires_grad_() if t.is_floating_point() else t)
    loss_of(method, x, torch.tensor([0, 1, 1, 2, 3, 4]))["loss"].backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert x.require("image_global").grad.abs().sum() > 0
    assert x.require("text_global").grad.abs().sum() > 0
    for name, field in (("patches", "image_patches"), ("tokens", "text_tokens")):
        if name in method.needs:
            assert x.require(field).grad.abs().sum() > 0


def test_the_order_of_a_batch_does_not_change_its_loss(method):
    x, order, ids = features(), torch.tensor([3, 0, 5, 1, 4, 2]), torch.tensor([0, 1, 1, 2, 3, 4])
    torch.testing.assert_close(
        loss_of(method, x, ids)["loss"], loss_of(method, x.rows(order), ids[order])["loss"]
    )


def test_captions_of_one_picture_are_not_negatives(method):
    """Told that rows 0 and 1 are one picture, a step down the loss brings picture 0 and text 1
    nearer than one that takes them for strangers."""
    twice = (
        features()
        .rows(torch.tensor([0, 0, 1, 2, 3, 4]))
        .map(lambda t: t.requires_grad_() if t.is_floating_point() else t)
    )
    leaves: list[Tensor] = []
    twice.map(lambda t: leaves.append(t) or t if t.is_floating_point() else t)

    def gradient(of: Tensor) -> Tensor:
        found = torch.autograd.grad(of, leaves, allow_unused=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in found])

    nearer = gradient(
        sum(way[0, 1] for way in pairwise_scores(*encoded(method, twice), method.terms))
    )
    same, strangers = (
        -gradient(loss_of(method, twice, ids)["loss"]) @ nearer
        for ids in (torch.tensor([0, 0, 1, 2, 3, 4]), torch.arange(6))
    )
    assert same > 0 and same > 1.3 * strangers


def test_a_text_is_no_negative_of_any_picture_that_bears_it(method):
    """Pictures 0 and 1 bear text 9: as if these two rows were of one picture."""
    x, said = features(), torch.tensor([9, 9, 2, 3, 4, 5])
    true = torch.tensor([[0, 9], [1, 9], [2, -1], [3, -1], [4, -1], [5, -1]])
    shared = loss_of(method, x, said, true)
    torch.testing.assert_close(shared, loss_of(method, x, torch.tensor([0, 0, 2, 3, 4, 5])))
    assert shared["loss"] != loss_of(method, x, torch.arange(6))["loss"]


def test_the_loss_falls_in_20_steps(method):
    x, ids = features(batch=16, seed=4), torch.arange(16)
    heads = torch.nn.ModuleDict(
        {k: torch.nn.Linear(DIMS.embed, DIMS.embed) for k in ("image_global", "image_patches")}
    )
    optimizer = torch.optim.Adam([*method.parameters(), *heads.parameters()], lr=1e-2)
    values = []
    for _ in range(20):
        seen = replace(x, **{name: head(x.require(name)) for name, head in heads.items()})
        loss = loss_of(method, seen, ids)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.9 * values[0]


def test_alignment_and_patch_map_have_the_shapes_of_their_sides(method):
    x = features(batch=1)
    image, text = encoded(method, x)
    assert method.alignment(image, text).ndim == 2
    assert method.patch_map(x, x).shape == (1, DIMS.num_patches)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("Registers", ("lambda_global", "lambda_local")),
        ("Filip", ("lambda_global", "lambda_local")),
        ("Flair", ("lambda_global", "lambda_local")),
        ("HarmoClip", ("w_gc", "w_lrc", "w_gr")),
    ],
)
def test_weights_that_learn_nothing_are_refused(name, weights):
    kind = getattr(intarsia.methods, name)
    with pytest.raises(ConfigError, match="are all 0: nothing would be learnt"):
        kind(DIMS, **dict.fromkeys(weights, 0.0))
    for weight in weights:
        for value in (-1.0, float("nan"), float("inf")):
            with pytest.raises(ConfigError, match=f"{weight} is {value}"):
                kind(DIMS, **{weight: value})
    kind(DIMS, **{weights[0]: 0.0})
