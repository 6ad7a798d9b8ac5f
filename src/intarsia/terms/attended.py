"""Many vectors of a picture, pooled by what one vector of a text asks for."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from intarsia.ops.attended import AttentionPool, attended_pairs, attended_scores
from intarsia.terms.base import Side, Term
from intarsia.types import Embeddings


@dataclass(frozen=True)
class Attended(Term):
    """The cosine of (T,D) with what each pools from (I,K,D) (FLAIR, Xiao et al., CVPR 2025).

    Every pair makes a vector of its own, so an index can hold nothing whose distance is the score:
    the term ranks candidates that others have found, or all pairs where all are scored.

    Args:
        pool: the attention, a module of the method, which trains it.
    """

    pool: AttentionPool = field(kw_only=True)

    def fits(self, x: Tensor, y: Tensor) -> bool:
        return x.ndim == 3 and y.ndim == 2 and x.shape[2] == y.shape[1]

    def numbers(self, x: Tensor, y: Tensor) -> int:
        """One: the scores come out of blocks of their own."""
        return 1

    def scores(self, x: Side, y: Side) -> tuple[Tensor, Tensor]:
        found = attended_scores(x.vectors, y.vectors, self.pool, x.mask)
        return found, found

    def paired(self, x: Side, y: Side) -> tuple[Tensor, Tensor]:
        x_all = x.never_empty()
        found = attended_pairs(x_all.vectors, y.vectors, self.pool, x_all.mask)
        if x.real is not None:
            found = found.where(x.real[:, 0], 0.0)
        return found, found

    def alignment(self, image: Embeddings, text: Embeddings) -> Tensor:
        """What each vector of the picture would score if it were all of the picture, (K,1)."""
        x, y = self.sides(image, text)
        return attended_scores(x.vectors.transpose(0, 1), y.vectors, self.pool)
