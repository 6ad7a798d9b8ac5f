"""The contract of a method: features in, named embeddings out, similarity as data, one loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intarsia.errors import ConfigError
from intarsia.ops.regions import pool_regions
from intarsia.terms import Term
from intarsia.types import Dims, Embeddings, Features, Normalise


class Temperature(nn.Module):
    """A learnable inverse temperature, never above 100 (CLIP) or what it starts at.

    Args:
        start: of vectors in a pretrained model's own space, the scale of that space
            (``dims.scale``); None = 1/0.07, for a fresh space.
    """

    def __init__(self, start: float | None = None) -> None:
        super().__init__()
        start = start or 1 / 0.07
        self.most = math.log(max(start, 100.0))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(start)))

    def forward(self) -> Tensor:
        with torch.no_grad():
            self.logit_scale.clamp_(max=self.most)
        return self.logit_scale.exp()


class TemperatureAndBias(Temperature):
    """Of a sigmoid loss: the inverse temperature and the logit of a score of 0, both learnable.

    Args:
        start: as of :class:`Temperature`, of a space that was trained with a sigmoid loss.
        bias: the bias of that space; None = a fresh start, both at what SigLIP and FLAIR give a
            bias, -10, and a fresh temperature. (A softmax temperature is none for a sigmoid: at
            CLIP's 100 no one bias would do for all of its pairs.)
    """

    def __init__(self, start: float | None = None, bias: float | None = None) -> None:
        super().__init__(None if bias is None else start)
        self.logit_bias = nn.Parameter(torch.tensor(-10.0 if bias is None else bias))


class Method(nn.Module, ABC):
    """One idea of aligning pictures with texts; the keyword-only constructor is its config.

    ``needs`` names the optional features that it reads: ``patches``, ``tokens`` (states), ``ids``
    (the tokens themselves, :attr:`Features.tokens`), ``links``, ``crops`` (of the linked regions),
    ``phrases`` (the linked ones, as texts of their own), ``components``, ``roles`` (of the
    components' relations). ``normalise`` says how the terms are
    scaled where a whole test set is ranked.
    """

    needs: frozenset[str] = frozenset()
    normalise: Normalise = "none"

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.dims = dims

    @abstractmethod
    def encode_image(self, x: Features) -> Embeddings:
        """Features of B pictures -> their groups of vectors."""

    @abstractmethod
    def encode_text(self, x: Features) -> Embeddings:
        """Features of B texts -> their groups of vectors."""

    @property
    @abstractmethod
    def terms(self) -> tuple[Term, ...]:
        """What the similarity of a picture and a text is the sum of."""

    @abstractmethod
    def loss(self, image: Embeddings, text: Embeddings) -> dict[str, Tensor]:
        """Scalars of a batch of pairs: ``loss`` (to minimise) and its parts, for the log.

        There may be more texts than pictures: hard negatives come behind the pairs' own, and their
        ids are no picture's, so that a loss that goes by ids takes them as it is.

        What it reads beside groups of vectors (token ids for a decoder, states before they are
        normalised) the encoders put into ``extra``, while training. Losses are float32, but in
        mixed precision what the towers gave is not.
        """

    def alignment(self, image: Embeddings, text: Embeddings) -> Tensor:
        """Who matches whom inside one pair (B = 1): (vectors of the picture, vectors of the text).

        The default asks the finest of ``terms``: the one that tells most vectors apart.
        """
        return max((term.alignment(image, text) for term in self.terms), key=Tensor.numel)

    def patch_map(self, image: Features, text: Features) -> Tensor:
        """How well text b matches each patch of picture b, (B,M): where a phrase is.

        The default compares the dense patches with the text's global vector.
        """
        patches = normalised(image.require("image_patches"))
        return torch.einsum("bmd,bd->bm", patches, normalised(text.require("text_global")))

    def region_vectors(self, image: Features, boxes: Tensor) -> Tensor:
        """What stands for boxes of pictures, (B,R,D) normalised, to compare with phrases.

        The default is the RoIAlign of the dense patches.

        Args:
            boxes: (B,R,4), the backbone's input being the square from (0, 0) to (1, 1).
        """
        return pool_regions(image.require("image_patches"), self.dims.grid, boxes)

    def phrase_vectors(self, text: Features) -> Tensor:
        """What a region is compared with, (B,D) normalised: phrases, each in a sentence.

        The default is the sentence's global vector; ``text_mask`` is True for the phrase's tokens.
        """
        return normalised(text.require("text_global"))


def check_weights(**weights: float) -> None:
    """
    Raises:
        ConfigError: weights of losses are such that nothing is learnt, or the opposite.
    """
    for name, value in weights.items():
        if not 0 <= value < math.inf:
            raise ConfigError(f"{name} is {value}: give at least 0")
    if not any(weights.values()):
        raise ConfigError(f"{', '.join(weights)} are all 0: nothing would be learnt")


def normalised(x: Tensor) -> Tensor:
    """L2-normalised in float32, whatever the precision of the layers before."""
    return F.normalize(x.float(), dim=-1)


def normalised_for_matching(x: Tensor) -> Tensor:
    """:func:`normalised`, then in autocast's precision where that is on: the products of many
    vectors with many are then several times faster, and their sums stay float32."""
    kind, vectors = x.device.type, normalised(x)
    if not torch.is_autocast_enabled(kind):
        return vectors
    return vectors.to(torch.get_autocast_dtype(kind))
