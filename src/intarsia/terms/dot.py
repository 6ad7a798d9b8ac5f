"""One vector against one vector."""

from __future__ import annotations

from torch import Tensor

from intarsia.ops.contrastive import info_nce
from intarsia.ops.products import dots
from intarsia.terms.base import Side, Term, same_picture
from intarsia.types import Embeddings


class Dot(Term):
    """The dot product of (I,D) with (T,D) (CLIP, Radford et al. 2021)."""

    entry = "vector"
    takes_masks = False

    def fits(self, x: Tensor, y: Tensor) -> bool:
        return x.ndim == y.ndim == 2 and x.shape[1] == y.shape[1]

    def scores(self, x: Side, y: Side) -> tuple[Tensor, Tensor]:
        found = dots(x.vectors, y.vectors)
        return found, found

    def paired(self, x: Side, y: Side) -> tuple[Tensor, Tensor]:
        found = (x.vectors.float() * y.vectors.float()).sum(1)
        return found, found

    def contrast(self, image: Embeddings, text: Embeddings, scale: Tensor) -> Tensor:
        x, y = self.sides(image, text)
        return info_nce(x.vectors, y.vectors, scale, same_picture(image, text))

    def index_vectors(self, side: Embeddings) -> Tensor:
        return side[self.group]
