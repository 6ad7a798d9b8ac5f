import numpy as np
import pytest
import torch
from PIL import Image

from intarsia.backbones.loading import load_backbone
from intarsia.errors import BackboneError
from intarsia.types import Dims

WORDS = ["a", "red", "circle", "above", "blue", "squares", "Two"]


@pytest.fixture(scope="module")
def ours():
    torch.manual_seed(0)
    return load_backbone("scenes-clip", words=WORDS)


def test_dims_and_size(ours):
    assert ours.dims == Dims(embed=128, grid=(7, 7), context=32)
    assert 1e6 < sum(p.numel() for p in ours.parameters()) < 2e6


def test_words_and_punctuation_are_tokens(ours):
    text = "Two  RED circles, above!"
    tokens = ours.tokenize([text, "a " * 50])
    found = [text[s:e] for (s, e), m in zip(tokens.offsets[0], tokens.mask[0], strict=True) if m]
    assert found == ["Two", "RED", "circles", ",", "above", "!"]
    unknown = ours.tokenize(["zebra"]).ids[0, 1]
    assert tokens.ids[0, 3] == unknown != tokens.ids[0, 2]
    assert tokens.ids.shape == (2, 32) and tokens.mask[1].sum() == 30


def test_a_picture_of_its_own_size_passes_untouched(ours):
    pixels = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    assert np.array_equal(ours.preprocess(Image.fromarray(pixels)).permute(1, 2, 0), pixels)
    white = ours.transform.normalise(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))
    assert white.unique().tolist() == [1.0]


@torch.inference_mode()
def test_the_text_vector_is_that_of_the_end_token(ours):
    tokens = ours.tokenize(["a red circle", "two"])
    states = ours.text_states(tokens)
    ends = tokens.attention.sum(1) - 1
    torch.testing.assert_close(states.text_global, states.text_tokens[torch.arange(2), ends])


def test_a_seed_gives_the_same_weights():
    prints = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        prints.append(load_backbone("scenes-clip", words=WORDS).fingerprint())
    assert prints[0] == prints[1] != prints[2]


def test_it_knows_the_words_of_the_scenes():
    scenes = pytest.importorskip("intarsia.data.scenes", reason="scenes not written yet")
    ours = load_backbone("scenes-clip")
    ids = ours.tokenize([" ".join(scenes.vocabulary()[:20])]).ids
    assert (ids != ours.tokenize(["zzz"]).ids[0, 1]).all()


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return load_backbone("scenes-resnet", words=WORDS)


def test_the_resnet_has_the_sizes_of_the_transformer(ours, resnet):
    assert resnet.dims == ours.dims and resnet.transform == ours.transform
    assert 7e5 < sum(p.numel() for p in resnet.parameters()) < 9e5


@torch.inference_mode()
def test_the_vector_of_a_picture_is_the_mean_of_its_patches(resnet):
    pixels = torch.randint(0, 256, (2, 3, 112, 112), dtype=torch.uint8)
    seen = resnet.encode_image(pixels, dense="value")
    assert seen.image_patches.shape == (2, 49, 128)
    torch.testing.assert_close(seen.image_patches.mean(1), seen.image_global)


@torch.inference_mode()
def test_a_patch_of_the_resnet_is_where_it_looks(resnet):
    """What changes in the lower left corner changes patches there, and none far from it."""
    grey = torch.full((1, 3, 112, 112), 128, dtype=torch.uint8)
    spot = grey.clone()
    spot[:, 0, 96:, :16] = 255
    both = resnet.eval().encode_image(torch.cat([grey, spot]), dense="value").image_patches
    change = (both[1] - both[0]).norm(dim=1).view(7, 7)
    assert change[5:, :2].min() > 0.01 and change[:3].max() < 0.01 > change[:, 4:].max()


@torch.inference_mode()
def test_the_resnets_text_tower_ignores_padding(resnet):
    texts = ["a red circle", "Two blue squares above a red circle"]
    together = resnet.encode_text(resnet.tokenize(texts))
    alone = resnet.encode_text(resnet.tokenize(texts[:1]))
    torch.testing.assert_close(alone.text_global, together.text_global[:1], atol=1e-5, rtol=1e-5)
    real = together.text_mask[0]
    assert real.sum() == 3 == alone.text_mask.sum()
    torch.testing.assert_close(
        alone.text_tokens[0][alone.text_mask[0]],
        together.text_tokens[0][real],
        atol=1e-5,
        rtol=1e-5,
    )


@pytest.mark.parametrize(("view", "width"), [("picture", 93), ("surroundings", 47)])
def test_what_a_patch_sees(view, width):
    """Of the middle one, by its gradient, where every weight lets everything through."""
    tower = load_backbone("scenes-resnet", words=WORDS, view=view).vision
    for weight in tower.parameters():
        weight.data = weight.data.abs() + 0.01
    pixels = torch.ones(1, 3, 112, 112, requires_grad=True)
    tower(pixel_values=pixels).last_hidden_state[0, :, 3, 3].sum().backward()
    for axis in (2, 3):
        seen = pixels.grad[0].abs().sum((0, 4 - axis)).nonzero().flatten()
        assert seen.max() - seen.min() + 1 == width
    with pytest.raises(BackboneError, match="unknown view 'far': choose from picture, surround"):
        load_backbone("scenes-resnet", view="far")


def test_a_seed_gives_the_same_resnet(resnet):
    torch.manual_seed(0)
    assert load_backbone("scenes-resnet", words=WORDS).fingerprint() == resnet.fingerprint()
    torch.manual_seed(1)
    assert load_backbone("scenes-resnet", words=WORDS).fingerprint() != resnet.fingerprint()
