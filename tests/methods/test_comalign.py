"""ComAlign against its equations, written out in loops."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intarsia.errors import ConfigError
from intarsia.methods import ComAlign
from intarsia.methods.comalign import sine_positions
from intarsia.terms.similarity import pairwise_scores
from intarsia.types import Components, Dims, Embeddings, Features

DIMS = Dims(embed=16, grid=(2, 2), context=8)
SIDES = {"image": 2, "text": 3}  # ends of a relation


def parts_of(lengths: list[tuple[int, int]], ends: int, seed: int) -> Components:
    """Components with so many real entities and relations; zeros behind them."""
    g = torch.Generator().manual_seed(seed)
    k, n = (max(2, *column) for column in zip(*lengths, (0, 0), strict=True))
    entity_mask = torch.arange(k) < torch.tensor([[e] for e, _ in lengths])
    relation_mask = torch.arange(n) < torch.tensor([[r] for _, r in lengths])
    shape = (len(lengths), n)
    boxes = torch.rand(*shape, 2, 4, generator=g)
    return Components(
        torch.randn(len(lengths), k, 16, generator=g) * entity_mask[..., None],
        entity_mask,
        torch.randn(*shape, 16, generator=g) * relation_mask[..., None],
        relation_mask,
        torch.randn(*shape, ends, 16, generator=g) * relation_mask[..., None, None],
        boxes * relation_mask[..., None, None] if ends == 2 else None,
    )


def features(
    image: list[tuple[int, int]] | None = None, text: list[tuple[int, int]] | None = None
) -> Features:
    image = image or [(4, 3), (2, 1), (3, 0), (1, 2)]
    text = text or [(1, 1), (3, 2), (2, 0), (4, 1)]
    g = torch.Generator().manual_seed(9)
    return Features(
        image_global=torch.randn(len(image), 16, generator=g),
        text_global=torch.randn(len(text), 16, generator=g),
        image_parts=parts_of(image, 2, 1),
        text_parts=parts_of(text, 3, 2),
    )


def made(**options) -> ComAlign:
    torch.manual_seed(0)
    return ComAlign(DIMS, **options).eval()


def encoded(method: ComAlign, x: Features) -> tuple[Embeddings, Embeddings]:
    return method.encode_image(x), method.encode_text(x)


def fgm(x: Tensor, y: Tensor) -> Tensor:
    """Equation 2."""
    return torch.stack([torch.stack([a @ b for b in y]).max() for a in x]).mean()


def real(side: Embeddings, name: str, row: int) -> Tensor:
    return side[name][row][side.masks[name][row]] if name in side.masks else side[name][row]


def score(a: Tensor, b: Tensor) -> Tensor:
    return fgm(a, b) if len(a) and len(b) else torch.tensor(0.0)


def both_ways(image: Embeddings, text: Embeddings, name: str) -> tuple[Tensor, Tensor]:
    """Equations 3 to 5: I2T and T2I similarity of every picture i and text j."""
    if image[name].ndim == 2:
        dots = image[name] @ text[name].T
        return dots, dots
    rows = [[real(image, name, i) for i in range(len(image))]]
    rows.append([real(text, name, j) for j in range(len(text))])
    i2t = torch.stack([torch.stack([score(x, y) for y in rows[1]]) for x in rows[0]])
    t2i = torch.stack([torch.stack([score(y, x) for y in rows[1]]) for x in rows[0]])
    return i2t, t2i


def contrast(scores: Tensor, keep: Tensor) -> Tensor:
    """Equation 8 over those that have components of this kind."""
    scores = scores[keep][:, keep]
    return F.cross_entropy(scores, torch.arange(len(scores)))


def test_the_loss_is_equations_6_to_9():
    method = made()
    for i, temperature in enumerate(method.temperatures.values()):
        temperature.logit_scale.data.fill_(1.0 + i)
    x = features([(4, 3), (2, 1), (3, 2), (1, 2)], [(1, 1), (3, 2), (2, 1), (4, 1)])
    image, text = encoded(method, x)
    everyone, total = torch.ones(4, dtype=torch.bool), torch.tensor(0.0)
    for i, name in enumerate(("global", "entity", "relation")):
        i2t, t2i = (s * math.exp(1.0 + i) for s in both_ways(image, text, name))
        total += (contrast(i2t, everyone) + contrast(t2i.T, everyone)) / 2
    losses = method.loss(image, text)
    torch.testing.assert_close(losses["loss"], total)
    assert set(losses) == {"loss", "global", "entity", "relation"}
    method.w_global = 0.25
    less = method.loss(image, text)["loss"]
    torch.testing.assert_close(less, total - 0.75 * losses["global"])


@pytest.mark.parametrize("directed", [False, True])
def test_the_similarity_is_equations_10_and_11(directed):
    a1, a2, b1 = 0.3, 0.7, 1.9
    method = made(alpha1=a1, alpha2=a2, beta1=b1, directed=directed)
    x = features()
    image, text = encoded(method, x)
    base = F.normalize(x.image_global, dim=1) @ F.normalize(x.text_global, dim=1).T
    (g, _), (e_i2t, e_t2i), (r_i2t, r_t2i) = (
        both_ways(image, text, name) for name in ("global", "entity", "relation")
    )
    if directed:
        roles = both_ways(image, text, "roles")
        r_i2t, r_t2i = r_i2t + roles[0], r_t2i + roles[1]
    i2t, t2i = pairwise_scores(image, text, method.terms)
    torch.testing.assert_close(i2t, base + a1 * (g + e_i2t + r_i2t) + a2 * (e_t2i + r_t2i))
    torch.testing.assert_close(t2i, base + b1 * (g + e_t2i + r_t2i))


def reference(method: ComAlign, side: str, x: Features) -> Tensor:
    """Linear + ReLU, positions, torch's own transformer layers, the last linear layer."""
    encoder = method.image_encoder if side == "image" else method.text_encoder
    parts: Components = getattr(x, f"{side}_parts")
    whole = x.require(f"{side}_global")[:, None]
    sequence = F.normalize(torch.cat([whole, parts.entities, parts.relations], 1), dim=-1)
    mask = torch.cat([torch.ones(len(whole), 1).bool(), parts.entity_mask, parts.relation_mask], 1)
    places = [0, *(1 + i for i in range(parts.entities.shape[1]))]
    places += [11 + i for i in range(parts.relations.shape[1])]
    state = encoder.enter(sequence) + sine_positions(torch.tensor(places), 24)
    for block in encoder.blocks:
        layer = nn.TransformerEncoderLayer(24, 4, 24, batch_first=True).eval()
        layer.load_state_dict(
            {
                "self_attn.in_proj_weight": block.project.weight,
                "self_attn.in_proj_bias": block.project.bias,
                "self_attn.out_proj.weight": block.mix.weight,
                "self_attn.out_proj.bias": block.mix.bias,
                "linear1.weight": block.network[0].weight,
                "linear1.bias": block.network[0].bias,
                "linear2.weight": block.network[3].weight,
                "linear2.bias": block.network[3].bias,
                "norm1.weight": block.attention_norm.weight,
                "norm1.bias": block.attention_norm.bias,
                "norm2.weight": block.norm.weight,
                "norm2.bias": block.norm.bias,
            }
        )
        state = layer(state, src_key_padding_mask=~mask)
    return F.normalize(encoder.leave(state), dim=-1) * mask[..., None]


@pytest.mark.parametrize("side", SIDES)
def test_the_encoders_are_transformers(side):
    method, x = made(width=24), features()
    found = getattr(method, f"encode_{side}")(x)
    whole = found["global"][:, None]
    joined = torch.cat([whole, found["entity"], found["relation"]], 1)
    torch.testing.assert_close(joined, reference(method, side, x), atol=1e-5, rtol=1e-5)


def test_positions_are_those_of_vaswani():
    table = sine_positions(torch.tensor([0, 3, 12]), 6)
    for row, place in enumerate((0, 3, 12)):
        for i in range(3):
            angle = place / 10_000 ** (2 * i / 6)
            assert table[row, 2 * i] == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[row, 2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-6)


@pytest.mark.parametrize("architecture", ["transformer", "fc_shared", "fc_separate"])
@pytest.mark.parametrize("directed", [False, True])
def test_neither_the_content_nor_the_amount_of_padding_matters(architecture, directed):
    method, x = made(architecture=architecture, directed=directed), features()

    def wider(v: Tensor) -> Tensor:
        return torch.cat([v, v.new_zeros(v.shape[0], 3, *v.shape[2:])], 1)

    def junk(v: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask.view(*mask.shape, *[1] * (v.ndim - 2)), v, 50.0)

    for side in SIDES:
        parts = getattr(x, f"{side}_parts").map(wider)
        more = {
            "entities": junk(parts.entities, parts.entity_mask),
            "relations": junk(parts.relations, parts.relation_mask),
            "parts": junk(parts.parts, parts.relation_mask),
        }
        other = replace(x, **{f"{side}_parts": replace(parts, **more)})
        encode = getattr(method, f"encode_{side}")
        a, b = encode(x), encode(other)
        torch.testing.assert_close(a["global"], b["global"])
        for name in ("entity", "relation"):
            torch.testing.assert_close(a[name][a.masks[name]], b[name][b.masks[name]])


def test_counted_padding_is_zero_rows_in_the_mean():
    x = features([(2, 1), (1, 1)], [(2, 2), (1, 1)])
    plain, counting = made(), made(count_padding=True)
    image, text = encoded(plain, x)
    counted_image, counted_text = encoded(counting, x)
    assert counted_image.masks == counted_text.masks == {}
    assert torch.equal(image["entity"], counted_image["entity"])
    found = pairwise_scores(counted_image, counted_text, counting.terms)
    i2t, t2i = both_ways(counted_image, counted_text, "entity")
    zero = torch.zeros(1, 16)
    x0, y1 = torch.cat([image["entity"][0]]), torch.cat([text["entity"][1, :1], zero])
    torch.testing.assert_close(i2t[0, 1], fgm(x0, y1))
    one_real = (text["entity"][1, 0] @ x0.T).max()
    torch.testing.assert_close(t2i[0, 1], one_real / 2)  # half of the two rows is padding
    g, r = (both_ways(counted_image, counted_text, name) for name in ("global", "relation"))
    base = image["base"] @ text["base"].T
    torch.testing.assert_close(found[1], base + g[1] + t2i + r[1])
    assert counting.loss(counted_image, counted_text)["loss"] != plain.loss(image, text)["loss"]


def moved(x: Features, name: str) -> Features:
    """The same with another vector in place of one group's first."""
    if name == "global":
        return replace(x, image_global=x.image_global.flip(0))
    field = {"entity": "entities", "relation": "relations"}[name]
    vectors = getattr(x.image_parts, field).flip(2)
    return replace(x, image_parts=replace(x.image_parts, **{field: vectors}))


@pytest.mark.parametrize("name", ["global", "entity", "relation"])
def test_terms_are_not_scored_but_still_attended_to_and_dropped_features_are_not(name):
    x, others = features(), [g for g in ("global", "entity", "relation") if g != name]
    for options, is_seen in (({"terms": others}, True), ({"drop_features": [name]}, False)):
        method = made(**options)
        assert [t.group for t in method.terms] == ["base", *others]
        assert set(method.loss(*encoded(method, x))) == {"loss", *others}
        before, after = method.encode_image(x), method.encode_image(moved(x, name))
        assert name not in before.groups
        same = [torch.allclose(before[g], after[g], atol=1e-5) for g in others]
        assert same == [not is_seen] * 2


def test_fully_connected_networks_let_nothing_interact():
    x = features()
    for architecture, interacts in (("transformer", 1), ("fc_shared", 0), ("fc_separate", 0)):
        method = made(architecture=architecture)
        before, after = method.encode_image(x), method.encode_image(moved(x, "entity"))
        assert torch.allclose(before["global"], after["global"], atol=1e-5) is not bool(interacts)
        assert not torch.allclose(before["entity"], after["entity"], atol=1e-5)
    method = made(architecture="fc_separate")
    method.loss(*encoded(method, replace(x)))["global"].backward()
    assert all(p.grad is None or not p.grad.any() for p in method.image_encoder.blocks.parameters())
    assert all(p.grad.any() for p in method.image_encoder.global_blocks[0].network.parameters())


def test_an_untrained_text_side_is_the_base():
    method, x = made(train_text=False), features()
    text = method.encode_text(x)
    torch.testing.assert_close(text["global"], text["base"])
    expected = F.normalize(x.text_parts.entities, dim=-1)
    torch.testing.assert_close(text["entity"], expected)
    assert not any(name.startswith("text") for name, _ in method.named_parameters())


def test_a_residual_transformer_starts_at_the_base():
    method, x = made(residual=True), features()
    image = method.encode_image(x)
    torch.testing.assert_close(image["global"], image["base"])
    expected = F.normalize(x.image_parts.relations, dim=-1)
    torch.testing.assert_close(image["relation"], expected)


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("architecture", ["transformer", "fc_separate"])
def test_a_batch_without_a_relation_or_an_entity(directed, architecture):
    method = made(directed=directed, architecture=architecture)
    x = features([(2, 0), (0, 0), (1, 0)], [(0, 0), (1, 0), (2, 0)])
    image, text = encoded(method, x)
    losses = method.loss(image, text)
    assert losses["relation"] == 0 and losses["entity"] > 0
    losses["loss"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())
    assert method.temperatures["global"].logit_scale.grad != 0
    assert all(s.isfinite().all() for s in pairwise_scores(image, text, method.terms))


def swapped(x: Features) -> Features:
    """The same two regions, their crop and their words, but with the roles exchanged."""
    image, text = x.image_parts, x.text_parts
    return replace(
        x,
        image_parts=replace(image, boxes=image.boxes.flip(2)),
        text_parts=replace(text, parts=text.parts[:, :, [2, 1, 0]]),
    )


def test_only_directed_relations_know_their_roles():
    x = features()
    method = made(directed=True)
    for a, b in zip(encoded(method, x), encoded(method, swapped(x)), strict=True):
        for name in ("relation", "roles"):
            real = a.masks[name]
            same = torch.allclose(a[name][real], b[name][real], atol=1e-5)
            assert same is (name == "relation")
    assert "roles" not in encoded(made(), x)[0].groups


def test_the_order_in_which_a_pair_of_regions_is_listed_is_no_role():
    """Which region comes first depends on the detector's scores alone."""
    x, method = features(), made(directed=True)
    image = x.image_parts
    other = replace(
        x, image_parts=replace(image, parts=image.parts.flip(2), boxes=image.boxes.flip(2))
    )
    (first, text), (second, _) = encoded(method, x), encoded(method, other)
    for a, b in zip(
        pairwise_scores(first, text, method.terms),
        pairwise_scores(second, text, method.terms),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_training_contrasts_relations_with_exchanged_roles():
    x, method = features(), made(directed=True, dropout=0.0)
    method.temperatures["roles"].logit_scale.data.fill_(1.3)
    plain = method.loss(*encoded(method, x))
    assert "exchanged" not in plain
    image, text = encoded(method.train(), x)
    other = method.encode_text(swapped(x))
    expected = []
    for i in range(len(image)):
        a, b, c = (real(side, "roles", i) for side in (image, text, other))
        if len(b):
            gaps = score(a, c) - score(a, b), score(c, a) - score(b, a)
            expected.append(sum(F.softplus(math.exp(1.3) * gap) for gap in gaps) / 2)
    losses = method.loss(image, text)
    torch.testing.assert_close(losses["exchanged"], torch.stack(expected).mean())
    torch.testing.assert_close(losses["loss"], plain["loss"] + losses["exchanged"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"terms": ["entities"]}, "group of ComAlign 'entities': choose from entity, global"),
        ({"drop_features": ["x"]}, "group of ComAlign 'x'"),
        ({"terms": ["entity"], "drop_features": ["entity"]}, "every term is dropped"),
        ({"directed": True, "drop_features": ["relation"]}, "directed relations need relations"),
        ({"architecture": "cnn"}, "architecture 'cnn': choose from fc_separate"),
        ({"width": 8, "residual": True}, "base's width 16, not 8"),
        ({"width": 8, "train_text": False}, "base's width 16, not 8"),
        ({"width": 18}, "width is 18: choose a multiple of the 4 heads"),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        ComAlign(DIMS, **options)


def test_features_without_components_are_an_error():
    with pytest.raises(ConfigError, match="comalign reads components"):
        made().encode_text(Features(text_global=torch.ones(1, 16)))


def test_the_weights_are_saved_with_the_model():
    method = made()
    method.mixture.copy_(torch.tensor([0.5, 0.25, 2.0]))
    other = ComAlign(DIMS)
    other.load_state_dict(method.state_dict())
    entity = other.terms[2]
    assert (entity.i2t, entity.reverse, entity.t2i) == (0.5, 0.25, 2.0)
    assert (other.terms[1].i2t, other.terms[1].reverse) == (0.5, 0.0)
