"""Similarity is data: these functions score any method's embeddings from its list of terms.

The precision of the products is that of the embeddings: scores of float32 embeddings are exact;
:func:`halved` embeddings score several times faster where the processor multiplies bfloat16 itself,
each fine-grained match then rounded to 8 bits. Sums and means are float32 either way.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from intarsia.errors import ShapeError
from intarsia.terms.base import Term
from intarsia.types import Embeddings


def halved(embeddings: Embeddings) -> Embeddings:
    """The same in bfloat16: half the memory and the fast way to score."""
    return embeddings.map(lambda x: x.bfloat16() if x.is_floating_point() else x)


def pairwise_scores(
    image: Embeddings, text: Embeddings, terms: Sequence[Term]
) -> tuple[Tensor, Tensor]:
    """Every picture against every text.

    Returns:
        The image-to-text and the text-to-image similarity, both (I,T) float32. They differ only
        where a directed term or unequal weights are among ``terms``.
    """
    scores = _nothing(image, ())
    for term in terms:
        scores = _plus(scores, term, term.pairwise(*term.sides(image, text)))
    return scores


def paired_scores(
    image: Embeddings, text: Embeddings, terms: Sequence[Term]
) -> tuple[Tensor, Tensor]:
    """Row b of ``image`` against row b of ``text``: image-to-text and text-to-image, both (B,)."""
    if len(image) != len(text):
        raise ShapeError(f"{len(image)} pictures cannot be paired with {len(text)} texts")
    scores = _nothing(image, (len(image),))
    for term in terms:
        scores = _plus(scores, term, term.paired(*term.sides(image, text)))
    return scores


def _nothing(image: Embeddings, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Both directions before the first term, where the embeddings are."""
    zeros = torch.zeros(shape, device=next(iter(image.groups.values())).device)
    return zeros, zeros


def _plus(
    scores: tuple[Tensor, Tensor], term: Term, own: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    (i2t, t2i), (own_i2t, own_t2i) = scores, (part.float() for part in own)
    i2t = i2t.add(own_i2t, alpha=term.i2t)
    if term.reverse:
        i2t = i2t.add(own_t2i, alpha=term.reverse)
    return i2t, t2i.add(own_t2i, alpha=term.t2i)
