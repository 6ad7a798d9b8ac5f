import pytest
import torch
import yaml

from intarsia.cli.training import interpolate as verb
from intarsia.errors import ConfigError
from intarsia.model import CONFIG, WEIGHTS, ModelSpec, load_model
from intarsia.training.interpolate import interpolate
from intarsia.training.run import write_config

CLIP = ModelSpec({"spec": "scenes-clip"})
FROZEN = ModelSpec({"spec": "scenes-clip"}, freeze="towers")
REGISTERS = ModelSpec({"spec": "scenes-clip"}, {"class_path": "intarsia.methods.Registers"})
RESNET = ModelSpec({"spec": "scenes-resnet"})


def saved(spec, folder, seed=0):
    model = spec.build(seed)
    write_config(folder, spec, {"seed": seed}, resume=False)
    model.save(folder / WEIGHTS)
    return model


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_every_weight_lies_between(weight):
    start, model, end = CLIP.build(0), CLIP.build(1), CLIP.build(1)
    interpolate(start, model, weight)
    for name, found in model.state_dict().items():
        a, b = start.state_dict()[name], end.state_dict()[name]
        if found.is_floating_point():
            torch.testing.assert_close(found, (1 - weight) * a + weight * b, atol=1e-6, rtol=0)
        assert weight not in (0.0, 1.0) or torch.equal(found, b if weight else a)


def test_a_method_beyond_the_start_keeps_what_it_has():
    model, end = REGISTERS.build(1), REGISTERS.build(1)
    interpolate(CLIP.build(0), model, 0.0)
    for name, found in model.method.state_dict().items():
        assert torch.equal(found, end.method.state_dict()[name])
    assert not torch.equal(
        model.backbone.model.visual_projection.weight, end.backbone.model.visual_projection.weight
    )


def test_the_verb_writes_a_model(tmp_path, monkeypatch):
    start, end = saved(CLIP, tmp_path / "a", 0), saved(CLIP, tmp_path / "b", 1)
    folders = f"--start {tmp_path / 'a'} --model {tmp_path / 'b'} --out {tmp_path / 'c'}".split()
    verb([*folders, "--weight", "0.5"])
    found = load_model(tmp_path / "c").state_dict()
    key = "backbone.model.visual_projection.weight"
    middle = (start.state_dict()[key] + end.state_dict()[key]) / 2
    torch.testing.assert_close(found[key], middle)
    kept = yaml.safe_load((tmp_path / "c" / CONFIG).read_text())["interpolate"]
    assert kept == {"start": f"{tmp_path}/a", "model": f"{tmp_path}/b", "weight": "0.5"}
    with pytest.raises(ConfigError, match="already holds a model"):
        verb(folders)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"scenes-resnet.*scenes-clip.*do not have the same"):
        interpolate(RESNET.build(), CLIP.build(), 0.5)
    words = ModelSpec({"spec": "scenes-clip", "words": ["one", "two"]})
    with pytest.raises(ConfigError, match="1 differ in name or shape, e.g. .*token_embedding"):
        interpolate(words.build(), CLIP.build(), 0.5)
    with pytest.raises(ConfigError, match="weight is 1.5"):
        interpolate(CLIP.build(), CLIP.build(), 1.5)
    with pytest.raises(ConfigError, match="other towers.*freeze: towers"):
        interpolate(FROZEN.build(0), FROZEN.build(1), 0.5)
    interpolate(FROZEN.build(1), FROZEN.build(1), 0.3)
