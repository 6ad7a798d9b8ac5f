import pytest
import torch
import yaml

from intarsia.backbones.loading import load_backbone
from intarsia.errors import BackboneError, ConfigError
from intarsia.methods import Clip, Registers
from intarsia.model import CONFIG, WEIGHTS, Model, ModelSpec, load_model
from intarsia.training.run import write_config

SPEC = ModelSpec({"spec": "scenes-clip"}, {"class_path": "intarsia.methods.Registers"})


def saved(spec, folder, seed=0):
    model = spec.build(seed).eval()
    write_config(folder, spec, {}, resume=False)
    model.save(folder / WEIGHTS)
    return model


def test_loaded_embeddings_equal_saved_ones(tmp_path, records):
    model = saved(SPEC, tmp_path, seed=4)
    loaded = load_model(tmp_path)
    images, texts = [r.image for r in records[:5]], [r.captions[0] for r in records[:5]]
    for a, b in (
        (model.encode_images(images), loaded.encode_images(images)),
        (model.encode_texts(texts), loaded.encode_texts(texts)),
    ):
        assert a.groups.keys() == b.groups.keys() == {"global", "local"}
        assert all(torch.equal(a[name], b[name]) for name in a.groups)


def test_what_a_pair_looks_like_inside(records):
    model, record = SPEC.build(), records[0]
    image, text = model.encode_images([record.image]), model.encode_texts(record.captions)
    i2t, t2i = model.similarity(image, text)
    assert i2t.shape == t2i.shape == (1, 4)
    assert model.alignment(record.image, record.captions[0]).shape == (49, 49)
    maps = model.patch_maps(record.image, ["red circle", "blue star"])
    assert maps.shape == (2, 7, 7)
    assert not torch.equal(maps[0], maps[1])


def test_batches_do_not_change_embeddings(records):
    model = SPEC.build()
    images, texts = [r.image for r in records[:5]], [c for r in records[:5] for c in r.captions]
    for a, b in (
        (model.encode_images(images, batch_size=2), model.encode_images(images)),
        (model.encode_texts(texts, batch_size=3), model.encode_texts(texts)),
    ):
        for name in a.groups:
            torch.testing.assert_close(a[name], b[name], atol=1e-5, rtol=1e-5)


def test_frozen_parts_get_no_gradient_and_stay_in_eval():
    towers = Model(load_backbone("scenes-clip"), Clip(load_backbone("scenes-clip").dims))
    assert all(p.requires_grad for t in towers.backbone.towers() for p in t.parameters())
    for freeze, projections_train in (("towers", True), ("backbone", False)):
        backbone = load_backbone("scenes-clip")
        model = Model(backbone, Registers(backbone.dims), freeze=freeze).train()
        assert not any(p.requires_grad for t in backbone.towers() for p in t.parameters())
        assert not any(t.training for t in backbone.towers())
        assert backbone.model.visual_projection.weight.requires_grad is projections_train
        assert model.method.training


def test_weights_of_frozen_towers_are_not_stored_but_checked(tmp_path):
    spec = ModelSpec({"spec": "scenes-clip"}, freeze="towers")
    model = spec.build(0)
    model.save(tmp_path / WEIGHTS)
    assert not any("encoder" in name for name in model.trained_state())
    other = spec.build(1)
    with pytest.raises(ConfigError, match="trained on towers with fingerprint"):
        other.load(tmp_path / WEIGHTS)


def test_folders_that_are_no_models_are_named(tmp_path):
    with pytest.raises(ConfigError, match="has no config.yaml"):
        load_model(tmp_path)
    saved(SPEC, tmp_path)
    config = yaml.safe_load((tmp_path / CONFIG).read_text())
    config["method"] = {"class_path": "intarsia.methods.Clip"}
    (tmp_path / CONFIG).write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match="does not fit its config"):
        load_model(tmp_path)
    (tmp_path / CONFIG).write_text("data: 3")
    with pytest.raises(ConfigError, match="is not the config of a run"):
        load_model(tmp_path)


@pytest.mark.parametrize("path", ["os.system", "intarsia.methods.Clap", "nowhere.Clip", "Clip"])
def test_only_methods_are_built(path):
    with pytest.raises(ConfigError, match="method"):
        ModelSpec({"spec": "scenes-clip"}, {"class_path": path}).build()


def test_another_backbone_cannot_be_the_start(tmp_path):
    saved(SPEC, tmp_path)
    other = ModelSpec({"spec": "scenes-clip", "words": ["one", "two"]}).build()
    with pytest.raises(ConfigError, match="another backbone"):
        other.start_from(tmp_path)


def test_unknown_options_list_the_valid_ones():
    with pytest.raises(BackboneError, match="unknown option 'width'.*words"):
        ModelSpec({"spec": "scenes-clip", "width": 3}).build()


def test_a_start_with_other_towers_is_refused(tmp_path):
    """Frozen towers are not in the weights: only a build that gives the same ones can go on."""
    frozen = ModelSpec({"spec": "scenes-clip"}, freeze="towers")
    saved(SPEC, tmp_path / "trained")
    saved(frozen, tmp_path / "frozen", seed=1)
    with pytest.raises(ConfigError, match="frozen towers.*not those of scenes-clip"):
        SPEC.build().start_from(tmp_path / "frozen")
    with pytest.raises(ConfigError, match="frozen towers.*not those of scenes-clip"):
        frozen.build(0).start_from(tmp_path / "frozen")
    assert frozen.build(1).start_from(tmp_path / "frozen") == []
    with pytest.raises(ConfigError, match="has no model.safetensors"):
        SPEC.build().start_from(tmp_path / "nowhere")


def test_trained_towers_that_are_then_frozen_are_saved(tmp_path):
    """A fresh build does not give them, so a frozen model that started from them keeps them."""
    frozen = ModelSpec({"spec": "scenes-clip"}, freeze="backbone")
    base = saved(SPEC, tmp_path / "base", seed=3)
    model = frozen.build()
    assert model.start_from(tmp_path / "base") == []
    write_config(tmp_path / "over", frozen, {}, resume=False)
    model.save(tmp_path / "over" / WEIGHTS)
    again = load_model(tmp_path / "over")
    assert again.backbone.fingerprint() == base.backbone.fingerprint()
    assert again.backbone.fingerprint() != frozen.build().backbone.fingerprint()
    another = frozen.build(5)
    assert another.start_from(tmp_path / "over") == []
    assert another.backbone.fingerprint() == base.backbone.fingerprint()


def test_a_seed_makes_the_frozen_towers_again(tmp_path):
    spec = ModelSpec({"spec": "scenes-clip"}, freeze="towers")
    model = spec.build(7)
    write_config(tmp_path, spec, {"seed": 7}, resume=False)
    model.save(tmp_path / WEIGHTS)
    assert load_model(tmp_path).backbone.fingerprint() == model.backbone.fingerprint()


def test_one_string_is_one_text():
    model = SPEC.build()
    assert len(model.encode_texts("a red circle")) == 1


def test_fingerprints_know_more_than_weights():
    from dataclasses import replace

    backbone = load_backbone("scenes-clip")
    before = backbone.fingerprint()
    backbone.transform = replace(backbone.transform, mean=(0.1, 0.5, 0.5))
    assert backbone.fingerprint() != before
