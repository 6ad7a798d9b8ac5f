"""Any vision model beside any text model of transformers, joined by projections of our own."""

from __future__ import annotations

import copy
import inspect
import json
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intarsia.backbones.base import Backbone, ImageTransform, Tokenizer
from intarsia.backbones.checkpoints import reading
from intarsia.backbones.huggingface import apply_to, load_model
from intarsia.backbones.positions import num_positions
from intarsia.backbones.processing import (
    context_of,
    image_transform,
    load_image_processor,
    load_tokenizer,
)
from intarsia.backbones.tokens import fast_tokens
from intarsia.errors import BackboneError, unknown
from intarsia.types import Dense, Dims, Features, TokenBatch

Pooling = Literal["mean", "cls"]
Projection = Literal["linear", "mlp"]
SENTENCE = "sentence_bert_config.json"
NO_LIMIT = 10**9  # tokens; a tokeniser that knows none says far more


class DualEncoder(Backbone):
    """Two towers trained apart, and four fresh projections into one space.

    ``image_global`` is the vision model's pooled output (its CLS token or mean where it has
    none), ``image_patches`` its last map or its last hidden states without prefix tokens; ``value``
    and ``plain`` are the same, since no joint projection was trained with it. ``text_global`` is
    the mean of all hidden states that are not padding, as in sentence-transformers, or the
    first. Pooled and local vectors have a projection each, unless ``shared``.

    Args:
        vision: a transformers vision model (map or sequence of hidden states).
        text: a transformers text encoder.
        tokenizer: of the text encoder.
        transform: what the vision model sees of a picture.
        context: texts beyond this many tokens are cut.
        embed_dim: D.
        pooling: how ``text_global`` comes from the hidden states.
        projection: ``linear``, or ``mlp`` with one hidden layer of width 2 D.
        dropout: on the inputs of the projections, by feature.
        shared: one projection for pooled and local vectors of a side, as CLIP has it; then a
            patch of a mean-pooled tower is a summand of the picture's vector.
        processor: the vision model's, where ``transform`` comes from one that is to be kept.
    """

    def __init__(
        self,
        vision: Any,
        text: Any,
        tokenizer: Any,
        transform: ImageTransform,
        *,
        name: str,
        context: int,
        embed_dim: int = 256,
        pooling: Pooling = "mean",
        projection: Projection = "linear",
        dropout: float = 0.0,
        shared: bool = False,
        processor: Any = None,
    ) -> None:
        super().__init__()
        for kind, value, valid in (
            ("pooling", pooling, ("mean", "cls")),
            ("projection", projection, ("linear", "mlp")),
        ):
            if value not in valid:
                raise BackboneError(unknown(kind, value, valid))
        self.name, self.transform, self.pooling = name, transform, pooling
        self.vision, self.text = vision, text
        self._tokenizer, self._processor = tokenizer, processor
        arguments = inspect.signature(vision.forward).parameters
        self._interpolates = "interpolate_pos_encoding" in arguments
        self._convolves = sum(isinstance(m, nn.Conv2d) for m in vision.modules()) > 1
        if self._convolves:
            vision.to(memory_format=torch.channels_last)
        self._num_prefix: int | None = None
        with torch.no_grad():
            blank = torch.zeros(1, 3, transform.size, transform.size)
            pooled, patches, grid = self._see(blank)
        self.dims = Dims(embed_dim, grid, context)

        def joint(width: int) -> nn.Module:
            return _projection(width, embed_dim, projection, dropout)

        self.image_projection = joint(pooled.shape[-1])
        self.text_projection = joint(text.config.hidden_size)
        self.patch_projection = None if shared else joint(patches.shape[-1])
        self.token_projection = None if shared else joint(text.config.hidden_size)

    @property
    def tokenizer(self) -> Tokenizer:
        return partial(fast_tokens, self._tokenizer, length=self.dims.context, pad_to_length=False)

    def image_states(self, pixels: Tensor, *, dense: Dense | None = None) -> Features:
        pooled, patches, _ = self._see(self.normalised(pixels))
        return Features(image_global=pooled, image_patches=None if dense is None else patches)

    def text_states(self, tokens: TokenBatch) -> Features:
        hidden = self.text(input_ids=tokens.ids, attention_mask=tokens.attention).last_hidden_state
        if self.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            weight = tokens.attention.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * weight).sum(1) / weight.sum(1)
        return Features(text_global=pooled, text_tokens=hidden, text_mask=tokens.mask)

    def project(self, states: Features) -> Features:
        return Features(
            image_global=apply_to(self.image_projection, states.image_global),
            image_patches=apply_to(
                self.patch_projection or self.image_projection, states.image_patches
            ),
            text_global=apply_to(self.text_projection, states.text_global),
            text_tokens=apply_to(self.token_projection or self.text_projection, states.text_tokens),
            text_mask=states.text_mask,
        )

    def inherited(self) -> dict[str, str]:
        """Local projections go on from those that a base had for pooled and local vectors alike."""
        return {
            f"{local}_projection.{key}": f"{whole}_projection.{key}"
            for local, whole in (("patch", "image"), ("token", "text"))
            for key in (getattr(self, f"{local}_projection") or nn.Module()).state_dict()
        }

    def keep(self, folder: Path) -> None:
        if self._processor is None:
            return super().keep(folder)
        vision, text = copy.copy(self.vision.config), folder / "text"
        vision.has_pooler = getattr(self.vision, "pooler", None) is not None
        for part in (vision, self._processor):
            part.save_pretrained(folder / "vision")
        for part in (self.text.config, self._tokenizer):
            part.save_pretrained(text)
        (text / SENTENCE).write_text(json.dumps({"max_seq_length": self.dims.context}))

    def settings(self) -> str:
        has_pooler = getattr(self.vision, "pooler", None) is not None
        return f"{super().settings()} {self.pooling} {has_pooler}"

    def towers(self) -> list[nn.Module]:
        return [self.vision, self.text]

    def _see(self, pixels: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Pooled vector (B,W), patches (B,M,W) and their grid."""
        extra = {"interpolate_pos_encoding": True} if self._interpolates else {}
        if self._convolves:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        output = self.vision(pixel_values=pixels, **extra)
        hidden: Tensor = output.last_hidden_state
        pooled = output.get("pooler_output")
        if hidden.ndim == 4:
            patches = hidden.flatten(2).mT
            own = patches.mean(1)
            grid = (hidden.shape[2], hidden.shape[3])
        else:
            side = self.vision.config.patch_size
            grid = (pixels.shape[2] // side, pixels.shape[3] // side)
            if self._num_prefix is None:  # later, a training tower may be given fewer patches
                self._num_prefix = hidden.shape[1] - grid[0] * grid[1]
            patches = hidden[:, self._num_prefix :]
            own = hidden[:, 0] if self._num_prefix else patches.mean(1)
        return own if pooled is None else pooled.flatten(1), patches, grid


def load_dual(
    vision: str,
    text: str,
    *,
    name: str,
    embed_dim: int = 256,
    pooling: Pooling = "mean",
    projection: Projection = "linear",
    dropout: float = 0.0,
    shared: bool = False,
    context_length: int | None = None,
    weights: bool = True,
) -> DualEncoder:
    """A :class:`DualEncoder` of two folders or hub names; the projections are random, without
    ``weights`` the towers as well.

    Raises:
        BackboneError: a model cannot be read, or its weights are missing.
    """
    vision_model = _tower(vision, "pixel_values", weights)
    text_model = _tower(text, "input_ids", weights)
    text_model.pooler = None
    tokenizer, processor = load_tokenizer(text), load_image_processor(vision)
    return DualEncoder(
        vision_model,
        text_model,
        tokenizer,
        image_transform(processor, vision),
        name=name,
        context=context_of(context_length, _most_tokens(text, text_model, tokenizer), text),
        embed_dim=embed_dim,
        pooling=pooling,
        projection=projection,
        dropout=dropout,
        shared=shared,
        processor=processor,
    )


def _tower(source: str, input_name: str, weights: bool) -> Any:
    """A model that takes ``input_name``; a pooler that its checkpoint lacks is dropped."""
    model, missing = load_model(source, optional="pooler.", weights=weights)
    if model.main_input_name != input_name:
        kind = "vision" if input_name == "pixel_values" else "text"
        raise BackboneError(f"{source} ({type(model).__name__}) is not a {kind} model")
    if missing or not getattr(model.config, "has_pooler", True):
        model.pooler = None
    return model


def _most_tokens(source: str, text: Any, tokenizer: Any) -> int | None:
    """The least of all limits that there are: of the model's positions, its config, its tokeniser,
    and that which a sentence-transformers folder sets itself."""
    file = Path(source) / SENTENCE
    with reading(source):
        own = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        limits = (
            num_positions(text),
            getattr(text.config, "max_position_embeddings", None),
            tokenizer.model_max_length if tokenizer.model_max_length < NO_LIMIT else None,
            own.get("max_seq_length"),
        )
    return min((limit for limit in limits if limit and limit > 0), default=None)


def _projection(width: int, embed_dim: int, kind: Projection, dropout: float) -> nn.Module:
    if kind == "linear":
        layers: list[nn.Module] = [nn.Linear(width, embed_dim, bias=False)]
    else:
        hidden = 2 * embed_dim
        layers = [nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, embed_dim, bias=False)]
    return nn.Sequential(_FeatureDropout(dropout), *layers) if dropout else nn.Sequential(*layers)


class _FeatureDropout(nn.Dropout):
    """Dropout of features: in (B,M,W) the same ones at all positions, which is M times cheaper."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 2:
            return super().forward(x)
        return F.dropout1d(x.mT, self.p, self.training).mT
