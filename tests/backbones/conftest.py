"""Tiny random checkpoints, saved in the formats in which real ones come."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

WORDS = "a red small circle dog cat runs over the grass two and isn t it".split()
VISION = {"layers": 3, "width": 48, "head_width": 16, "patch_size": 16, "image_size": 64}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
COCA_TEXT = {**TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True}
ARCHITECTURES = {
    "tiny-clip": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT},
    "tiny-clip-quickgelu": {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": VISION,
        "text_cfg": TEXT,
    },
    "tiny-mean": {
        "embed_dim": 24,
        "vision_cfg": {**VISION, "pool_type": "avg", "final_ln_after_pool": True},
        "text_cfg": TEXT,
    },
    "tiny-coca": {
        "embed_dim": 24,
        "vision_cfg": {
            **VISION,
            "attentional_pool": True,
            "attn_pooler_heads": 2,
            "output_tokens": True,
        },
        "text_cfg": COCA_TEXT,
        "multimodal_cfg": {**TEXT, "context_length": 76, "attn_pooler_heads": 2},
        "custom_text": True,
    },
}
SIGLIP = {
    "embed_dim": 96,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 160,
        "timm_model_name": "test_vit3",
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 100,
        "hf_tokenizer_name": "local",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 32,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    },
}


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def images():
    """Pictures of sizes that no network has; central crops of odd margins among them."""
    rng = np.random.default_rng(0)
    sizes = [(64, 67), (71, 64), (131, 97), (64, 64), (65, 200), (301, 77), (40, 51)]
    pixels = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for w, h in sizes]
    return [Image.fromarray(p) for p in pixels]


@pytest.fixture(scope="session")
def texts():
    return ["A small RED circle, isn't it?", "two  dogs", "a cat runs over the grass and a dog"]


def word_tokenizer(length: int) -> PreTrainedTokenizerFast:
    """CLIP-like: start and end of text around lower-cased words."""
    names = ["<pad>", "<unk>", "<start>", "<end>", *WORDS]
    ids = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 2), ("<end>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<start>",
        eos_token="<end>",
        model_max_length=length,
    )


def sentencepiece_tokenizer(length: int) -> PreTrainedTokenizerFast:
    """SigLIP-like: Unigram pieces that begin with a space, an end token, padded with it."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0)] + [(f"▁{word}", -1.0) for word in WORDS]
    pieces += [(letter, -5.0) for letter in "abcdefghijklmnopqrstuvwxyz▁"]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="</s>",
        unk_token="<unk>",
        eos_token="</s>",
        model_max_length=length,
    )


@pytest.fixture(scope="session")
def openclip_checkpoints(tmp_path_factory) -> dict[str, Path]:
    """A checkpoint of each tiny architecture; ``tiny-clip`` as NegCLIP's training run left it."""
    folder = tmp_path_factory.mktemp("openclip")
    paths = {}
    for name, config in ARCHITECTURES.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(folder / f"{name}.json")
        torch.manual_seed(len(paths))
        state = open_clip.create_model(name).state_dict()
        state = {key: x.nan_to_num() for key, x in state.items()}  # CoCa's are not all set
        if name == "tiny-clip":
            paths[name] = folder / "negclip.pt"
            state = {f"module.{key}": value for key, value in state.items()}
            torch.save({"epoch": 3, "name": "x", "state_dict": state}, paths[name])
        else:
            paths[name] = folder / f"{name}.safetensors"
            save_file(state, paths[name])
    return paths


@pytest.fixture(scope="session")
def openclip_siglip(tmp_path_factory) -> Path:
    """An open_clip folder of a SigLIP: timm's ViT with a pooling head, a tokeniser of its own."""
    folder = tmp_path_factory.mktemp("openclip-siglip")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    config = {"model_cfg": SIGLIP, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    sentencepiece_tokenizer(16).save_pretrained(folder)
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}")
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def _sizes(width: int) -> dict[str, object]:
    return {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
    }


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hf-clip")
    tokenizer = word_tokenizer(20)
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 20, "eos_token_id": 3}
    text |= {"bos_token_id": 2, "pad_token_id": 0, **_sizes(32)}
    vision = {"image_size": 64, "patch_size": 16, **_sizes(48)}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    crop = {"height": 64, "width": 64}
    processor = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size=crop)
    for part in (CLIPModel(config), tokenizer, processor):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def siglip_folder(tmp_path_factory) -> Path:
    """SigLIP, and SigLIP 2 of fixed resolution, which has the same format; as published, with a
    tokeniser class that needs SentencePiece beside a tokenizer.json that does not."""
    folder = tmp_path_factory.mktemp("hf-siglip")
    tokenizer = sentencepiece_tokenizer(16)
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 16, "projection_size": 48}
    text |= {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 1, **_sizes(32)}
    vision = {"image_size": 64, "patch_size": 16, **_sizes(48)}
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    processor = SiglipImageProcessorPil(size={"height": 64, "width": 64})
    for part in (model, tokenizer, processor):
        part.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"tokenizer_class": "SiglipTokenizer"})
    )
    return folder
