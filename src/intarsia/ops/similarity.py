"""Similarity is data: these functions score any method's embeddings from its list of terms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from intarsia.errors import ShapeError
from intarsia.ops.matching import fine_grained_scores
from intarsia.types import Embeddings, Term


def pairwise_scores(
    image: Embeddings, text: Embeddings, terms: Sequence[Term]
) -> tuple[Tensor, Tensor]:
    """Every picture against every text.

    Returns:
        The image-to-text and the text-to-image similarity, both (I,T) float32. They differ only
        where a ``mean_max`` term or unequal weights are among ``terms``.
    """
    i2t = torch.zeros((), dtype=torch.float32)
    t2i = torch.zeros((), dtype=torch.float32)
    for term in terms:
        x, y = _sides(image, text, term)
        if term.kind == "mean_max":
            own_i2t, own_t2i = fine_grained_scores(
                x, y, image.masks.get(term.group), text.masks.get(term.group)
            )
        else:
            own_i2t = own_t2i = (x.flatten(1) @ y.flatten(1).mT) / _num_aligned(x, term)
        i2t = i2t.to(x.device) + term.i2t * own_i2t.float()
        t2i = t2i.to(x.device) + term.t2i * own_t2i.float()
    return i2t, t2i


def paired_scores(
    image: Embeddings, text: Embeddings, terms: Sequence[Term]
) -> tuple[Tensor, Tensor]:
    """Row b of ``image`` against row b of ``text``: image-to-text and text-to-image, both (B,)."""
    if len(image) != len(text):
        raise ShapeError(f"{len(image)} pictures cannot be paired with {len(text)} texts")
    i2t = torch.zeros(len(image))
    t2i = torch.zeros(len(image))
    for term in terms:
        x, y = _sides(image, text, term)
        if term.kind == "mean_max":
            own_i2t, own_t2i = _paired_mean_max(image, text, term)
        else:
            own_i2t = own_t2i = (x * y).flatten(1).sum(1) / _num_aligned(x, term)
        i2t = i2t.to(x.device) + term.i2t * own_i2t.float()
        t2i = t2i.to(x.device) + term.t2i * own_t2i.float()
    return i2t, t2i


def _paired_mean_max(image: Embeddings, text: Embeddings, term: Term) -> tuple[Tensor, Tensor]:
    rows = []
    for b in range(len(image)):
        one = slice(b, b + 1)
        x, y = image.rows(one), text.rows(one)
        group = term.group
        rows.append(fine_grained_scores(x[group], y[group], x.masks.get(group), y.masks.get(group)))
    return torch.cat([r[0].view(1) for r in rows]), torch.cat([r[1].view(1) for r in rows])


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
