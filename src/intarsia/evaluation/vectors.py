"""Embeddings of a whole data set, and the scores of pairs among them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from itertools import chain

import torch
from torch import Tensor

from intarsia.model import Model
from intarsia.ops.devices import memory_of
from intarsia.runtime import progress
from intarsia.terms.similarity import paired_scores
from intarsia.types import Embeddings

AT_ONCE = 1024  # pairs
SHARE = 1 / 8  # of a GPU's memory for the embeddings of one side


def gathered(parts: Iterable[Embeddings], device: torch.device) -> Embeddings:
    """All parts as one, on a GPU that has the memory to rank them; otherwise on the CPU."""
    room = SHARE * memory_of(device) if device.type == "cuda" else math.inf
    found: list[Embeddings] = []
    for part in parts:
        room -= sum(vectors.nbytes for vectors in part.groups.values())
        found.append(part)
        if room < 0:
            found = [some.cpu() for some in found]
    return Embeddings.concatenate(found)


def all_texts(model: Model, texts: Collection[str]) -> Embeddings:
    """The embeddings of many texts, :func:`gathered`; those that were cut are told of."""
    found = gathered(model.text_batches(progress(texts, "texts")), model.device)
    model.tell_cut(found.cut)
    return found


def together(image: Embeddings, text: Embeddings) -> tuple[Embeddings, Embeddings]:
    """Both on the CPU where one of them is."""
    devices = {vectors.device for side in (image, text) for vectors in side.groups.values()}
    return (image.cpu(), text.cpu()) if len(devices) > 1 else (image, text)


def paired(
    model: Model, image: Embeddings, text: Embeddings, rows: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """Image-to-text and text-to-image similarity, both (Q,) on the CPU, of the pictures ``rows``
    with the texts ``columns``, a few at a time."""
    image, text = together(image, text)
    found = [
        paired_scores(image.rows(some), text.rows(others), model.method.terms)
        for some, others in zip(rows.split(AT_ONCE), columns.split(AT_ONCE), strict=True)
    ]
    i2t, t2i = zip(*found, strict=True)
    return torch.cat(i2t).cpu(), torch.cat(t2i).cpu()


def both_ways(
    model: Model, image: Embeddings, text: Embeddings, rows: Tensor, columns: Tensor
) -> Tensor:
    """The mean of both directions of :func:`paired`."""
    i2t, t2i = paired(model, image, text, rows, columns)
    return (i2t + t2i) / 2


def distinct(model: Model, *columns: Sequence[str]) -> tuple[Embeddings, list[Tensor]]:
    """The embeddings of all texts, equal ones once, and the rows of each column's."""
    rows = {text: i for i, text in enumerate(dict.fromkeys(chain.from_iterable(columns)))}
    return all_texts(model, rows), [
        torch.tensor([rows[text] for text in column]) for column in columns
    ]
