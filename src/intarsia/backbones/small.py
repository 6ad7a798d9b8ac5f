"""`scenes-clip`: a small random CLIP for generated scenes, to be trained from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from intarsia.backbones.huggingface import HuggingFaceClip, attention_implementation

SIZE, CONTEXT = 112, 32
SPECIAL = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>"}


def load_scenes_clip(*, words: Sequence[str] | None = None) -> HuggingFaceClip:
    """A Hugging Face CLIP of 1.5 million weights for pictures of 112 x 112 pixels (7 x 7 patches).

    Its weights come from torch's global generator.

    Args:
        words: what its tokeniser knows; None = the words of the generated scenes.
    """
    if words is None:
        from intarsia.data.scenes import vocabulary

        words = vocabulary()
    tokenizer = word_tokenizer(words)
    config = _config(tokenizer)
    config._attn_implementation = attention_implementation()
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return HuggingFaceClip(CLIPModel(config).eval(), tokenizer, processor, name="scenes-clip")


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Lower-cased words and punctuation marks, one token each."""
    names = [*SPECIAL.values(), *sorted({word.lower() for word in words})]
    ids = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=SPECIAL["unk_token"]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    start, end = SPECIAL["bos_token"], SPECIAL["eos_token"]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, ids[start]), (end, ids[end])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=CONTEXT, padding_side="right", **SPECIAL
    )


def _config(tokenizer: Any) -> CLIPConfig:
    vision = {"image_size": SIZE, "patch_size": 16, **_sizes(width=128, layers=4, heads=2)}
    text = {
        "max_position_embeddings": CONTEXT,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **_sizes(width=128, layers=3, heads=2),
    }
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=128)


def _sizes(*, width: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "projection_dim": 128,
        "hidden_act": "gelu",
    }
