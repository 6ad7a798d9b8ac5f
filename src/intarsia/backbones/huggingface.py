"""CLIP, SigLIP and SigLIP 2 as Hugging Face checkpoints."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from intarsia.backbones.base import Backbone, Tokenizer
from intarsia.backbones.checkpoints import reading
from intarsia.backbones.dense import each_alone, value_attention
from intarsia.backbones.patches import multiply_patches
from intarsia.backbones.processing import (
    context_of,
    image_transform,
    load_image_processor,
    load_tokenizer,
)
from intarsia.backbones.tokens import fast_tokens
from intarsia.backbones.unsaid import tell_hidden_act
from intarsia.errors import BackboneError, unknown
from intarsia.runtime import best_device
from intarsia.types import Dense, Dims, Features, TokenBatch


class HuggingFaceBackbone(Backbone):
    """A transformers dual encoder with a joint space, with its tokeniser and image processor.

    Args:
        context_length: cut texts to this many tokens; None = as the model was trained.
    """

    _pad_to_context = False
    _clean: Callable[[str], str] | None = None

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        processor: Any,
        *,
        name: str,
        context_length: int | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.model: Any = model
        multiply_patches(model)
        for parameter in (model.logit_scale, getattr(model, "logit_bias", None)):
            if parameter is not None:
                parameter.requires_grad_(False)
        self._tokenizer, self._processor = tokenizer, processor
        self.transform = image_transform(processor, name)
        positions = model.config.text_config.max_position_embeddings
        context = context_of(context_length, min(positions, tokenizer.model_max_length), name)
        side = self.transform.size // model.config.vision_config.patch_size
        scale, bias = model.logit_scale.exp().item(), getattr(model, "logit_bias", None)
        bias = None if bias is None else bias.item()
        self.dims = Dims(self._embed_width(), (side, side), context, scale, bias)

    @property
    def tokenizer(self) -> Tokenizer:
        return partial(
            fast_tokens,
            self._tokenizer,
            length=self.dims.context,
            pad_to_length=self._pad_to_context,
            clean=self._clean,
        )

    def take_temperature(self, logit_scale: Tensor, logit_bias: Tensor | None = None) -> None:
        """Make a trained (log) temperature the exported model's own; a bias of its own, unless one
        was trained as well, keeps its threshold."""
        with torch.no_grad():
            bias = getattr(self.model, "logit_bias", None)
            if bias is not None and logit_bias is not None:
                bias.copy_(logit_bias)
            elif bias is not None:
                bias.mul_((logit_scale - self.model.logit_scale).exp())
            self.model.logit_scale.copy_(logit_scale)

    def export(self, folder: Path) -> None:
        """Write an ordinary transformers folder."""
        self.keep(folder)
        self.model.save_pretrained(folder)

    def keep(self, folder: Path) -> None:
        for part in (self.model.config, self._tokenizer, self._processor):
            part.save_pretrained(folder)

    @abstractmethod
    def _embed_width(self) -> int:
        """D."""


class HuggingFaceClip(HuggingFaceBackbone):
    """``CLIPModel``."""

    def image_states(self, pixels: Tensor, *, dense: Dense | None = None) -> Features:
        vision = self.model.vision_model
        x = vision.embeddings(self.normalised(pixels), interpolate_pos_encoding=True)
        x = vision.pre_layrnorm(x)
        *layers, last = vision.encoder.layers
        for layer in layers:
            x = layer(x, None)
        x = _value_layer(last, x) if dense == "value" else last(x, None)
        return Features(
            image_global=vision.post_layernorm(x[:, 0]),
            image_patches=None if dense is None else vision.post_layernorm(x[:, 1:]),
        )

    def text_states(self, tokens: TokenBatch) -> Features:
        """No token sees what follows it, so neither the padding: a mask would only be waited for,
        since transformers asks whether it masks anything."""
        output = self.model.text_model(tokens.ids)
        return Features(
            text_global=output.pooler_output,
            text_tokens=output.last_hidden_state,
            text_mask=tokens.mask,
        )

    def project(self, states: Features) -> Features:
        image, text = self.model.visual_projection, self.model.text_projection
        return Features(
            image_global=apply_to(image, states.image_global),
            image_patches=apply_to(image, states.image_patches),
            text_global=apply_to(text, states.text_global),
            text_tokens=apply_to(text, states.text_tokens),
            text_mask=states.text_mask,
        )

    def towers(self) -> list[nn.Module]:
        return [self.model.vision_model, self.model.text_model]

    def _embed_width(self) -> int:
        return int(self.model.projection_dim)


class HuggingFaceSiglip(HuggingFaceBackbone):
    """``SiglipModel``: SigLIP, and SigLIP 2 of fixed resolution.

    Its pooled image vector already lies in the joint space, so nothing projects pictures. The
    ``value`` patches are the value path of the pooling head, the ``plain`` ones the last block's
    output after the final LayerNorm. Texts are padded to the context and the padding is attended
    to, as in training: the vector of a text is read at the last position. SigLIP 2 was trained on
    lower-cased texts, which its Gemma tokeniser does not see to.
    """

    _pad_to_context = True

    def __init__(self, model: Any, tokenizer: Any, processor: Any, **options: Any) -> None:
        super().__init__(model, tokenizer, processor, **options)
        if type(tokenizer).__name__.startswith("Gemma"):
            self._clean = str.lower

    def image_states(self, pixels: Tensor, *, dense: Dense | None = None) -> Features:
        vision = self.model.vision_model
        output = vision(self.normalised(pixels), interpolate_pos_encoding=True)
        patches = None if dense is None else output.last_hidden_state
        if dense == "value":
            patches = each_alone(vision.head, output.last_hidden_state)
        return Features(image_global=output.pooler_output, image_patches=patches)

    def text_states(self, tokens: TokenBatch) -> Features:
        hidden = self.model.text_model(tokens.ids).last_hidden_state
        return Features(text_global=hidden[:, -1], text_tokens=hidden, text_mask=tokens.mask)

    def project(self, states: Features) -> Features:
        head = self.model.text_model.head
        return Features(
            image_global=states.image_global,
            image_patches=states.image_patches,
            text_global=apply_to(head, states.text_global),
            text_tokens=apply_to(head, states.text_tokens),
            text_mask=states.text_mask,
        )

    def towers(self) -> list[nn.Module]:
        text = self.model.text_model
        return [self.model.vision_model, text.embeddings, text.encoder, text.final_layer_norm]

    def _embed_width(self) -> int:
        return int(self.model.config.vision_config.hidden_size)


_CLASSES: dict[str, type[HuggingFaceBackbone]] = {
    "clip": HuggingFaceClip,
    "siglip": HuggingFaceSiglip,
}


def load_huggingface(
    source: str, *, context_length: int | None = None, weights: bool = True
) -> HuggingFaceBackbone:
    """Load CLIP, SigLIP or SigLIP 2 from a folder or a name on the Hugging Face hub.

    Args:
        source: the folder or the name.
        context_length: cut texts to this many tokens; None = as the model was trained.
        weights: False takes the architecture alone, with random weights.

    Raises:
        BackboneError: another kind of model (NaFlex included), weights that are missing or do not
            fit, a pickle that holds more than tensors.
    """
    with reading(source):
        config = AutoConfig.from_pretrained(source)
    kind = config.model_type
    if kind == "siglip2":
        raise BackboneError(
            f"{source} is a SigLIP 2 NaFlex model, whose patch grid varies: choose a SigLIP 2 of "
            "fixed resolution, such as google/siglip2-base-patch16-224"
        )
    if kind not in _CLASSES:
        raise BackboneError(f"{source}: {unknown('model_type', kind, _CLASSES)}")
    model, _ = load_model(source, weights=weights)
    if kind == "clip" and weights:
        taken = {
            part: getattr(config, part).hidden_act for part in ("text_config", "vision_config")
        }
        tell_hidden_act(source, PreTrainedConfig.get_config_dict(source)[0], taken)
    return _CLASSES[kind](
        model,
        load_tokenizer(source),
        load_image_processor(source),
        name=f"hf:{source}",
        context_length=context_length,
    )


def load_model(
    source: str, optional: str | None = None, *, weights: bool = True
) -> tuple[Any, list[str]]:
    """``AutoModel`` in float32, and the names of its weights that the checkpoint lacks.

    Args:
        source: a folder or a name on the hub.
        optional: first part of the names of weights that may be lacking (they are random then).
        weights: False leaves all of them random; none is called lacking.

    Raises:
        BackboneError: other weights are lacking.
    """
    options = {"attn_implementation": attention_implementation(), "dtype": torch.float32}
    if not weights:
        with reading(source):
            return AutoModel.from_config(AutoConfig.from_pretrained(source), **options).eval(), []
    with reading(source):
        model, report = AutoModel.from_pretrained(source, output_loading_info=True, **options)
    missing = sorted(report["missing_keys"])
    needed = [key for key in missing if optional is None or not key.startswith(optional)]
    if needed:
        raise BackboneError(
            f"{source} lacks {len(needed)} weights of its {type(model).__name__}, "
            f"e.g. {', '.join(needed[:3])}"
        )
    return model.eval(), missing


def attention_implementation() -> str:
    """On CPU the backward pass of torch's fused attention takes twice as long in bfloat16."""
    return "eager" if best_device().type == "cpu" else "sdpa"


def apply_to(layer: nn.Module, x: Tensor | None) -> Tensor | None:
    return None if x is None else layer(x)


def _value_layer(layer: Any, x: Tensor) -> Tensor:
    """The layer with attention for the CLS token only, and the value path for all patches."""
    attention, normed = layer.self_attn, layer.layer_norm1(x)
    mixed = value_attention(
        attention.q_proj(normed[:, :1]),
        attention.k_proj(normed),
        attention.v_proj(normed),
        attention.num_heads,
    )
    x = x + attention.out_proj(mixed)
    out: Tensor = x + layer.mlp(layer.layer_norm2(x))
    return out
