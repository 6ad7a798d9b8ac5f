"""Activation checkpointing and patch dropout, over every kind of tower."""

import pytest
import torch

from intarsia.backbones.loading import load_backbone
from intarsia.errors import ConfigError
from intarsia.methods import Clip, Filip
from intarsia.model import Model
from intarsia.runtime import seed_everything
from intarsia.training.memory import blocks_of, patches_dropped, recomputed

SPECS = ["scenes-clip", "scenes-resnet", "openclip:ViT-S-32-alt"]


@pytest.fixture(params=SPECS)
def tower(request):
    seed_everything(0)
    return load_backbone(request.param).train()


def pixels_of(backbone, count=2):
    size = backbone.transform.size
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def gradients(backbone):
    """Of a sum over both sides, and the bytes that are kept for the way back."""
    backbone.zero_grad()
    kept = {}

    def keep(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    seed_everything(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        image = backbone.encode_image(pixels_of(backbone)).image_global
        text = backbone.encode_text(backbone.tokenize(["a red circle", "a dog"])).text_global
    (image.square().mean() + text.square().mean()).backward()
    found = {n: p.grad.clone() for n, p in backbone.named_parameters() if p.grad is not None}
    return found, sum(kept.values())


def test_blocks_that_are_run_again_give_the_same_gradients_from_less_memory(tower):
    before = {name: x.clone() for name, x in tower.named_buffers()}
    expected, much = gradients(tower)
    after = {name: x.clone() for name, x in tower.named_buffers()}
    tower.load_state_dict(before, strict=False)
    with recomputed(tower):
        found, less = gradients(tower)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name])
    for name, x in tower.named_buffers():  # running statistics moved once, not twice
        torch.testing.assert_close(x, after[name])
    assert less < 0.75 * much
    assert not any("forward" in vars(block) for block in tower.modules())


def test_a_vit_in_training_sees_a_share_of_the_patches(monkeypatch):
    model = Model(load_backbone("scenes-clip"), Clip(load_backbone("scenes-clip").dims))
    vision = model.backbone.model.vision_model
    seen = []
    vision.encoder.layers[1].register_forward_pre_hook(lambda m, args: seen.append(args[0].shape))
    pixels = pixels_of(model.backbone)
    num_patches = model.backbone.dims.num_patches
    expected = model.backbone.eval().encode_image(pixels).image_global
    with patches_dropped(model, 0.75):
        seen.clear()
        kept = model.backbone.encode_image(pixels).image_global
        model.backbone.train()
        one, other = (model.backbone.encode_image(pixels).image_global for _ in range(2))
    after = model.backbone.eval().encode_image(pixels).image_global
    assert [shape[1] for shape in seen] == [1 + num_patches] + [1 + num_patches // 4] * 2 + [
        1 + num_patches
    ]
    assert torch.equal(kept, expected) and torch.equal(after, expected)
    assert not torch.equal(one, other) and one.isfinite().all()


def test_what_cannot_do_without_patches_is_refused():
    backbone = load_backbone("scenes-clip")
    with pytest.raises(ConfigError, match="Filip looks at all patches"):
        patches_dropped(Model(backbone, Filip(backbone.dims)), 0.5).__enter__()
    resnet = load_backbone("scenes-resnet")
    model = Model(resnet, Clip(resnet.dims))
    with pytest.raises(ConfigError, match="scenes-resnet is no transformer over patches"):
        patches_dropped(model, 0.5).__enter__()
    with pytest.raises(ConfigError, match=r"patch_dropout is 1\.5: give a share"):
        patches_dropped(model, 1.5).__enter__()


def test_the_outermost_pile_of_like_modules_is_the_blocks(tower):
    for side in ("image", "text"):
        found = [block for part in tower.towers_of(side) for block in blocks_of(part)]
        assert len(found) > 1 and len({type(block) for block in found}) == 1
