"""Any vision model beside any text model of transformers, joined by projections of our own."""

from __future__ import annotations

import copy
import inspect
import json
import math
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import MobileNetV2Model

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
        train_blocks: how many of the last blocks of a MobileNetV2, with the convolution behind
            them, train over frozen ones: of the frozen ones a map is cached, what lies above runs
            at every step. Batch normalisation there keeps its statistics, and only its weights
            train. None = the tower is one whole.

    Raises:
        BackboneError: an unknown pooling or projection, or no such blocks.
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
        train_blocks: int | None = None,
    ) -> None:
        super().__init__()
        for kind, value, valid in (
            ("pooling", pooling, ("mean", "cls")),
            ("projection", projection, ("linear", "mlp")),
        ):
            if value not in valid:
                raise BackboneError(unknown(kind, value, valid))
        if train_blocks is not None:
            _check_blocks(vision, train_blocks)
        self.train_blocks, self.ends_train = train_blocks, train_blocks is not None
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
        if self.train_blocks is not None:
            return Features(image_global=self._below(self.normalised(pixels), self.train_blocks))
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
        pooled, patches = states.image_global, states.image_patches
        if self.train_blocks is not None and pooled is not None:
            pooled, patches = self._above(pooled, self.train_blocks)
        return Features(
            image_global=apply_to(self.image_projection, pooled),
            image_patches=apply_to(self.patch_projection or self.image_projection, patches),
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
        ends = "" if self.train_blocks is None else f" without {self.train_blocks} blocks"
        return f"{super().settings()} {self.pooling} {has_pooler}{ends}"

    def towers(self) -> list[nn.Module]:
        if self.train_blocks is None:
            return [self.vision, self.text]
        return [self.vision.conv_stem, *self.vision.layer[: -self.train_blocks], self.text]

    def whole(self) -> DualEncoder:
        if self.train_blocks is None:
            return self
        found = copy.copy(self)
        found.train_blocks, found.ends_train = None, False
        return found

    def train(self, mode: bool = True) -> DualEncoder:
        super().train(mode)
        if self.ends_train:
            self.vision.eval()
        return self

    def _below(self, pixels: Tensor, num_blocks: int) -> Tensor:
        """(B,h*w*C), the map that the last blocks take, its channels innermost."""
        x: Tensor = self.vision.conv_stem(pixels.contiguous(memory_format=torch.channels_last))
        for block in self.vision.layer[:-num_blocks]:
            x = block(x)
        return x.permute(0, 2, 3, 1).flatten(1)

    def _above(self, x: Tensor, num_blocks: int) -> tuple[Tensor, Tensor]:
        """Pooled vector (B,W) and patches (B,M,W) of a map of :meth:`_below`."""
        blocks = self.vision.layer[-num_blocks:]
        channels = blocks[0].expand_1x1.convolution.in_channels
        side = math.isqrt(x.shape[1] // channels)  # the input is square
        x = x.view(-1, side, side, channels).permute(0, 3, 1, 2)
        for block in blocks:
            x = block(x)
        x = self.vision.conv_1x1(x)
        patches = x.flatten(2).mT
        pooler = self.vision.pooler
        return patches.mean(1) if pooler is None else pooler(x).flatten(1), patches

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
    train_blocks: int | None = None,
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
        train_blocks=train_blocks,
    )


def _check_blocks(vision: Any, num_blocks: int) -> None:
    if not isinstance(vision, MobileNetV2Model):
        raise BackboneError(
            f"train_blocks is {num_blocks}, but no block of a {type(vision).__name__} can "
            "be trained alone: leave it out, or choose a MobileNetV2"
        )
    if not 0 < num_blocks <= len(vision.layer):
        raise BackboneError(
            f"train_blocks is {num_blocks}: choose from 1 to the {len(vision.layer)} of the model"
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
