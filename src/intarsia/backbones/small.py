"""Small random CLIPs for generated scenes, to be trained from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetModel,
    SiglipTextConfig,
    SiglipTextModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.resnet.modeling_resnet import ResNetConvLayer

from intarsia.backbones.dual import DualEncoder
from intarsia.backbones.huggingface import HuggingFaceClip, attention_implementation
from intarsia.backbones.processing import image_transform
from intarsia.errors import BackboneError, unknown

View = Literal["picture", "surroundings"]
POINTWISE: dict[View, int] = {"picture": 0, "surroundings": 2}
"""In how many of the last stages the second convolution looks at its own place alone."""
WIDTHS = [32, 64, 128]
SIZE, CONTEXT = 112, 32
SPECIAL = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>"}


def load_scenes_clip(*, words: Sequence[str] | None = None) -> HuggingFaceClip:
    """A Hugging Face CLIP of 1.5 million weights for pictures of 112 x 112 pixels (7 x 7 patches).

    Its weights come from torch's global generator.

    Args:
        words: what its tokeniser knows; None = the words of the generated scenes.
    """
    tokenizer = word_tokenizer(_words(words))
    config = _config(tokenizer)
    config._attn_implementation = attention_implementation()
    model = CLIPModel(config).eval()
    return HuggingFaceClip(model, tokenizer, _processor(), name="scenes-clip")


def load_scenes_resnet(
    *, words: Sequence[str] | None = None, view: View = "picture"
) -> DualEncoder:
    """A ResNet (mean-pooled, 7 x 7 patches) beside a text transformer: 0.8 million weights.

    Convolutions learn shapes from far fewer scenes than the transformer of ``scenes-clip``, at
    more pictures a second. The picture's vector is the mean of its patches.

    Args:
        words: as of :func:`load_scenes_clip`.
        view: what a patch of 16 x 16 pixels sees: 93 x 93 of the 112 x 112, nearly the whole
            ``picture``, or its ``surroundings``, 47 x 47.
    """
    if view not in POINTWISE:
        raise BackboneError(unknown("view", view, POINTWISE))
    name = "scenes-resnet"
    tokenizer = word_tokenizer(_words(words))
    vision = ResNetModel(
        ResNetConfig(embedding_size=32, hidden_sizes=WIDTHS, depths=[1, 1, 1], layer_type="basic")
    )
    for stage, width in list(zip(vision.encoder.stages, WIDTHS, strict=True))[
        3 - POINTWISE[view] :
    ]:
        stage.layers[0].layer[1] = ResNetConvLayer(width, width, kernel_size=1, activation=None)
    text_config = SiglipTextConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=CONTEXT,
        **_sizes(width=128, layers=2, heads=2),
    )
    text_config._attn_implementation = attention_implementation()
    return DualEncoder(
        vision.eval(),
        SiglipTextModel(text_config).eval(),
        tokenizer,
        image_transform(_processor(), name),
        name=name,
        context=CONTEXT,
        embed_dim=128,
        shared=True,
    )


def _words(words: Sequence[str] | None) -> Sequence[str]:
    if words is not None:
        return words
    from intarsia.data.scenes import vocabulary

    return vocabulary()


def _processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


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
