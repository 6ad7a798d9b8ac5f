"""The contrastive losses, forward and backward, against what keeps every logit.

    python -m benchmarks.contrastive

Baselines: ``loop`` is a Python loop over positions, ``einsum`` and ``logits`` keep the whole table
for autograd, ``bf16`` ones with bfloat16 vectors. The limits are the products alone: one of the
forward pass and two of the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from benchmarks.harness import Case, Run, Runs, run
from torch import Tensor

from intarsia.ops.contrastive import info_nce, matched_info_nce, patchwise_contrastive

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def patchwise(B: int, M: int, D: int) -> Runs:
    x, y = vectors(B, M, D), vectors(B, M, D)
    halves = x.bfloat16(), y.bfloat16()
    loop = step(patchwise_loop, x, y)
    a, b = (side.transpose(0, 1).contiguous() for side in halves)
    return Runs(
        step(patchwise_contrastive, *halves),
        {"loop": loop, "loop, bf16": step(patchwise_loop, *halves)},
        ("3 bf16 products", lambda: [a @ b.mT for _ in range(3)]),
    )


def patchwise_float32(B: int, M: int, D: int) -> Runs:
    x, y = vectors(B, M, D), vectors(B, M, D)
    a, b = (side.transpose(0, 1).contiguous() for side in (x, y))
    return Runs(
        step(patchwise_contrastive, x, y),
        {"loop": step(patchwise_loop, x, y)},
        ("3 products", lambda: [a @ b.mT for _ in range(3)]),
    )


def whole(B: int, D: int) -> Runs:
    x, y = vectors(B, D), vectors(B, D)
    return Runs(step(info_nce, x, y), {"logits": step(clip_loss, x, y)})


def whole_alone(B: int, D: int) -> Runs:
    """Where the logits of the baseline do not fit."""
    return Runs(step(info_nce, vectors(B, D), vectors(B, D)))


def matched(B: int, K: int, D: int) -> Runs:
    x, y = vectors(B, K, D), vectors(B, K, D)
    halves = x.bfloat16(), y.bfloat16()
    a, b = (side.flatten(0, 1) for side in halves)
    return Runs(
        step(matched_loss, *halves),
        {"einsum": step(einsum_loss, x, y)},
        ("3 bf16 products", lambda: [a @ b.mT for _ in range(3)]),
    )


def matched_float32(B: int, K: int, D: int) -> Runs:
    x, y = vectors(B, K, D), vectors(B, K, D)
    return Runs(step(matched_loss, x, y), {"einsum": step(einsum_loss, x, y)})


def vectors(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


def step(loss: Loss, x: Tensor, y: Tensor) -> Run:
    """Forward and backward pass, gradients of both sides and of the scale."""
    leaves = [x.clone().requires_grad_(), y.clone().requires_grad_()]
    scale = torch.tensor(1 / 0.07, device=x.device, requires_grad=True)
    return lambda: torch.autograd.grad(loss(*leaves, scale), [*leaves, scale])


def patchwise_loop(patches: Tensor, slots: Tensor, scale: Tensor) -> Tensor:
    parts = [clip_loss(patches[:, i], slots[:, i], scale) for i in range(patches.shape[1])]
    return torch.stack(parts).sum()


def clip_loss(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    logits = scale * (x @ y.mT).float()
    return both_ways(logits, logits)


def matched_loss(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    return matched_info_nce(x, y, None, None, scale)


def einsum_loss(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    similarity = torch.einsum("ipd,tnd->itpn", x, y)
    return both_ways(scale * similarity.amax(3).mean(2), scale * similarity.amax(2).mean(2))


def both_ways(i2t: Tensor, t2i: Tensor) -> Tensor:
    truth = torch.arange(len(i2t), device=i2t.device)
    return (F.cross_entropy(i2t, truth) + F.cross_entropy(t2i.mT, truth)) / 2


CASES = [
    Case("patchwise, bf16", patchwise, {"B": 256, "M": 49, "D": 512}),
    Case("patchwise, fp32", patchwise_float32, {"B": 256, "M": 49, "D": 512}),
    Case("InfoNCE, fp32", whole, {"B": 8192, "D": 512}),
    Case("matched InfoNCE, bf16", matched, {"B": 800, "K": 10, "D": 512}),
    Case("matched InfoNCE, fp32", matched_float32, {"B": 800, "K": 10, "D": 512}),
]
LARGE = [
    Case("InfoNCE, fp32", whole_alone, {"B": 32768, "D": 512}),
    Case("matched InfoNCE, bf16", matched, {"B": 1600, "K": 10, "D": 512}),
]

if __name__ == "__main__":
    run("contrastive", CASES)
    run("contrastive_large", LARGE)
