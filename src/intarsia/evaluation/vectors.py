"""Embeddings of a whole data set, and the scores of pairs among them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from intarsia.model import Model
from intarsia.ops.devices import memory_of
from intarsia.ops.similarity import paired_scores
from intarsia.types import Embeddings

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


def together(image: Embeddings, text: Embeddings) -> tuple[Embeddings, Embeddings]:
    """Both on the CPU where one of them is."""
    devices = {vectors.device for side in (image, text) for vectors in side.groups.values()}
    return (image.cpu(), text.cpu()) if len(devices) > 1 else (image, text)


def image_to_text(model: Model, image: Embeddings, text: Embeddings) -> Tensor:
    """(Q,) of each picture towards the text of its own row."""
    return paired_scores(*together(image, text), model.method.terms)[0]


def both_ways(model: Model, image: Embeddings, text: Embeddings) -> Tensor:
    """(Q,) one number a pair: the mean of both directions."""
    i2t, t2i = paired_scores(*together(image, text), model.method.terms)
    return (i2t + t2i) / 2
