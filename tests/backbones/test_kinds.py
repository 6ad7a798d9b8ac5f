"""What holds over every kind of backbone: precision, copies, runs without their base."""

import pickle
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    ResNetConfig,
    ResNetModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from intarsia.backbones.loading import load_backbone
from intarsia.data.images import picture
from intarsia.errors import BackboneError, ConfigError, CutTextWarning
from intarsia.methods import Clip
from intarsia.model import CONFIG, WEIGHTS, Model, ModelSpec, config_of, load_model
from intarsia.runtime import seed_everything
from intarsia.training.memory import patches_dropped, recomputed
from intarsia.training.run import write_config

KINDS = [
    "scenes-clip",
    "scenes-resnet",
    "hf-clip",
    "hf-siglip",
    "openclip-clip",
    "openclip-coca",
    "openclip-siglip",
    "dual-vit",
    "dual-resnet",
]
HALVES = torch.bfloat16, torch.float16
METHODS = ["Clip", "Filip", "Flair", "Registers", "HarmoClip"]
SIZES = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def dual_folder(folder: Path, words_of: Path, kind: str) -> str:
    """A vision model beside a BERT with the tokeniser of the tiny CLIP; the ViT has no pooler."""
    if kind == "dual-vit":
        config = ViTConfig(hidden_size=24, image_size=64, patch_size=16, **SIZES)
        vision = ViTModel(config, add_pooling_layer=False)
    else:
        sizes = {"embedding_size": 8, "hidden_sizes": [16, 24], "depths": [1, 1]}
        vision = ResNetModel(ResNetConfig(layer_type="basic", **sizes))
    processor = ViTImageProcessorPil(size={"height": 64, "width": 64})
    for part in (vision, processor):
        part.save_pretrained(folder / "seeing")
    tokens = {"vocab_size": 40, "pad_token_id": 0, "max_position_embeddings": 20}
    BertModel(BertConfig(hidden_size=16, **tokens, **SIZES)).save_pretrained(folder / "bert")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(words_of / name, folder / "bert" / name)
    (folder / "bert" / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    return f"dual:{folder / 'seeing'}+{folder / 'bert'}"


@pytest.fixture(scope="module", params=KINDS)
def spec(request, tmp_path_factory) -> str:
    """A base that may be deleted."""
    kind, of = request.param, request.getfixturevalue
    folder = tmp_path_factory.mktemp(kind)
    if kind.startswith("scenes"):
        return kind
    if kind.startswith("dual"):
        return dual_folder(folder, of("clip_folder"), kind)
    if kind == "openclip-siglip":
        return str(shutil.copytree(of("openclip_siglip"), folder / "base"))
    if kind.startswith("openclip"):
        name = f"tiny-{kind.removeprefix('openclip-')}"
        file = of("openclip_checkpoints")[name]
        return f"openclip:{name}:{shutil.copy(file, folder / file.name)}"
    base = of("clip_folder" if kind == "hf-clip" else "siglip_folder")
    return f"hf:{shutil.copytree(base, folder / 'base')}"


def embedded(model: Model, images, texts) -> list[torch.Tensor]:
    found = model.encode_images(images), model.encode_texts(texts)
    return [vectors for side in found for vectors in side.groups.values()]


@pytest.mark.parametrize("method", METHODS)
def test_half_precision(spec, method, images, texts):
    """Embeddings near those of float32, in float32; the model's caller need not know."""
    model = ModelSpec({"spec": spec}, {"class_path": f"intarsia.methods.{method}"}).build(1).eval()
    expected = embedded(model, images, texts)
    maps = model.patch_maps(images[4], texts)
    for dtype in HALVES:
        model.backbone.to(dtype)
        for vectors, whole in zip(embedded(model, images, texts), expected, strict=True):
            assert vectors.dtype == torch.float32
            similar = (vectors * whole).sum(-1)[whole.norm(dim=-1) > 0]
            assert similar.min() > (0.98 if dtype is torch.bfloat16 else 0.999)
        torch.testing.assert_close(model.patch_maps(images[4], texts), maps, atol=0.1, rtol=0.1)
        model.backbone.float()
    model.bfloat16()
    assert all(vectors.isfinite().all() for vectors in embedded(model, images, texts))


def test_load_model_gives_the_base_in_any_precision(spec, images, texts):
    python, numpy, torchs = random.getstate(), np.random.get_state(), torch.get_rng_state()
    model = load_model(spec)
    halves = [load_model(spec, device="cpu", dtype=dtype) for dtype in HALVES]
    assert python == random.getstate() and torch.equal(torchs, torch.get_rng_state())
    assert all(np.array_equal(a, b) for a, b in zip(numpy, np.random.get_state(), strict=True))
    assert not model.training and config_of(spec)["backbone"] == {"spec": spec}
    expected = embedded(ModelSpec({"spec": spec}).build().eval(), images, texts)
    for vectors, whole in zip(embedded(model, images, texts), expected, strict=True):
        assert torch.equal(vectors, whole)
    for half in halves:
        for vectors, whole in zip(embedded(half, images, texts), expected, strict=True):
            assert (vectors * whole).sum(-1).min() > 0.98
            assert vectors.dtype == torch.float32


def test_copies_and_threads(spec, images, texts):
    model = ModelSpec({"spec": spec}, {"class_path": "intarsia.methods.Filip"}).build(1)
    expected = embedded(model, images, texts)
    again = pickle.loads(pickle.dumps(model))
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(embedded, one, images, texts) for one in [model, again] * 4]
    for future in asked:
        for vectors, whole in zip(future.result(), expected, strict=True):
            torch.testing.assert_close(vectors, whole, atol=1e-5, rtol=1e-5)


def test_blocks_run_again_and_patches_left_out(spec, images, texts):
    """As training may have it, for every kind: the same gradients; fewer tokens in a ViT alone."""
    backbone = load_backbone(spec).train()
    pixels = torch.stack([backbone.preprocess(picture(image)) for image in images[:2]])
    tokens = backbone.tokenize(texts[:2])

    def gradients() -> list[torch.Tensor]:
        backbone.zero_grad()
        seed_everything(0)
        image, text = backbone.encode_image(pixels), backbone.encode_text(tokens)
        (image.image_global.square().sum() + text.text_global.square().sum()).backward()
        return [p.grad.clone() for p in backbone.parameters() if p.grad is not None]

    expected = gradients()
    with recomputed(backbone):
        for found, gradient in zip(gradients(), expected, strict=True):
            torch.testing.assert_close(found, gradient)
    model = Model(backbone, Clip(backbone.dims))
    if "resnet" in backbone.name or "resnet" in spec or backbone.dims.grid == (2, 2):
        with pytest.raises(ConfigError, match="no transformer over patches"):
            patches_dropped(model, 0.5).__enter__()
    else:
        with patches_dropped(model, 0.5):
            some = backbone.encode_image(pixels).image_global
        assert some.isfinite().all() and not torch.equal(
            some, backbone.encode_image(pixels).image_global
        )


def test_cut_texts_are_known(spec):
    """The longest that fits is not cut; a token more is."""
    backbone = load_backbone(spec)
    lengths = range(1, backbone.dims.context + 3)
    tokens = backbone.tokenize([" ".join(["red"] * length) for length in lengths])
    whole = tokens.mask.sum(1)
    assert tokens.cut.tolist() == [length > int(whole.max()) for length in lengths]
    with pytest.warns(CutTextWarning, match="1 of 2 texts"):
        Model(backbone, ModelSpec({"spec": spec}).build().method).encode_texts(
            ["red " * 100, "red"]
        )


def delete_base(spec: str) -> None:
    paths = spec.removeprefix("dual:").removeprefix("hf:").split("+")
    if spec.startswith("openclip:"):
        Path(spec.split(":", 2)[2]).unlink()
    elif not spec.startswith("scenes"):
        for path in paths:
            shutil.rmtree(path)


def test_a_run_needs_no_base_where_every_tensor_was_saved(spec, tmp_path, images, texts):
    """The last test of each kind: it deletes the base."""
    run = ModelSpec({"spec": spec}, {"class_path": "intarsia.methods.Filip"})
    model = run.build(3).eval()
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.add_(0.01)
    write_config(tmp_path, run, {"seed": 3}, resume=False)
    model.save(tmp_path / WEIGHTS)
    expected, context = embedded(model, images, texts), model.backbone.dims.context
    others = getattr(model.backbone, "_other_weights", {})
    delete_base(spec)
    if not spec.startswith("scenes"):
        with pytest.raises(BackboneError):
            run.build(3)
    for folder in (tmp_path, shutil.copytree(tmp_path, tmp_path / "moved")):
        loaded = load_model(folder)
        for vectors, whole in zip(embedded(loaded, images, texts), expected, strict=True):
            assert torch.equal(vectors, whole)
        assert loaded.backbone.dims.context == context
        assert loaded.backbone.fingerprint() == model.backbone.fingerprint()
        for name, tensor in others.items():
            assert torch.equal(loaded.backbone._other_weights[name], tensor)
    loaded.save(tmp_path / "again" / WEIGHTS)
    shutil.copy(tmp_path / CONFIG, tmp_path / "again")
    shutil.rmtree(tmp_path / "moved")
    found = embedded(load_model(tmp_path / "again"), images, texts)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_errors(tmp_path):
    with pytest.raises(ConfigError, match="unknown dtype 'torch.float64': choose from torch.bf"):
        load_model("scenes-clip", dtype=torch.float64)
    with pytest.raises(BackboneError, match="unknown backbone 'runs/mine'"):
        load_model("runs/mine")
    with pytest.raises(ConfigError, match="has no config.yaml"):
        load_model(tmp_path)
    with pytest.raises(BackboneError, match="comes from code alone"):
        load_backbone("scenes-resnet").keep(tmp_path)
