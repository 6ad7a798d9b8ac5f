"""Freezing either tower: what trains, what is saved, what may be the start."""

import pytest
import torch

from intarsia.encode.pairs import LivePairs
from intarsia.errors import ConfigError
from intarsia.methods import Clip
from intarsia.model import WEIGHTS, Model, ModelSpec, load_model
from intarsia.training.loop import Trainer
from intarsia.training.run import DataSpec, make_pairs, train, write_config

SIDES = {"image": ("vision", "text"), "text": ("text", "vision")}
FREEZES = ("none", "image", "text", "towers")
KEYS = {"vision": "vision_model.encoder", "text": "text_model.encoder"}


def spec(freeze) -> ModelSpec:
    return ModelSpec({"spec": "scenes-clip"}, freeze=freeze)


@pytest.mark.parametrize("freeze", SIDES)
def test_one_tower_trains_the_other_stays(freeze, tmp_path, records):
    frozen, trained = (KEYS[side] for side in SIDES[freeze])
    trainer = Trainer(steps=2, batch_size=8, precision="32-true", layer_decay=0.9)
    model = train(spec(freeze), DataSpec("scenes"), trainer, tmp_path, records=records)
    start = spec(freeze).build().state_dict()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, start[k])}
    assert any(trained in k for k in changed) and not any(frozen in k for k in changed)
    assert any("visual_projection" in k for k in changed)
    assert any("text_projection" in k for k in changed)
    assert not any(frozen in k for k in model.trained_state())
    assert any(trained in k for k in model.trained_state())
    loaded = load_model(tmp_path).state_dict()
    assert all(torch.equal(v, loaded[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("freeze", SIDES)
def test_no_graph_is_kept_of_the_frozen_tower(freeze, backbone, records):
    model = Model(backbone, Clip(backbone.dims), freeze=freeze).train()
    pairs = make_pairs(model, records[:4], None, None)
    assert isinstance(pairs, LivePairs)
    model(pairs[[0, 5]])["loss"].backward()
    vision, text = backbone.model.vision_model, backbone.model.text_model
    still, moved = (vision, text) if freeze == "image" else (text, vision)
    assert all(p.grad is None for p in still.parameters()) and not still.training
    assert any(p.grad is not None for p in moved.parameters()) and moved.training


@pytest.mark.parametrize("before", FREEZES)
@pytest.mark.parametrize("after", FREEZES)
def test_a_start_may_freeze_less_or_more_than_its_base(before, after, tmp_path):
    """What was frozen there comes from the build, what was trained there from the weights."""
    base = spec(before).build(1)
    with torch.no_grad():
        for parameter in base.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    folders = tmp_path / "base", tmp_path / "over"
    for folder, freeze in zip(folders, (before, after), strict=True):
        write_config(folder, spec(freeze), {"seed": 1}, resume=False)
    base.save(folders[0] / WEIGHTS)
    model = spec(after).build(1)
    assert model.start_from(folders[0]) == []
    model.save(folders[1] / WEIGHTS)
    for other in (model, load_model(folders[1])):
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in base.state_dict().items())


def test_a_start_over_towers_of_another_build_is_refused(tmp_path):
    model = spec("image").build(1)
    write_config(tmp_path, spec("image"), {"seed": 1}, resume=False)
    model.save(tmp_path / WEIGHTS)
    for freeze in FREEZES:
        with pytest.raises(ConfigError, match="frozen towers.*not those of"):
            spec(freeze).build(0).start_from(tmp_path)


def test_an_unknown_part_is_named():
    with pytest.raises(ConfigError, match="unknown freeze 'vision': choose from backbone, image"):
        spec("vision").build()


@pytest.mark.parametrize("freeze", ["towers", "backbone"])
def test_layer_decay_needs_a_tower_that_trains(freeze, tmp_path, records):
    method = {"class_path": "intarsia.methods.Registers"}
    frozen = ModelSpec({"spec": "scenes-clip"}, method, freeze=freeze)
    trainer = Trainer(steps=1, batch_size=8, layer_decay=0.5)
    with pytest.raises(ConfigError, match=f"layer_decay is for towers.*freeze: {freeze}"):
        train(
            frozen, DataSpec("scenes"), trainer, tmp_path / "r", records=records[:8], cache=tmp_path
        )


def test_flip_needs_pictures(tmp_path, records):
    trainer = Trainer(steps=1, batch_size=8, flip=True)
    with pytest.raises(ConfigError, match="flip mirrors pictures, but freeze: towers"):
        train(
            spec("towers"),
            DataSpec("scenes"),
            trainer,
            tmp_path / "r",
            records=records[:8],
            cache=tmp_path,
        )
