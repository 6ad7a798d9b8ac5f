"""Joining the embeddings of all ranks, so that each batch is contrasted as one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightning_fabric import Fabric
from torch import Tensor

from intarsia.types import Embeddings


def gather_embeddings(fabric: Fabric) -> Callable[[Embeddings], Embeddings]:
    """All ranks' rows in rank order, with gradients; groups of unequal K are padded first.

    Every rank then computes the loss of the whole batch. DDP averages the gradients over the
    ranks and the backward pass of the gathering sums them, so each weight gets the gradient that
    one process with the whole batch would give it.
    """

    def gather(part: Embeddings) -> Embeddings:
        longest = {
            name: _largest(fabric, x.shape[1]) for name, x in part.groups.items() if x.ndim == 3
        }
        groups = {n: _all(fabric, _padded(x, longest.get(n))) for n, x in part.groups.items()}
        masks = {n: _all(fabric, _padded(x, longest.get(n))) for n, x in part.masks.items()}
        labels = {n: _all(fabric, _padded(x, longest.get(n))) for n, x in part.labels.items()}
        ids = None if part.ids is None else _all(fabric, part.ids)
        return Embeddings(groups, masks, ids, labels)

    return gather


def _largest(fabric: Fabric, number: int) -> int:
    found = fabric.all_reduce(torch.tensor(number, device=fabric.device), reduce_op="max")
    assert isinstance(found, Tensor)
    return int(found)


def _padded(x: Tensor, length: int | None) -> Tensor:
    if length is None or x.shape[1] == length:
        return x
    filler = x.new_zeros((x.shape[0], length - x.shape[1], *x.shape[2:]))
    return torch.cat([x, filler], 1)


def _all(fabric: Fabric, x: Tensor) -> Tensor:
    gathered = fabric.all_gather(x, sync_grads=x.is_floating_point())
    assert isinstance(gathered, Tensor)
    if gathered.requires_grad:  # gloo silently mixes up the numbers of a transposed gradient
        gathered.register_hook(Tensor.contiguous)
    return gathered.flatten(0, 1)
