"""What `flair` is for: a text finds what it speaks of among the patches."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from intarsia.errors import ConfigError
from intarsia.methods import Flair
from intarsia.terms.similarity import pairwise_scores
from intarsia.types import Dims, Features

DIMS = Dims(embed=32, grid=(3, 3), context=4)


def world(batch: int, generator: torch.Generator) -> tuple[Features, torch.Tensor, torch.Tensor]:
    """Two of eight things somewhere on a 3 x 3 grid, of which the text names one. The picture's
    global vector knows neither."""
    codes = F.normalize(torch.randn(8, 32, generator=torch.Generator().manual_seed(7)), dim=-1)
    things = torch.rand(batch, 8, generator=generator).argsort(1)[:, :2]
    places = torch.rand(batch, 9, generator=generator).argsort(1)[:, :2]
    patches = 0.1 * torch.randn(batch, 9, 32, generator=generator)
    rows = torch.arange(batch)
    for k in (0, 1):
        patches[rows, places[:, k]] += codes[things[:, k]]
    blank = torch.ones(batch, 32)
    text = Features(blank, patches, codes[things[:, 0]])
    return text, things, places


@pytest.fixture(scope="module")
def trained() -> Flair:
    """A text is true of every picture that shows what it names."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    method = Flair(DIMS, lambda_global=0.0)
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    for _ in range(150):
        x, things, _ = world(64, generator)
        image, text = method.encode_image(x), method.encode_text(x)
        image, text = replace(image, ids=things), replace(text, ids=things[:, 0])
        loss = method.loss(image, text)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return method.eval()


def test_a_text_finds_what_it_names(trained):
    x, _, places = world(200, torch.Generator().manual_seed(2))
    found = trained.patch_map(x, x).argmax(1)
    assert (found == places[:, 0]).float().mean() > 0.95


def test_a_picture_scores_by_what_the_text_names(trained):
    """Of either of two things in the picture, which one vector for the picture could not tell."""
    x, things, _ = world(100, torch.Generator().manual_seed(3))
    method = Flair(DIMS, global_weight=0.0)
    method.load_state_dict(trained.state_dict())
    scores = pairwise_scores(method.encode_image(x), method.encode_text(x), method.terms)[0]
    shown = (things[:, None] == things[:, 0, None]).any(2)
    assert scores[shown].min() > scores[~shown].max()


def plain(method: Flair, x: Features) -> tuple[torch.Tensor, torch.Tensor]:
    """Global and text-conditioned scores, pair by pair."""
    whole, patches = F.normalize(x.image_global, dim=1), F.normalize(x.image_patches, dim=2)
    text, pool = F.normalize(x.text_global, dim=1), method.pool
    local = torch.zeros(len(x.image_global), len(text))
    for i, own in enumerate(patches):
        for t, asked in enumerate(text):
            query, key = pool.ln_q(asked[None]), pool.ln_k(own)
            out = pool.attn(query, key, pool.ln_v(own), need_weights=False)[0]
            local[i, t] = F.normalize(out[0], dim=0) @ asked
    return whole @ text.mT, local


def some() -> Features:
    g = torch.Generator().manual_seed(0)
    shapes = (4, 32), (4, 9, 32), (4, 32)
    return Features(*(torch.randn(shape, generator=g) for shape in shapes))


@pytest.mark.parametrize(("whole", "local"), [(1.0, 1.0), (0.0, 1.0), (0.5, 3.0)])
def test_scores_are_the_global_and_the_conditioned(whole, local):
    torch.manual_seed(0)
    method, x = Flair(DIMS, global_weight=whole, local_weight=local), some()
    found = pairwise_scores(method.encode_image(x), method.encode_text(x), method.terms)
    a, b = plain(method, x)
    for way in found:
        torch.testing.assert_close(way, whole * a + local * b, atol=1e-5, rtol=0)


def test_the_loss_is_two_sigmoid_losses():
    torch.manual_seed(0)
    method, x = Flair(DIMS, lambda_global=0.5, lambda_local=2.0), some()
    image, text = method.encode_image(x), method.encode_text(x)
    losses = method.loss(image, text)
    z = 2 * torch.eye(4) - 1
    for name, scores in zip(("global", "local"), plain(method, x), strict=True):
        expected = -F.logsigmoid(z * (scores / 0.07 - 10)).sum() / 4
        torch.testing.assert_close(losses[name], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(losses["loss"], 0.5 * losses["global"] + 2 * losses["local"])
    for kind in ("global", "local"):
        alone = Flair(DIMS, **{f"lambda_{kind}": 0.0})
        assert kind not in alone.loss(image, text)


def test_the_alignment_is_the_map_of_its_patches():
    torch.manual_seed(0)
    method, x = Flair(DIMS), some().rows(slice(1))
    found = method.alignment(method.encode_image(x), method.encode_text(x))
    torch.testing.assert_close(found[:, 0], method.patch_map(x, x)[0])


def test_a_width_that_its_heads_do_not_divide_is_told():
    with pytest.raises(
        ConfigError, match="num_heads is 8, but the width 20 can be split over 1, 2"
    ):
        Flair(Dims(embed=20, grid=(2, 2), context=4))
