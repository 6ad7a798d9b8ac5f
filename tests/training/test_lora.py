"""Adapters while a model trains; an ordinary model afterwards."""

import json

import open_clip
import pytest
import torch

from intarsia.backbones.loading import load_backbone
from intarsia.errors import ConfigError
from intarsia.export import export
from intarsia.methods import Clip
from intarsia.model import Model, ModelSpec, load_model
from intarsia.training.loop import Trainer
from intarsia.training.lora import LoraSpec, add_lora, merge_lora, save_merged
from intarsia.training.run import DataSpec, train

CLIP = ModelSpec({"spec": "scenes-clip"})
DATA = DataSpec("scenes", split="train[:48]")
TEXTS = ["a red circle above a blue square", "a star"]
LORA = LoraSpec(rank=2, alpha=4)
ARCHITECTURE = {
    "embed_dim": 24,
    "vision_cfg": {"layers": 2, "width": 48, "head_width": 16, "patch_size": 16, "image_size": 64},
    "text_cfg": {
        **{"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    },
}


def small(**settings) -> Trainer:
    return Trainer(**{"steps": 4, "batch_size": 16, "precision": "32-true", "lr": 0.01, **settings})


def embeddings(model, records):
    pictures = [record.image for record in records[:2]]
    return model.encode_images(pictures)["global"], model.encode_texts(TEXTS)["global"]


def shaken(model):
    """Adapters that do something: fresh ones are zero."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model


def test_fresh_adapters_change_nothing_and_merged_ones_change_no_embedding(tmp_path, records):
    model = CLIP.build()
    before = embeddings(model, records)
    add_lora(model, LORA)
    assert all(torch.equal(a, b) for a, b in zip(embeddings(model, records), before, strict=True))
    adapted = embeddings(shaken(model), records)
    assert not torch.allclose(adapted[0], before[0], atol=1e-3)
    save_merged(model, tmp_path / "model.safetensors")
    plain = CLIP.build(1)
    plain.load(tmp_path / "model.safetensors")
    merge_lora(model)
    assert model.state_dict().keys() == plain.state_dict().keys()
    for found in (embeddings(plain, records), embeddings(model, records)):
        torch.testing.assert_close(found, adapted, atol=1e-5, rtol=0)


def test_only_adapters_projections_and_the_method_train(tmp_path, records):
    model = train(CLIP, DATA, small(), tmp_path, records=records, lora=LORA)
    start = CLIP.build().state_dict()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, start[k])}
    towers = {k for k in changed if "encoder" in k}
    assert {k.rpartition(".")[0].rpartition(".")[2] for k in towers} == {
        *("q_proj", "k_proj", "v_proj", "out_proj")
    }
    assert len(towers) == 4 * (4 + 3) and all(k.endswith("weight") for k in towers)
    assert changed - towers == {
        "backbone.model.visual_projection.weight",
        "backbone.model.text_projection.weight",
        "method.temperature.logit_scale",
    }


def test_a_run_with_lora_resumes_exactly_and_exports(tmp_path, records):
    def interrupted(_):
        raise KeyboardInterrupt

    settings = {"ema": 0.5, "layer_decay": 0.5, "save_every": 2}
    common = {"records": records, "lora": LORA}
    train(CLIP, DATA, small(**settings), tmp_path / "whole", **common)
    stopped = small(**settings, validate_every=3)
    with pytest.raises(KeyboardInterrupt):
        train(CLIP, DATA, stopped, tmp_path / "b", **common, validate=interrupted)
    model = train(CLIP, DATA, small(**settings), tmp_path / "b", **common, resume=True)
    whole, resumed = load_model(tmp_path / "whole"), load_model(tmp_path / "b")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
        assert torch.equal(model.state_dict()[name], tensor), name
    export(tmp_path / "b", "transformers", tmp_path / "out")
    exported = ModelSpec({"spec": str(tmp_path / "out")}).build().eval()
    found = embeddings(exported, records)
    torch.testing.assert_close(found, embeddings(whole, records), atol=1e-6, rtol=0)


def test_the_best_is_saved_merged_while_training_goes_on(tmp_path, records):
    scores = iter([2.0, 1.0])
    trainer = small(validate_every=2)
    validate = lambda _: {"r1": next(scores)}  # noqa: E731
    train(CLIP, DATA, trainer, tmp_path, records=records, lora=LORA, validate=validate)
    best = CLIP.build(1)
    best.load(tmp_path / "checkpoints" / "best.safetensors")
    last = load_model(tmp_path).state_dict()
    key = "backbone.model.vision_model.encoder.layers.0.self_attn.q_proj.weight"
    start = CLIP.build().state_dict()[key]
    assert not torch.equal(best.state_dict()[key], start)
    assert not torch.equal(best.state_dict()[key], last[key])


def test_a_frozen_tower_has_no_adapters(backbone):
    model = Model(backbone, Clip(backbone.dims), freeze="image")
    add_lora(model, LORA)
    adapted = [name for name, _ in model.named_parameters() if "lora_A" in name]
    assert len(adapted) == 3 * 4 and all("text_model" in name for name in adapted)


def test_open_clip_adapts_the_mlp_and_never_the_inside_of_torchs_attention(tmp_path):
    (tmp_path / "tiny-lora.json").write_text(json.dumps(ARCHITECTURE))
    open_clip.add_model_config(tmp_path / "tiny-lora.json")
    backbone = load_backbone("openclip:tiny-lora")
    model = Model(backbone, Clip(backbone.dims))
    pixels = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    before = backbone.encode_image(pixels, dense="value")
    with pytest.raises(ConfigError, match=r"\['out_proj'\].*choose from c_fc, c_proj"):
        add_lora(model, LoraSpec(targets=("out_proj",)))
    add_lora(model, LORA)
    names = [name for name, _ in model.named_parameters() if "lora_A" in name]
    assert len(names) == 2 * (2 + 2) and all("mlp.c_" in name for name in names)
    after = shaken(model).backbone.encode_image(pixels, dense="value")
    assert not torch.allclose(after.image_patches, before.image_patches)
    merge_lora(model)
    backbone.export(tmp_path / "out")
    again = load_backbone(str(tmp_path / "out")).encode_image(pixels, dense="value")
    torch.testing.assert_close(again.image_patches, after.image_patches, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("freeze", "spec", "message"),
    [
        ("towers", LORA, "freeze: towers leaves none of scenes-clip"),
        ("none", LoraSpec(targets=("q_proj", "qkv")), r"\['qkv'\].*choose from fc1, fc2, k_proj"),
        ("none", LoraSpec(rank=0), "lora.rank is 0"),
    ],
)
def test_what_makes_no_sense_is_refused(backbone, freeze, spec, message):
    with pytest.raises(ConfigError, match=message):
        add_lora(Model(backbone, Clip(backbone.dims), freeze=freeze), spec)
