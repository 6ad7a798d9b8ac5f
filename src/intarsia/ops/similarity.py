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
from intarsia.ops.matching import fine_grained_scores
from intarsia.types import Embeddings, Term


def halved(embeddings: Embeddings) -> Embeddings:
    """The same in bfloat16: half the memory and the fast way to score."""
    return embeddings.map(lambda x: x.bfloat16() if x.is_floating_point() else x)


def pairwise_scores(
    image: Embeddings, text: Embeddings, terms: Sequence[Term]
) -> tuple[Tensor, Tensor]:
    """Every picture against every text.

    Returns:
        The image-to-text and the text-to-image similarity, both (I,T) float32. They differ only
        where a ``mean_max`` term or unequal weights are among ``terms``.
    """
    scores = _nothing(image, ())
    for term in terms:
        x, y = _sides(image, text, term)
        if term.kind == "mean_max":
            masks = image.masks.get(term.group), text.masks.get(term.group)
            own_i2t, own_t2i = fine_grained_scores(x, y, *masks)
        else:
            own_i2t = own_t2i = _dots(x.flatten(1), y.flatten(1)) / _num_aligned(x, term)
        scores = _plus(scores, term, own_i2t.float(), own_t2i.float())
    return scores


def paired_scores(
    image: Embeddings, text: Embeddings, terms: Sequence[Term]
) -> tuple[Tensor, Tensor]:
    """Row b of ``image`` against row b of ``text``: image-to-text and text-to-image, both (B,)."""
    if len(image) != len(text):
        raise ShapeError(f"{len(image)} pictures cannot be paired with {len(text)} texts")
    scores = _nothing(image, (len(image),))
    for term in terms:
        x, y = _sides(image, text, term)
        if term.kind == "mean_max":
            own_i2t, own_t2i = _paired_mean_max(image, text, term)
        else:
            own_i2t = own_t2i = (x.float() * y.float()).flatten(1).sum(1) / _num_aligned(x, term)
        scores = _plus(scores, term, own_i2t, own_t2i)
    return scores


def _nothing(image: Embeddings, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Both directions before the first term, where the embeddings are."""
    zeros = torch.zeros(shape, device=next(iter(image.groups.values())).device)
    return zeros, zeros


def _plus(
    scores: tuple[Tensor, Tensor], term: Term, own_i2t: Tensor, own_t2i: Tensor
) -> tuple[Tensor, Tensor]:
    i2t, t2i = scores
    i2t = i2t.add(own_i2t, alpha=term.i2t)
    if term.reverse:
        i2t = i2t.add(own_t2i, alpha=term.reverse)
    return i2t, t2i.add(own_t2i, alpha=term.t2i)


def _dots(x: Tensor, y: Tensor) -> Tensor:
    """(I,D), (T,D) -> (I,T) float32: one product a pair is cheap enough not to round it."""
    with torch.autocast(x.device.type, enabled=False):
        if _sums_wider(x, y):
            return torch.mm(x, y.mT, out_dtype=torch.float32)
        return x.float() @ y.float().mT


def _sums_wider(x: Tensor, y: Tensor) -> bool:
    """Whether a product of 16-bit numbers can come out in float32: on CUDA, without gradients."""
    return (
        x.is_cuda
        and x.dtype == y.dtype
        and x.itemsize == 2
        and not (x.requires_grad or y.requires_grad)
    )


def _paired_mean_max(image: Embeddings, text: Embeddings, term: Term) -> tuple[Tensor, Tensor]:
    x, y = image[term.group], text[term.group]
    x_real, y_real = _real(image, term.group), _real(text, term.group)
    both = x_real.any(1) & y_real.any(1)
    similarity = (x @ y.mT).float()  # (B,P,N)
    over_y = similarity.masked_fill(~y_real[:, None], -torch.inf).amax(2)
    over_x = similarity.masked_fill(~x_real[:, :, None], -torch.inf).amax(1)
    i2t, t2i = (
        best.masked_fill(~(real & both[:, None]), 0.0).sum(1) / real.sum(1).clamp(min=1)
        for best, real in ((over_y, x_real), (over_x, y_real))
    )
    return i2t, t2i


def _real(embeddings: Embeddings, group: str) -> Tensor:
    vectors = embeddings[group]
    mask = embeddings.masks.get(group)
    return vectors.new_ones(vectors.shape[:2], dtype=torch.bool) if mask is None else mask


def _sides(image: Embeddings, text: Embeddings, term: Term) -> tuple[Tensor, Tensor]:
    x, y = image[term.group], text[term.group]
    same = x.shape[2:] == y.shape[2:] if term.kind == "mean_max" else x.shape[1:] == y.shape[1:]
    if not same or x.ndim != y.ndim:
        raise ShapeError(
            f"group {term.group!r} ({term.kind}) is {tuple(x.shape)} for the pictures "
            f"and {tuple(y.shape)} for the texts"
        )
    return x, y


def _num_aligned(x: Tensor, term: Term) -> int:
    return int(x.shape[1]) if term.kind == "aligned" else 1
