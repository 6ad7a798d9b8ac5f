"""What :mod:`benchmarks.gpu` times: every case, its baselines, its limit and what it has to reach.

Builders take the case's sizes and the device, and make their inputs there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import cast
from unittest import mock

import torch
import torch.nn.functional as F
from benchmarks import scoring, training_step
from benchmarks.contrastive import Loss, both_ways, matched_loss, step
from benchmarks.harness import Case, Run, Runs
from benchmarks.matching import Scores, compiler, einsum, pull
from open_clip.model import CLIP
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPConfig

from intarsia.ops.contrastive import info_nce, patchwise_contrastive
from intarsia.ops.matching import fine_grained_scores


def vectors(*shape: int, device: str, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Normalised random vectors, the same after the same ``torch.manual_seed``."""
    return normalize(torch.randn(*shape, device=device), dim=-1).to(dtype)


def compiled(function: Callable) -> dict[str, Callable]:
    """``{"compiled": ...}`` for this case's sizes alone; nothing where no compiler is."""
    if not compiler():
        return {}
    torch.compiler.reset()
    return {"compiled": torch.compile(function, dynamic=False)}


def products(x: Tensor, y: Tensor, backward: bool) -> Run:
    """The bare product of all vectors ((V,D) or in groups (G,V,D)) into memory that is used again;
    with ``backward`` also the two of the backward pass."""
    similarity = torch.matmul(x, y.mT)

    def run() -> None:
        torch.matmul(x, y.mT, out=similarity)
        if backward:
            torch.matmul(similarity, y), torch.matmul(similarity.mT, x)

    return run


def matching(I: int, T: int, P: int, N: int, D: int, device: str) -> Runs:  # noqa: E741
    x, y = vectors(I, P, D, device=device), vectors(T, N, D, device=device)
    plain = {"plain": einsum} | compiled(einsum)
    runs = {name: _without_grad(scores, x, y) for name, scores in plain.items()}
    product = products(x.flatten(0, 1), y.flatten(0, 1), backward=False)
    return Runs(_without_grad(fine_grained_scores, x, y), runs, ("1 product", product))


def matching_backward(I: int, T: int, P: int, N: int, D: int, device: str) -> Runs:  # noqa: E741
    x, y = vectors(I, P, D, device=device), vectors(T, N, D, device=device)
    plain = {"plain": einsum} | cast(dict[str, Scores], compiled(einsum))
    runs = {name: _pull(scores, x, y) for name, scores in plain.items()}
    limit = products(x.flatten(0, 1), y.flatten(0, 1), backward=True)
    return Runs(_pull(fine_grained_scores, x, y), runs, ("3 products", limit))


def _without_grad(scores: Callable, x: Tensor, y: Tensor) -> Run:
    return torch.no_grad()(lambda: scores(x, y))


def _pull(scores: Scores, x: Tensor, y: Tensor) -> Run:
    return lambda: pull(scores, x, y)


def whole(B: int, D: int, device: str, labels: int = 0, compile: bool = False) -> Runs:
    """InfoNCE with ids: each picture's own, or ``labels`` of them that all share.

    The plain loss knows no ids; it does the same work with the diagonal as its positives.
    """
    x, y = vectors(B, D, device=device), vectors(B, D, device=device)
    ids = torch.randperm(B, device=device)
    if labels:
        ids = ids % labels

    def ours(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        return info_nce(x, y, scale, (ids, ids))

    plain = {"plain": plain_info_nce} | (compiled(plain_info_nce) if compile else {})
    runs = {name: step(loss, x, y) for name, loss in plain.items()}
    return Runs(step(ours, x, y), runs, ("3 products", products(x, y, backward=True)))


def patchwise(B: int, M: int, D: int, device: str) -> Runs:
    x, y = vectors(B, M, D, device=device), vectors(B, M, D, device=device)
    plain = {"plain": plain_patchwise} | compiled(plain_patchwise)
    runs = {name: step(cast(Loss, loss), x, y) for name, loss in plain.items()}
    groups = [side.transpose(0, 1).contiguous() for side in (x, y)]
    limit = products(*groups, backward=True)
    return Runs(step(patchwise_contrastive, x, y), runs, ("3 products", limit))


def matched(B: int, K: int, D: int, device: str) -> Runs:
    x, y = vectors(B, K, D, device=device), vectors(B, K, D, device=device)

    def total(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        i2t, t2i = fine_grained_scores(x, y)
        return (i2t.sum() + t2i.sum()) * scale

    return Runs(step(matched_loss, x, y), limit=("fine_grained_scores", step(total, x, y)))


def plain_info_nce(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    logits = (scale * (x @ y.mT)).float()
    return both_ways(logits, logits)


def plain_patchwise(patches: Tensor, slots: Tensor, scale: Tensor) -> Tensor:
    """One product of all positions, (M,B,B), as wide as the loss wants it."""
    logits = (scale * torch.bmm(patches.transpose(0, 1), slots.permute(1, 2, 0))).float()
    num, size = logits.shape[:2]
    truth = torch.arange(size, device=logits.device).repeat(num)
    rows, columns = logits.flatten(0, 1), logits.mT.flatten(0, 1)
    return (F.cross_entropy(rows, truth) + F.cross_entropy(columns, truth)) * (num / 2)


def training(B: int, method: str, compile: bool, device: str) -> Runs:
    """A step of ours against open_clip's and, but for `clip` itself, against that of `clip`."""
    steps = training_steps(device, B, compile)
    limit = None if method == "clip" else ("clip step", steps["clip"])
    return Runs(steps[method], {"open_clip": steps["open_clip"]}, limit)


@lru_cache(2)
def training_steps(device: str, size: int, compile: bool) -> Mapping[str, Run]:
    """All on the device until the cache is cleared: eager ones are profiled after the compiled."""
    return training_step.training_steps(device, size, compile)


@contextmanager
def tiny() -> Iterator[None]:
    """Small towers and nothing compiled, so that every case runs on a CPU in a moment."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    side = sizes | {"num_hidden_layers": 1}
    config = CLIPConfig(text_config=side, vision_config=side, projection_dim=32)
    vision = {"image_size": 224, "patch_size": 32, "width": 32, "head_width": 16, "layers": 1}
    text = {"context_length": training_step.CONTEXT, "vocab_size": 400, "width": 32, "layers": 1}
    small = {
        "backbone": cache(lambda: training_step.towers(config)),
        "openclip_model": lambda: CLIP(32, vision, text | {"heads": 2}),
    }
    with mock.patch.multiple(training_step, **small), torch.compiler.set_stance("force_eager"):
        yield


def tiny_shape(shape: Mapping[str, int]) -> dict[str, int]:
    return {key: min(size, 4) if key.isupper() else size for key, size in shape.items()}


def _matching_cases() -> Iterator[Case]:
    faster, memory = {"ratio": ">= 1"}, {"peak_ratio": "<= 0.1"}
    for (i, t, p, n), forward, both, plain in (
        ((4096, 4096, 10, 10), "<= 2.0", "<= 2.0", faster),
        ((1024, 1024, 49, 32), "<= 1.6", "<= 1.7", faster | memory),
        ((512, 512, 196, 64), "<= 1.6", "<= 1.7", faster | memory),
    ):
        shape = {"I": i, "T": t, "P": p, "N": n, "D": 512}
        for name, build, limit in (
            ("forward", matching, forward),
            ("forward + backward", matching_backward, both),
        ):
            targets = {"plain": {"limit_ratio": limit} | plain, "compiled": faster}
            yield Case(name, build, shape, targets=targets)


def _training_cases() -> Iterator[Case]:
    overheads = {
        "clip": None,
        "registers": "<= 1.10",
        "filip": "<= 1.05",
        "harmoclip, image as target": "<= 1.05",
        "harmoclip": "<= 1.5",
    }
    for compile in (True, False):
        for method, overhead in overheads.items():
            name = f"{method}, compiled" if compile else method
            target = {"limit_ratio": overhead} if overhead else {"ratio": ">= 1.5"}
            shape = {"B": 512, "method": method, "compile": compile}
            yield Case(name, training, shape, rounds=5, targets={"open_clip": target})


LARGE, MIDDLE = {"B": 32768, "D": 512}, {"B": 8192, "D": 512}
CASES: Mapping[str, list[Case]] = {
    "matching": list(_matching_cases()),
    "contrastive": [
        Case(
            "InfoNCE, ids",
            whole,
            LARGE,
            targets={"plain": {"limit_ratio": "<= 4", "ratio": ">= 3", "peak_bytes": f"< {2**30}"}},
        ),
        Case(
            "InfoNCE, ids", whole, MIDDLE | {"compile": True}, targets={"plain": {"ratio": ">= 2"}}
        ),
        Case(
            "InfoNCE, shared ids",
            whole,
            MIDDLE | {"labels": 5},
            targets={"plain": {"ratio": ">= 2"}},
        ),
        Case(
            "patch-wise",
            patchwise,
            {"B": 1024, "M": 49, "D": 512},
            targets={"plain": {"ratio": ">= 1", "peak_ratio": "<= 0.5"}},
        ),
        Case(
            "matched InfoNCE",
            matched,
            {"B": 4096, "K": 10, "D": 512},
            targets={"": {"limit_ratio": "<= 1.2"}},
        ),
    ],
    "ranking": [
        Case(
            "rank + top 10",
            scoring.streamed,
            {"I": 5000, "T": 25000, "K": 10, "D": 512},
            targets={"": {"limit_ratio": "<= 4"}},
        )
    ],
    "training": list(_training_cases()),
}
