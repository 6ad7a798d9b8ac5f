"""The contract of a method: features in, named embeddings out, similarity as data, one loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from intarsia.types import Dims, Embeddings, Features, Term


class Method(nn.Module, ABC):
    """One idea of aligning pictures with texts; the keyword-only constructor is its config.

    ``needs`` names the optional features it reads: ``patches``, ``tokens``.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

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
        """Scalars of a batch of pairs: ``loss`` (to minimise) and its parts, for the log."""

    def alignment(self, image: Embeddings, text: Embeddings) -> Tensor:
        """Who matches whom inside one pair (B = 1): (vectors of the picture, vectors of the text).

        The default looks at the finest group of ``terms``.
        """
        finest = max(self.terms, key=lambda term: image[term.group].ndim)
        left, right = image[finest.group][0], text[finest.group][0]
        return left.view(-1, left.shape[-1]) @ right.view(-1, right.shape[-1]).mT
