"""`filip`: every patch looks for its word and every word for its patch; the field's baseline."""

from __future__ import annotations

import torch
from torch import Tensor

from intarsia.methods.base import (
    Method,
    Temperature,
    check_weights,
    normalised,
    normalised_for_matching,
)
from intarsia.terms import Dot, MeanMax, Term
from intarsia.types import Dims, Embeddings, Features


class Filip(Method):
    """Late interaction of patches and tokens (FILIP, Yao et al. 2022), beside the global loss.

    The score of a picture with a text is the mean over its patches of the best token, that of a
    text with a picture the mean over its tokens of the best patch; special tokens and padding take
    no part. FILIP trains the local loss alone; here the global one stays, so that what a
    pretrained model knows is kept (``lambda_global=0`` and ``global_weight=0`` give the paper's).

    Our reading of FILIP's token selection: ``top_patches`` and ``top_tokens`` keep those nearest
    to their own side's global vector, which depends on no other pair, so that it holds in the
    index too (the paper ranks them by their best match in the batch, in training only).

    Args:
        dims: sizes of the backbone.
        lambda_global: weight of the global loss.
        lambda_local: weight of the matched loss.
        global_weight: weight of the global score in the similarity.
        local_weight: weight of the matched score, half of it for each direction.
        top_patches: how many patches of a picture take part; None = all.
        top_tokens: how many tokens of a text take part; None = all.
    """

    needs = frozenset({"patches", "tokens"})

    def __init__(
        self,
        dims: Dims,
        *,
        lambda_global: float = 1.0,
        lambda_local: float = 1.0,
        global_weight: float = 1.0,
        local_weight: float = 1.0,
        top_patches: int | None = None,
        top_tokens: int | None = None,
    ) -> None:
        super().__init__(dims)
        check_weights(lambda_global=lambda_global, lambda_local=lambda_local)
        self.lambda_global, self.lambda_local = lambda_global, lambda_local
        self.global_weight, self.local_weight = global_weight, local_weight
        self.top_patches, self.top_tokens = top_patches, top_tokens
        self.temperature = Temperature(dims.scale)
        self.local_temperature = Temperature(dims.scale)

    @property
    def terms(self) -> tuple[Term, ...]:
        whole, half = self.global_weight, self.local_weight / 2
        local = MeanMax("local", i2t=half, t2i=half)
        return (Dot("global", i2t=whole, t2i=whole), local) if whole else (local,)

    def encode_image(self, x: Features) -> Embeddings:
        whole = normalised(x.require("image_global"))
        patches = normalised_for_matching(x.require("image_patches"))
        local, _ = _nearest(patches, None, whole, self.top_patches)
        return Embeddings({"global": whole, "local": local})

    def encode_text(self, x: Features) -> Embeddings:
        whole, tokens = (
            normalised(x.require("text_global")),
            normalised_for_matching(x.require("text_tokens")),
        )
        local, mask = _nearest(tokens, x.require("text_mask"), whole, self.top_tokens)
        assert mask is not None
        return Embeddings({"global": whole, "local": local * mask[..., None]}, {"local": mask})

    def loss(self, image: Embeddings, text: Embeddings) -> dict[str, Tensor]:
        local = MeanMax("local").contrast(image, text, self.local_temperature())
        if not self.lambda_global:
            return {"loss": self.lambda_local * local, "local": local}
        whole = Dot("global").contrast(image, text, self.temperature())
        total = self.lambda_global * whole + self.lambda_local * local
        return {"loss": total, "global": whole, "local": local}

    def patch_map(self, image: Features, text: Features) -> Tensor:
        """Mean over the text's tokens of their similarity with each patch, (B,M)."""
        patches, mask = normalised(image.require("image_patches")), text.require("text_mask")
        tokens = normalised(text.require("text_tokens")) * mask[..., None]
        mean = tokens.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return torch.einsum("bmd,bd->bm", patches, mean)


def _nearest(
    vectors: Tensor, mask: Tensor | None, whole: Tensor, num: int | None
) -> tuple[Tensor, Tensor | None]:
    """The ``num`` of (B,K,D) vectors most similar to (B,D) ``whole``, and their mask."""
    if num is None or num >= vectors.shape[1]:
        return vectors, mask
    score = (vectors.detach().float() @ whole.detach()[..., None])[..., 0]
    if mask is not None:
        score = score.masked_fill(~mask, -torch.inf)
    best = score.topk(num, dim=1).indices
    kept = vectors.gather(1, best[..., None].expand(-1, -1, vectors.shape[2]))
    return kept, None if mask is None else mask.gather(1, best)
