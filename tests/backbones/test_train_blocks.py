"""The last blocks of a MobileNetV2 that train over a cached map: equal to the whole tower, and a
run like any other."""

import copy
import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    MobileNetV2Config,
    MobileNetV2ImageProcessorPil,
    MobileNetV2Model,
    ViTConfig,
    ViTModel,
)

from intarsia.backbones.loading import load_backbone
from intarsia.data.images import load_image
from intarsia.data.problems import Problems
from intarsia.encode.cached import CachedPairs
from intarsia.encode.encoder import Encoder
from intarsia.encode.pairs import LivePairs
from intarsia.errors import BackboneError, ConfigError
from intarsia.evaluation.boxes import roi_vectors, square_input
from intarsia.identity import model_key
from intarsia.model import WEIGHTS, Model, ModelSpec, load_model
from intarsia.training.interpolate import interpolate
from intarsia.training.loop import Trainer
from intarsia.training.run import DataSpec, make_pairs, train, write_config
from intarsia.types import Features

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
OF_HALF = 0.02  # relative, of maps kept in half precision
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
KINDS = {"class_path": "intarsia.methods.HarmoClip"}
DATA = DataSpec("scenes", split="train[:48]")
UPPER = ("vision.layer.13.", "vision.layer.14.", "vision.layer.15.", "vision.conv_1x1.")


@pytest.fixture(scope="module")
def source(tmp_path_factory, clip_folder) -> str:
    """A small MobileNetV2 whose normalisation has seen some noise, beside a small BERT."""
    folder = tmp_path_factory.mktemp("mobile")
    torch.manual_seed(0)
    vision = MobileNetV2Model(MobileNetV2Config(image_size=64, depth_multiplier=0.1, min_depth=8))
    with torch.no_grad():
        vision.train()(torch.randn(64, 3, 64, 64))
    vision.save_pretrained(folder / "vision")
    size = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    MobileNetV2ImageProcessorPil(**size).save_pretrained(folder / "vision")
    tokens = {"vocab_size": 40, "pad_token_id": 0, "max_position_embeddings": 128}
    BertModel(BertConfig(num_hidden_layers=1, **tokens, **SIZES)).save_pretrained(folder / "text")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "text" / name).write_bytes((clip_folder / name).read_bytes())
    told = json.loads((clip_folder / "tokenizer_config.json").read_text())
    told["model_max_length"] = 128
    (folder / "text" / "tokenizer_config.json").write_text(json.dumps(told))
    return f"dual:{folder / 'vision'}+{folder / 'text'}"


def spec(source: str, blocks: int | None = 3, freeze="towers", **options) -> ModelSpec:
    return ModelSpec(
        {"spec": source, "embed_dim": 12, "train_blocks": blocks} | options, KINDS, freeze
    )


def shaken(model: Model) -> Model:
    """All that trains somewhere else than a fresh build has it."""
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=g))
    return model


@torch.inference_mode()
@pytest.mark.parametrize("blocks", [1, 3, 5, 16])
@pytest.mark.parametrize("size", [64, 96])
def test_below_and_above_are_the_whole_tower(source, blocks, size):
    torch.manual_seed(3)
    ours = load_backbone(source, embed_dim=12, train_blocks=blocks)
    whole = load_backbone(source, embed_dim=12)
    whole.load_state_dict(ours.state_dict())
    pixels = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8)
    states = ours.image_states(pixels)
    assert states.image_global.ndim == 2 and states.image_patches is None
    found, expected = ours.project(states), whole.encode_image(pixels, dense="value")
    torch.testing.assert_close(found.image_global, expected.image_global, **CLOSE)
    torch.testing.assert_close(found.image_patches, expected.image_patches, **CLOSE)
    assert expected.image_patches.std(1).min() > 1e-3
    text = ours.project(ours.text_states(ours.tokenize(["a dog"])))
    assert text.image_global is None and text.text_global.shape == (1, 12)


def test_the_ends_train_and_their_statistics_stay(source):
    model = spec(source).build().train()
    backbone = model.backbone
    trained = {n for n, p in backbone.named_parameters() if p.requires_grad and "vision" in n}
    upper = {n for n, _ in backbone.named_parameters() if n.startswith(UPPER)}
    assert trained == upper and len(upper) > 20
    assert not any(m.training for m in backbone.vision.modules()) and model.method.training
    projections = [m for n, m in backbone.named_children() if n.endswith("_projection")]
    assert len(projections) == 4 and all(m.training for m in projections)


def test_a_cache_is_of_what_lies_below(source):
    """To train the ends keeps it; another number of blocks, or other weights below, do not."""
    ours, whole = spec(source).build().backbone, spec(source, None).build().backbone
    key = ours.fingerprint()
    keys = {key, whole.fingerprint(), spec(source, 4).build().backbone.fingerprint()}
    assert len(keys) == 3 and ours.whole().fingerprint() == whole.fingerprint()
    ours.vision.layer[13].reduce_1x1.convolution.weight.data.add_(1)
    assert ours.fingerprint() == key and ours.whole().fingerprint() != whole.fingerprint()
    ours.vision.layer[12].reduce_1x1.convolution.weight.data.add_(1)
    assert ours.fingerprint() != key


def test_two_models_with_other_ends_have_other_keys(source):
    model = spec(source).build()
    key = model_key(model)
    model.backbone.vision.conv_1x1.convolution.weight.data.add_(1)
    assert model_key(model) != key


def test_depths_count_the_blocks_that_train(source):
    ours, whole = spec(source).build().backbone, spec(source, None).build().backbone
    assert ours.depths() == whole.depths()
    assert ours.depths()["vision.layer.15.expand_1x1.convolution.weight"] == 1
    assert ours.depths()["image_projection.0.weight"] == 0


def test_what_cannot_train_alone_is_refused(source, tmp_path):
    for blocks in (0, 17):
        with pytest.raises(
            BackboneError, match=f"train_blocks is {blocks}: choose from 1 to the 16"
        ):
            load_backbone(source, train_blocks=blocks)
    for freeze in ("none", "text"):
        with pytest.raises(
            ConfigError, match=f"train_blocks .* freeze is {freeze}: set it to towe"
        ):
            spec(source, freeze=freeze).build()
    assert spec(source, freeze="image").build().freeze == "image"
    ViTModel(ViTConfig(image_size=64, num_hidden_layers=1, **SIZES)).save_pretrained(tmp_path)
    vision, text = source.removeprefix("dual:").split("+")
    processor = "preprocessor_config.json"
    (tmp_path / processor).write_bytes((type(tmp_path)(vision) / processor).read_bytes())
    with pytest.raises(BackboneError, match="train_blocks is 2, but no block of a ViTModel can"):
        load_backbone(f"dual:{tmp_path}+{text}", train_blocks=2)


def assert_near(found: Tensor, expected: Tensor) -> None:
    assert 0 < (found - expected).norm() < OF_HALF * expected.norm()


def test_cached_maps_give_what_pictures_give(source, records, tmp_path):
    """Losses, embeddings and the gradients of the last blocks."""
    model = shaken(spec(source).build()).train()
    pairs = make_pairs(model, records[:8], tmp_path, Problems())
    assert isinstance(pairs, CachedPairs) and pairs.image_patches is None
    cached = pairs[[0, 5, 9, 14]]
    assert cached.states.image_global.shape == (4, 2 * 2 * 16)
    live = LivePairs(records[:8], model.backbone, links=True, phrases=True)[[0, 5, 9, 14]]
    found = []
    for batch in (cached, live):
        model.zero_grad()
        losses = model(batch)
        losses["loss"].backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append((model.features(batch), losses, grads))
    (ours, our_losses, our_grads), (theirs, losses, grads) = found
    assert_near(ours.image_global, theirs.image_global)
    assert_near(ours.image_patches, theirs.image_patches)
    assert our_losses.keys() == losses.keys() == {"loss", "gc", "lrc", "gr"}
    for name in losses:
        assert_near(our_losses[name], losses[name])
    rounded = model.backbone.image_states(live.pixels).image_global.half().float()
    expected = model.backbone.project(Features(image_global=rounded))
    torch.testing.assert_close(ours.image_global, expected.image_global, **CLOSE)
    torch.testing.assert_close(ours.image_patches, expected.image_patches, **CLOSE)
    assert our_grads.keys() == grads.keys()
    upper = [n for n in grads if n.removeprefix("backbone.").startswith(UPPER)]
    assert len(upper) == len(
        [n for n, _ in model.backbone.named_parameters() if n.startswith(UPPER)]
    )
    whole = [torch.cat([side[n].flatten() for n in upper]) for side in (our_grads, grads)]
    assert F.cosine_similarity(*whole, dim=0) > 0.99


def trainer(**settings) -> Trainer:
    return Trainer(
        **{"steps": 4, "batch_size": 16, "precision": "32-true", "log_every": 1, "layer_decay": 0.5}
        | settings
    )


@pytest.mark.parametrize("chunk", [None, 6])
def test_a_run_trains_saves_loads_and_resumes(source, records, tmp_path, chunk):
    def interrupted(_):
        raise KeyboardInterrupt

    def run(name: str, **options) -> Model:
        resume = options.pop("resume", False)
        validate = options.pop("validate", None)
        settings = trainer(grad_cache_chunk=chunk, **options)
        given = {"records": records, "cache": tmp_path / "cache", "resume": resume}
        return train(spec(source), DATA, settings, tmp_path / name, validate=validate, **given)

    start = spec(source).build().state_dict()
    model = run("whole")
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, start[k])}
    vision = {k.removeprefix("backbone.") for k in changed if k.startswith("backbone.vision")}
    assert vision and all(k.startswith(UPPER) for k in vision)
    assert not any("running" in k or "num_batches" in k for k in vision)
    saved = model.trained_state()
    assert not any("layer.12." in k or "text.encoder" in k for k in saved)
    assert {k for k in start if k.removeprefix("backbone.").startswith(UPPER)} <= saved.keys()
    loaded = load_model(tmp_path / "whole")
    image = records[0].image
    torch.testing.assert_close(
        loaded.encode_images(image)["global"], model.encode_images(image)["global"]
    )
    with pytest.raises(KeyboardInterrupt):
        run("stopped", validate_every=3, validate=interrupted)
    resumed = run("stopped", resume=True)
    for name, tensor in model.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    stores = list((tmp_path / "cache" / "vectors").iterdir())
    assert [store.name for store in stores] == [model.backbone.fingerprint()]


@pytest.mark.parametrize("before", ["towers", "none"])
def test_a_run_may_start_from_a_base_of_whole_towers(source, before, tmp_path):
    base = shaken(spec(source, None, freeze=before).build(1))
    write_config(tmp_path, spec(source, None, freeze=before), {"seed": 1}, resume=False)
    base.save(tmp_path / WEIGHTS)
    model = spec(source).build(1)
    assert model.start_from(tmp_path) == []
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in base.state_dict().items())
    over = tmp_path / "over"
    write_config(over, spec(source), {"seed": 1}, resume=False)
    shaken(model).save(over / WEIGHTS)
    again = spec(source).build(2)
    again.start_from(over)
    for other in (load_model(over), again):
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())
    end = copy.deepcopy(model.backbone.vision.conv_1x1.convolution.weight)
    interpolate(base, model, 0.5)
    begun = base.backbone.vision.conv_1x1.convolution.weight
    torch.testing.assert_close(model.backbone.vision.conv_1x1.convolution.weight, (begun + end) / 2)


@torch.inference_mode()
def test_evaluation_goes_the_whole_way(source, records):
    """Regions of a finer map, too, equal those of the whole tower with the same weights."""
    ours = shaken(spec(source).build()).eval()
    whole = spec(source, None).build().eval()
    whole.load_state_dict(ours.state_dict())
    images = [load_image(record.image) for record in records[:2]]
    boxes = [[region.box for region in record.regions] for record in records[:2]]

    def regions(model: Encoder):
        with square_input(model, 128):
            return roi_vectors(model, images, boxes)

    torch.testing.assert_close(regions(ours), regions(whole), **CLOSE)
    maps = [model.patch_maps(records[0].image, ["a circle"]) for model in (ours, whole)]
    torch.testing.assert_close(*maps, **CLOSE)


def test_a_method_of_global_vectors_needs_no_patches(source, records, tmp_path):
    clip = {"class_path": "intarsia.methods.Clip"}
    model = replace(spec(source), method=clip).build().train()
    pairs = make_pairs(model, records[:8], tmp_path, Problems())
    model(pairs[[0, 5, 9, 14]])["loss"].backward()
    assert model.backbone.vision.conv_1x1.convolution.weight.grad.abs().sum() > 0
    features = model.backbone.project(Features(image_global=pairs[[0]].states.image_global))
    assert features.image_global.shape == (1, 12)
