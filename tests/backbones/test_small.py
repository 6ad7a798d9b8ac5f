import numpy as np
import pytest
import torch
from PIL import Image

from intarsia.backbones.loading import load_backbone
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
