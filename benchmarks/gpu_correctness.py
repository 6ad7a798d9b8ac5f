"""The device's matching and losses against the same in float64, written the plain way.

References see the very numbers that the ops see (rounded to the type in question). Errors are
``|ours - reference| / |reference|``: of scores and losses the greatest over the greatest, of
gradients the norms. A loss is a mean in which roundings cancel out, so its bound is close; the
gradients of matching have wide ones, since matches that are equal but for rounding change places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from benchmarks.gpu_cases import tiny_shape, vectors
from benchmarks.harness import Row, empty_row
from torch import Tensor

from intarsia.ops.contrastive import info_nce, matched_info_nce, patchwise_contrastive
from intarsia.ops.matching import fine_grained_scores

Outputs = Sequence[Tensor]
Function = Callable[..., Outputs]
SCALE = 1 / 0.07
ROUNDING = {torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.float32: 1e-5}


@dataclass(frozen=True, slots=True)
class Check:
    """``build(**shape, device, dtype)`` gives ours, the reference and the leaves of both.

    ``values`` and ``gradients`` are the bounds of the errors.
    """

    name: str
    build: Callable[..., tuple[Function, Function, Outputs]]
    shape: Mapping[str, int]
    dtype: torch.dtype
    values: float
    gradients: float


def check(case: Check, device: str) -> list[Row]:
    """A row for the values and one for the gradients of all leaves, the worst of each."""
    ours, reference, leaves = case.build(**case.shape, device=device, dtype=case.dtype)
    found, wanted = _run(ours, leaves), _run(reference, [leaf.double() for leaf in leaves])
    errors = (
        ("values", case.values, _worst(_greatest, found[0], wanted[0])),
        ("gradients", case.gradients, _worst(_norm, found[1], wanted[1])),
    )
    kind = str(case.dtype).removeprefix("torch.")
    return [
        empty_row(f"{case.name}, {kind}: {what}", case.shape)
        | {"kind": "correctness", "error": error, "bound": bound, "met": error <= bound}
        for what, bound, error in errors
    ]


def matching(
    I: int,  # noqa: E741
    T: int,
    P: int,
    N: int,
    D: int,
    device: str,
    dtype: torch.dtype,
    ragged: bool = False,
) -> tuple[Function, Function, Outputs]:
    x, y = _pair((I, P, D), (T, N, D), device, dtype)
    masks = (_mask(I, P, device), _mask(T, N, device)) if ragged else (None, None)
    return (
        lambda x, y: fine_grained_scores(x, y, *masks),
        lambda x, y: einsum(x, y, *masks),
        (x, y),
    )


def whole(
    B: int, D: int, device: str, dtype: torch.dtype, labels: int = 0
) -> tuple[Function, Function, Outputs]:
    x, y = _pair((B, D), (B, D), device, dtype)
    ids = [torch.randperm(B, device=device) % (labels or B) for _ in range(2)]
    same = ids[0][:, None] == ids[1]

    def reference(x: Tensor, y: Tensor, scale: Tensor) -> Outputs:
        logits = scale * (x @ y.mT)
        return [symmetric(logits, logits, same)]

    return (
        lambda x, y, scale: [info_nce(x, y, scale, (ids[0], ids[1]))],
        reference,
        (x, y, _scale(device)),
    )


def matched(
    B: int, K: int, D: int, device: str, dtype: torch.dtype
) -> tuple[Function, Function, Outputs]:
    x, y = _pair((B, K, D), (B, K, D), device, dtype)
    masks = _mask(B, K, device, 1), _mask(B, K, device, 1)
    same = torch.eye(B, dtype=torch.bool, device=device)

    def reference(x: Tensor, y: Tensor, scale: Tensor) -> Outputs:
        i2t, t2i = einsum(x, y, *masks)
        return [symmetric(scale * i2t, scale * t2i, same)]

    return (
        lambda x, y, scale: [matched_info_nce(x, y, *masks, scale)],
        reference,
        (x, y, _scale(device)),
    )


def patchwise(
    B: int, M: int, D: int, device: str, dtype: torch.dtype
) -> tuple[Function, Function, Outputs]:
    x, y = _pair((B, M, D), (B, M, D), device, dtype)
    same = torch.eye(B, dtype=torch.bool, device=device)

    def reference(x: Tensor, y: Tensor, scale: Tensor) -> Outputs:
        logits = scale * x.transpose(0, 1) @ y.permute(1, 2, 0)
        return [torch.stack([symmetric(table, table, same) for table in logits]).sum()]

    return (
        lambda x, y, scale: [patchwise_contrastive(x, y, scale)],
        reference,
        (x, y, _scale(device)),
    )


def einsum(
    x: Tensor, y: Tensor, x_mask: Tensor | None, y_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """``i2t`` and ``t2i`` of all similarities at once; rows without a real vector score 0."""
    x_real, y_real = (
        side.new_ones(side.shape[:2], dtype=torch.bool) if mask is None else mask
        for side, mask in ((x, x_mask), (y, y_mask))
    )
    similarity = torch.einsum("ipd,tnd->iptn", x, y)
    over_y = similarity.masked_fill(~y_real, -torch.inf).amax(3)
    over_x = similarity.masked_fill(~x_real[:, :, None, None], -torch.inf).amax(1)
    there = x_real.any(1)[:, None] & y_real.any(1)
    i2t = over_y.masked_fill(~(x_real[:, :, None] & there[:, None]), 0.0).sum(1)
    t2i = over_x.masked_fill(~(y_real & there[:, :, None]), 0.0).sum(2)
    return i2t / x_real.sum(1).clamp(min=1)[:, None], t2i / y_real.sum(1).clamp(min=1)


def symmetric(i2t: Tensor, t2i: Tensor, same: Tensor) -> Tensor:
    """InfoNCE with several positives, as :mod:`intarsia.ops.contrastive` defines it."""
    return (_one_way(i2t, same) + _one_way(t2i.mT, same.mT)) / 2


def _one_way(logits: Tensor, same: Tensor) -> Tensor:
    negatives = logits.masked_fill(same, -torch.inf).logsumexp(1, keepdim=True)
    costs = F.softplus(negatives - logits).masked_fill(~same, 0.0).sum(1)
    count = same.sum(1)
    return (costs / count.clamp(min=1)).sum() / (count > 0).sum()


def _run(function: Function, leaves: Outputs) -> tuple[Outputs, Outputs]:
    """The outputs, and the gradients of the sum of their squares."""
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    outputs = function(*leaves)
    loss = torch.stack([output.square().sum() for output in outputs]).sum()
    gradients = torch.autograd.grad(loss, leaves)
    return [output.detach() for output in outputs], gradients


def _worst(error: Callable[[Tensor, Tensor], Tensor], found: Outputs, wanted: Outputs) -> float:
    """The greatest error; NaN where one of them is."""
    return float(torch.stack([error(*pair) for pair in zip(found, wanted, strict=True)]).max())


def _greatest(found: Tensor, wanted: Tensor) -> Tensor:
    return (found.double() - wanted).abs().max() / wanted.abs().max()


def _norm(found: Tensor, wanted: Tensor) -> Tensor:
    return (found.double() - wanted).norm() / wanted.norm()


def _pair(x: tuple[int, ...], y: tuple[int, ...], device: str, dtype: torch.dtype) -> Outputs:
    return [vectors(*size, device=device, dtype=dtype) for size in (x, y)]


def _mask(rows: int, k: int, device: str, fewest: int = 0) -> Tensor:
    """(rows,k), ``fewest`` to k real vectors in each row at any of its places."""
    counts = torch.randint(fewest, k + 1, (rows, 1), device=device)
    return torch.rand(rows, k, device=device).argsort(1) < counts


def _scale(device: str) -> Tensor:
    return torch.tensor(SCALE, device=device)


def checks(tiny: bool = False) -> Iterator[Check]:
    """Of every op and type at middling sizes that no block divides evenly."""
    for case in _all():
        yield replace(case, shape=tiny_shape(case.shape)) if tiny else case


def _all() -> Iterator[Check]:
    for i, t, p, n, d in ((500, 300, 10, 10, 512), (90, 130, 49, 32, 256)):
        for dtype, rounding in ROUNDING.items():
            for ragged in (False, True):
                shape = {"I": i, "T": t, "P": p, "N": n, "D": d, "ragged": ragged}
                name = f"fine_grained_scores, {'ragged' if ragged else 'even'}"
                yield Check(name, matching, shape, dtype, rounding, 1.5 * rounding**0.5)
    for name, build, shape in (
        ("info_nce, ids", whole, {"B": 1000, "D": 512}),
        ("info_nce, shared ids", whole, {"B": 1000, "D": 512, "labels": 300}),
        ("patchwise_contrastive", patchwise, {"B": 200, "M": 49, "D": 256}),
        ("matched_info_nce, ragged", matched, {"B": 300, "K": 10, "D": 256}),
    ):
        for dtype, rounding in ROUNDING.items():
            gradients = 1.5 * rounding**0.5 if build is matched else 2 * rounding
            yield Check(name, build, shape, dtype, rounding / 4, gradients)
