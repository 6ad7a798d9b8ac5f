"""What cannot go together is told by the settings' names, before any picture is read."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from torch import nn

from intarsia.data.records import Records
from intarsia.encode.components import ComponentSpec
from intarsia.errors import ConfigError, TrainingError
from intarsia.methods import Clip, ComAlign, HarmoClip
from intarsia.model import Model
from intarsia.training.checks import alone, check, check_links, check_out
from intarsia.training.loop import Trainer


def trainer(**settings):
    return Trainer(**{"steps": 1, "batch_size": 8, "accelerator": "cpu"} | settings)


@pytest.mark.parametrize(
    ("freeze", "settings", "message"),
    [
        ("towers", {"flip": True}, "trainer.flip mirrors pictures, but freeze: towers"),
        ("backbone", {"flip": True}, "choose freeze none, image or text"),
        ("towers", {"layer_decay": 0.5}, "layer_decay is for towers that train.*freeze: towers"),
        ("none", {"layer_decay": 1.5}, "layer_decay is 1.5: choose above 0 and at most 1"),
        ("none", {"batch_size": 9}, "a batch of 9 on each of 1 ranks is more than 8 pairs: lower"),
    ],
)
def test_settings_that_cannot_go_together(freeze, settings, message, backbone):
    model = Model(backbone, Clip(backbone.dims), freeze=freeze).train()
    with pytest.raises(ConfigError, match=message):
        check(model, trainer(**settings), 8)


def test_the_batch_is_counted_over_all_devices(backbone):
    model = Model(backbone, Clip(backbone.dims)).train()
    two = SimpleNamespace(
        flip=False,
        layer_decay=None,
        grad_cache_chunk=None,
        batch_size=8,
        fabric=SimpleNamespace(world_size=2),
    )
    check(model, two, 16)
    with pytest.raises(ConfigError, match="each of 2 ranks is more than 15"):
        check(model, two, 15)


def test_what_goes_together_is_let_through(backbone):
    live = Model(backbone, Clip(backbone.dims)).train()
    assert check(live, trainer(flip=True, layer_decay=0.5), 8) is None
    frozen = Model(backbone, Clip(backbone.dims), freeze="text").train()
    assert check(frozen, trainer(flip=True, layer_decay=0.5, grad_cache_chunk=4), 8) is None


def test_a_batch_norm_that_trains_knows_no_chunks(backbone):
    method = Clip(backbone.dims)
    method.norm = nn.BatchNorm1d(4)
    model = Model(backbone, method).train()
    with pytest.raises(ConfigError, match="grad_cache_chunk cannot train method.norm"):
        check(model, trainer(grad_cache_chunk=4), 8)
    model.method.norm.eval()
    check(model, trainer(grad_cache_chunk=4), 8)


@pytest.mark.parametrize("freeze", ["towers", "backbone"])
def test_frozen_towers_give_no_crops(freeze, backbone):
    with_crops = HarmoClip(backbone.dims, gr_target="crop")
    with pytest.raises(ConfigError, match=f"need the pixels, but freeze: {freeze} trains HarmoC"):
        check(Model(backbone, with_crops, freeze=freeze).train(), trainer(), 8)
    check(Model(backbone, with_crops, freeze="text").train(), trainer(), 8)
    without = HarmoClip(backbone.dims, gr_target="phrase")
    check(Model(backbone, without, freeze=freeze).train(), trainer(), 8)


def test_pseudo_links_need_a_method_that_uses_them(backbone):
    with pytest.raises(ConfigError, match="pseudo makes links .* which Clip does not use"):
        check(Model(backbone, Clip(backbone.dims)).train(), trainer(), 8, pseudo=True)
    check(Model(backbone, HarmoClip(backbone.dims)).train(), trainer(), 8, pseudo=True)


def test_components_without_a_use_are_refused(backbone):
    spec = ComponentSpec(num_entities=5)
    model = Model(backbone, Clip(backbone.dims), components=spec).train()
    with pytest.raises(ConfigError, match="components has settings, but Clip matches none"):
        check(model, trainer(), 8)
    matching = ComAlign(backbone.dims, num_entities=5)
    check(Model(backbone, matching, freeze="backbone", components=spec).train(), trainer(), 8)


def test_components_need_a_frozen_backbone(backbone):
    with pytest.raises(ConfigError, match="ComAlign works over a frozen backbone"):
        Model(backbone, ComAlign(backbone.dims), components=ComponentSpec())


def test_a_run_is_not_begun_over_another(tmp_path):
    check_out(tmp_path / "new", resume=False)
    for name in ("model.safetensors", "checkpoints/last.ckpt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        with pytest.raises(TrainingError, match="already holds a run: add --resume"):
            check_out(tmp_path, resume=False)
        check_out(tmp_path, resume=True)
        (tmp_path / name).unlink()


def test_only_one_trains_in_a_folder(tmp_path):
    with alone(tmp_path / "run"):
        with (
            pytest.raises(TrainingError, match="another process trains in"),
            alone(tmp_path / "run"),
        ):
            pass
    with alone(tmp_path / "run"):
        pass
    assert list((tmp_path / "run").iterdir()) == []


def test_a_method_that_learns_from_links_needs_some(records, backbone):
    bare = Records.of(replace(record, phrases=()) for record in records[:6])
    with pytest.raises(ConfigError, match="none of 6 records has any: find them with --pseudo"):
        check_links(Model(backbone, HarmoClip(backbone.dims)), bare)
    check_links(Model(backbone, HarmoClip(backbone.dims)), Records.of(records[:6]))
    check_links(Model(backbone, Clip(backbone.dims)), bare)


@pytest.mark.parametrize("settings", [{"patch_dropout": 0.5}, {"checkpointing": True}])
def test_frozen_towers_need_no_savings(settings, backbone):
    model = Model(backbone, Clip(backbone.dims), freeze="towers").train()
    with pytest.raises(ConfigError, match="are for towers that train, but freeze: towers"):
        check(model, trainer(**settings), 8)
