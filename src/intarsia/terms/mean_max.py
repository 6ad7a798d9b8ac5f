"""Many vectors against many: each looks for its best match."""

from __future__ import annotations

import torch
from torch import Tensor

from intarsia.ops.contrastive import matched_info_nce
from intarsia.ops.matching import fine_grained_scores
from intarsia.terms.base import Side, Term, same_picture
from intarsia.types import Embeddings


class MeanMax(Term):
    """Fine-grained matching (ComAlign eq. 2; FILIP): the mean over a side's vectors of their best
    match among the other's, padding excluded from both."""

    entry = "vectors"
    directed = True

    def fits(self, x: Tensor, y: Tensor) -> bool:
        return x.ndim == y.ndim == 3 and x.shape[2] == y.shape[2]

    def scores(self, x: Side, y: Side) -> tuple[Tensor, Tensor]:
        return fine_grained_scores(x.vectors, y.vectors, x.mask, y.mask)

    def pairwise(self, x: Side, y: Side) -> tuple[Tensor, Tensor]:
        return self.scores(x, y)

    def paired(self, x: Side, y: Side) -> tuple[Tensor, Tensor]:
        x_real, y_real = _real(x), _real(y)
        if not x_real.shape[1] or not y_real.shape[1]:
            nothing = x.vectors.new_zeros(len(x.vectors), dtype=torch.float32)
            return nothing, nothing
        both = x_real.any(1) & y_real.any(1)
        similarity = (x.vectors @ y.vectors.mT).float()  # (B,P,N)
        over_y = similarity.masked_fill(~y_real[:, None], -torch.inf).amax(2)
        over_x = similarity.masked_fill(~x_real[:, :, None], -torch.inf).amax(1)
        i2t, t2i = (
            best.masked_fill(~(real & both[:, None]), 0.0).sum(1) / real.sum(1).clamp(min=1)
            for best, real in ((over_y, x_real), (over_x, y_real))
        )
        return i2t, t2i

    def contrast(self, image: Embeddings, text: Embeddings, scale: Tensor) -> Tensor:
        x, y = self.sides(image, text)
        positives = same_picture(image, text)
        return matched_info_nce(x.vectors, y.vectors, x.mask, y.mask, scale, positives)


def _real(side: Side) -> Tensor:
    if side.mask is not None:
        return side.mask
    return side.vectors.new_ones(side.vectors.shape[:2], dtype=torch.bool)
