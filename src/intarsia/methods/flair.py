"""`flair`: the text asks, the patches answer: a picture is pooled anew for each text."""

from __future__ import annotations

import torch
from torch import Tensor

from intarsia.methods.base import (
    Method,
    TemperatureAndBias,
    check_weights,
    normalised,
    normalised_for_matching,
)
from intarsia.ops.attended import AttentionPool, attended_pairs
from intarsia.terms import Attended, Dot, Term
from intarsia.types import Dims, Embeddings, Features


class Flair(Method):
    """Text-conditioned attention pooling (FLAIR, Xiao et al., CVPR 2025), beside the global loss.

    The text's global vector queries the patches through one cross-attention; its score is the
    cosine of the text with what was pooled for it, trained with a sigmoid loss over all pairs of
    the batch (eq. 3), and so is the cosine of the global vectors (eq. 4). Every caption of a
    picture is a positive of it.

    Our readings: every text of the batch meets every picture (the authors draw one text of each
    other picture, to save memory); the two losses learn a temperature and a bias each (the authors'
    code has one of both), and are summed (there, averaged). Both start at 1/0.07 and -10 as in the
    authors' code, but the global ones where the backbone was trained with a sigmoid loss at its
    own. The similarity is the sum of both scores (``global_weight=0`` gives the authors').

    Args:
        dims: sizes of the backbone.
        num_heads: of the attention; the backbone's width must be a multiple.
        lambda_global: weight of the sigmoid loss of the global vectors.
        lambda_local: weight of the text-conditioned sigmoid loss.
        global_weight: weight of the global score in the similarity.
        local_weight: weight of the text-conditioned score.
    """

    needs = frozenset({"patches"})

    def __init__(
        self,
        dims: Dims,
        *,
        num_heads: int = 8,
        lambda_global: float = 1.0,
        lambda_local: float = 1.0,
        global_weight: float = 1.0,
        local_weight: float = 1.0,
    ) -> None:
        super().__init__(dims)
        check_weights(lambda_global=lambda_global, lambda_local=lambda_local)
        self.lambda_global, self.lambda_local = lambda_global, lambda_local
        self.global_weight, self.local_weight = global_weight, local_weight
        self.pool = AttentionPool(dims.embed, num_heads)
        self.temperature = TemperatureAndBias(dims.scale, dims.bias)
        self.local_temperature = TemperatureAndBias()

    @property
    def terms(self) -> tuple[Term, ...]:
        whole, weight = self.global_weight, self.local_weight
        local = Attended("local", i2t=weight, t2i=weight, pool=self.pool)
        return (Dot("global", i2t=whole, t2i=whole), local) if whole else (local,)

    def encode_image(self, x: Features) -> Embeddings:
        whole, patches = x.require("image_global"), x.require("image_patches")
        return Embeddings({"global": normalised(whole), "local": normalised_for_matching(patches)})

    def encode_text(self, x: Features) -> Embeddings:
        whole = x.require("text_global")
        return Embeddings({"global": normalised(whole), "local": normalised_for_matching(whole)})

    def loss(self, image: Embeddings, text: Embeddings) -> dict[str, Tensor]:
        found = {}
        if self.lambda_global:
            scale = self.temperature
            found["global"] = Dot("global").sigmoid(image, text, scale(), scale.logit_bias)
        if self.lambda_local:
            scale, term = self.local_temperature, Attended("local", pool=self.pool)
            found["local"] = term.sigmoid(image, text, scale(), scale.logit_bias)
        weights = {"global": self.lambda_global, "local": self.lambda_local}
        total = torch.stack([weights[name] * value for name, value in found.items()]).sum()
        return {"loss": total, **found}

    def patch_map(self, image: Features, text: Features) -> Tensor:
        """What each patch would score if it were all of the picture, (B,M)."""
        patches = normalised(image.require("image_patches"))
        texts = normalised(text.require("text_global")).repeat_interleave(patches.shape[1], 0)
        alone = attended_pairs(patches.flatten(0, 1)[:, None], texts, self.pool)
        return alone.view(patches.shape[:2])
