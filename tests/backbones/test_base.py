"""What every backbone says of itself by name: sides, depths, layers for LoRA."""

import math
from dataclasses import replace

import pytest
import torch

from intarsia.backbones.loading import load_backbone
from intarsia.methods import Clip, ComAlign, Filip, Flair, HarmoClip, Registers
from intarsia.types import Dims


@pytest.fixture(params=["hf-clip", "hf-siglip", "openclip", "openclip-siglip", "scenes-resnet"])
def any_backbone(request, clip_folder, siglip_folder, openclip_checkpoints, openclip_siglip):
    specs = {
        "hf-clip": f"hf:{clip_folder}",
        "hf-siglip": f"hf:{siglip_folder}",
        "openclip": f"openclip:tiny-clip:{openclip_checkpoints['tiny-clip']}",
        "openclip-siglip": str(openclip_siglip),
        "scenes-resnet": "scenes-resnet",
    }
    return load_backbone(specs[request.param])


def test_the_sides_are_all_towers_and_share_nothing(any_backbone):
    image, text = any_backbone.towers_of("image"), any_backbone.towers_of("text")
    assert {*image, *text} == set(any_backbone.towers()) and not {*image} & {*text}
    assert any_backbone.towers_of("image", "text") == any_backbone.towers()
    any_backbone.freeze_towers("text")
    texts = any_backbone.text_states(any_backbone.tokenize(["a red circle"]))
    assert not texts.text_global.requires_grad
    assert all(p.requires_grad for tower in image for p in tower.parameters())


def test_fingerprints_of_a_side_know_that_side_only(any_backbone):
    before = {s: any_backbone.fingerprint(s) for s in ("image", "text")}
    weight = next(any_backbone.towers_of("text")[0].parameters())
    weight.data.add_(1)
    assert any_backbone.fingerprint("image") == before["image"]
    assert any_backbone.fingerprint("text") != before["text"]


def test_depths_rise_from_the_projections_to_the_embeddings(any_backbone):
    depths = any_backbone.depths()
    assert depths.keys() == dict(any_backbone.named_parameters()).keys()
    towers = {id(p) for tower in any_backbone.towers() for p in tower.parameters()}
    for side in ("image", "text"):
        inside = {id(p) for tower in any_backbone.towers_of(side) for p in tower.parameters()}
        own = [depths[name] for name, p in any_backbone.named_parameters() if id(p) in inside]
        assert own[0] == max(own) >= 3 and own[-1] <= 1  # a ResNet ends with its last stage
        assert {0, *own} == set(range(max(own) + 1))
        assert own == sorted(own, reverse=True)
    for name, parameter in any_backbone.named_parameters():
        assert id(parameter) in towers or depths[name] == 0, name


def test_depths_of_a_clip_by_hand(backbone):
    depths = backbone.depths()
    vision, text = "model.vision_model", "model.text_model"
    assert {name: depths[name] for name in depths if name.endswith("mlp.fc1.bias")} == {
        **{f"{vision}.encoder.layers.{i}.mlp.fc1.bias": 4 - i for i in range(4)},
        **{f"{text}.encoder.layers.{i}.mlp.fc1.bias": 3 - i for i in range(3)},
    }
    assert depths[f"{vision}.embeddings.patch_embedding.weight"] == 5
    assert depths[f"{text}.embeddings.token_embedding.weight"] == 4
    assert depths[f"{vision}.post_layernorm.bias"] == depths["model.text_projection.weight"] == 0


SPACES = {
    Clip: {"temperature": True},
    Filip: {"temperature": True, "local_temperature": True},
    Registers: {"temperature": True, "local_temperature": False},
    HarmoClip: {"temperature": True, "lexeme_temperature": True, "region_temperature": True},
}


def test_terms_start_at_the_scale_of_the_space_they_start_in(clip_folder, tmp_path):
    backbone = load_backbone(f"hf:{clip_folder}")
    backbone.take_temperature(torch.tensor(math.log(42.0)))
    backbone.export(tmp_path)
    dims = load_backbone(f"hf:{tmp_path}").dims
    assert dims.scale == pytest.approx(42.0)
    for kind, spaces in SPACES.items():
        method = kind(dims)
        for name, own in spaces.items():
            expected = 42.0 if own else 1 / 0.07
            assert getattr(method, name)().item() == pytest.approx(expected), (kind, name)
    for residual, expected in ((True, 42.0), (False, 1 / 0.07)):
        found = ComAlign(dims, residual=residual, directed=True).temperatures
        for name, temperature in found.items():
            start = expected if name != "roles" else 1 / 0.07
            assert temperature().item() == pytest.approx(start), name
    assert Clip(replace(dims, scale=117.0)).temperature().item() == pytest.approx(117.0)


def test_a_sigmoid_loss_starts_where_a_sigmoid_loss_left_off():
    """A softmax temperature is none for a sigmoid."""
    dims = Dims(16, (2, 2), 8, 117.0)
    for bias, scale, start in ((None, 1 / 0.07, -10.0), (-12.9, 117.0, -12.9)):
        method = Flair(replace(dims, bias=bias))
        assert method.temperature().item() == pytest.approx(scale)
        assert method.temperature.logit_bias.item() == pytest.approx(start)
        assert method.local_temperature().item() == pytest.approx(1 / 0.07)
        assert method.local_temperature.logit_bias.item() == -10


def test_a_trained_bias_goes_back(any_backbone):
    if any_backbone.dims.scale is None:
        assert any_backbone.dims.bias is None
        return
    before = biases(any_backbone)
    assert [any_backbone.dims.bias] == (before or [None])
    any_backbone.take_temperature(torch.tensor(1.0), torch.tensor(-4.5))
    assert biases(any_backbone) == [-4.5] * len(before)


def test_every_pretrained_space_says_its_scale(any_backbone):
    fresh = any_backbone.name == "scenes-resnet"
    assert (any_backbone.dims.scale is None) is fresh
    if not fresh:
        before = any_backbone.dims.scale
        bias = biases(any_backbone)
        any_backbone.take_temperature(torch.tensor(math.log(2 * before)))
        for old, new in zip(bias, biases(any_backbone), strict=True):
            assert new == pytest.approx(2 * old)  # so that the same cosine is as good as not


def biases(backbone) -> list[float]:
    """The bias of a model that was trained by a sigmoid."""
    others = getattr(backbone, "_other_weights", None)
    found = backbone.model.logit_bias if others is None and has_bias(backbone) else None
    found = others.get("logit_bias") if others is not None else found
    return [] if found is None else [float(found)]


def has_bias(backbone) -> bool:
    return hasattr(backbone.model, "logit_bias")
