"""Slot k against patch k."""

from __future__ import annotations

import math

from torch import Tensor

from intarsia.ops.contrastive import info_nce
from intarsia.ops.products import dots
from intarsia.terms.base import Side, Term, same_picture
from intarsia.types import Embeddings


class Aligned(Term):
    """The mean over k of the dot products of the k-th vectors of (I,K,D) and (T,K,D)."""

    entry = "vector"
    takes_masks = False

    def fits(self, x: Tensor, y: Tensor) -> bool:
        return x.ndim == y.ndim == 3 and x.shape[1:] == y.shape[1:]

    def scores(self, x: Side, y: Side) -> tuple[Tensor, Tensor]:
        found = dots(x.vectors.flatten(1), y.vectors.flatten(1)) / x.vectors.shape[1]
        return found, found

    def paired(self, x: Side, y: Side) -> tuple[Tensor, Tensor]:
        found = (x.vectors.float() * y.vectors.float()).sum(2).mean(1)
        return found, found

    def contrast(self, image: Embeddings, text: Embeddings, scale: Tensor) -> Tensor:
        x, y = (side.vectors for side in self.sides(image, text))
        positives = same_picture(image, text)
        return info_nce(x.flatten(1), y.flatten(1), scale / x.shape[1], positives)

    def index_vectors(self, side: Embeddings) -> Tensor:
        """The K vectors one behind the other, (B, K * D), scaled by sqrt(1 / K)."""
        vectors = side[self.group]
        return vectors.flatten(1) / math.sqrt(vectors.shape[1])
