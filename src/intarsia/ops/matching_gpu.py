"""Fine-grained matching on a GPU: large products into one reused buffer, and Triton kernels that
read each block of them once (:mod:`intarsia.ops.matching_kernels`).

Nothing here waits for the device unless rows are of many lengths and so many that trimming their
padding saves more than a wait costs, or packed, so that only the device knows how many there are.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from intarsia.errors import ShapeError
from intarsia.ops import matching_kernels as kernels
from intarsia.ops.devices import memory_of, processors_of, registers
from intarsia.ops.matching_parts import Maxima, Side
from intarsia.ops.matching_plan import ALIGNED, Plan, Rows, both_blocks, padded, plans
from intarsia.ops.products import add_product

CHUNK = 32  # vectors of a text whose maxima one program holds: more would spill
WRITTEN = 12  # and whose weights it writes
COMBINED = 64  # vectors whose keys are combined at once
REGISTERS = 168  # of a thread, so that a processor holds 12 warps
WARPS = 16  # of a processor that are wanted
MOST = 2**15 - 1  # vectors of a row, whose places 16 bits can tell
FEWEST = 8  # vectors of a picture a program, or what is combined outgrows what is read


def forward(x: Side, y: Side, keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """``i2t`` and ``t2i`` (I,T) float32, and ``keep`` bytes of arg-max indices, none if 0."""
    kept = torch.empty(keep, dtype=torch.uint8, device=x.vectors.device)
    if _turned(x, y):
        t2i, i2t = _forward(y, x, kept)
        return i2t.mT.contiguous(), t2i.mT.contiguous(), kept
    return *_forward(x, y, kept), kept


def backward(
    x: Side, y: Side, grad_i2t: Tensor, grad_t2i: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of both sides' vectors."""
    if _turned(x, y):
        grad_y, grad_x = _backward(y, x, grad_t2i.mT, grad_i2t.mT, kept)
        return grad_x, grad_y
    return _backward(x, y, grad_i2t, grad_t2i, kept)


def kept_bytes(x: Side, y: Side) -> int:
    """How many bytes the arg-max indices take, 0 where that is more than they are worth."""
    if not (x.most and y.most):
        return 0
    if _turned(x, y):
        x, y = y, x
    vectors, each = x.most + y.most, _place_type(x, y).itemsize
    numbers = vectors * len(x.counts) * padded(len(y.counts)) * each
    return numbers if numbers <= memory_of(x.vectors.device) // 32 else 0


def _turned(x: Side, y: Side) -> bool:
    """Whether the kernels do better with texts and pictures exchanged: they hold the maxima of all
    vectors of one side, ``CHUNK`` of them at once."""
    return y.most > CHUNK and 0 < x.most < y.most


class _Room:
    """Memory for one block, used again for each."""

    def __init__(self, like: Tensor, dtype: torch.dtype | None = None) -> None:
        self.numbers = like.new_empty(0, dtype=dtype)

    def take(self, *shape: int) -> Tensor:
        size = math.prod(shape)
        if size > len(self.numbers):
            self.numbers = self.numbers.new_empty(size)
        return self.numbers[:size].view(shape)

    def similarity(self, a: Rows, b: Rows) -> Tensor:
        out = self.take(len(a.vectors), len(b.vectors))
        return torch.mm(a.vectors, b.vectors.mT, out=out)


class _Found(NamedTuple):
    """Where the maxima stand first: over N (P,I,T) and over P (I,N,T), T padded to ``ALIGNED``;
    both empty if not wanted."""

    first_n: Tensor
    first_p: Tensor

    def of(self, a: Rows, b: Rows) -> _Found:
        if not self.first_n.numel():
            return self
        columns = slice(b.rows.start, b.rows.start + len(b.counts))
        return _Found(
            self.first_n[: a.width, a.rows, columns], self.first_p[a.rows, : b.width, columns]
        )


def _forward(x: Side, y: Side, kept: Tensor) -> Maxima:
    i2t = x.vectors.new_zeros((len(x.counts), len(y.counts)), dtype=torch.float32)
    t2i = torch.zeros_like(i2t)
    if not (len(x.vectors) and len(y.vectors)):
        return i2t, t2i
    x_plan, y_plan = _plans(x, y)
    x_blocks, y_blocks = both_blocks(x_plan, y_plan)
    room, keys = _Room(x.vectors), _Room(i2t)
    found = _kept(kept, x_plan.side, y_plan.side)
    ragged = x_plan.ragged or y_plan.ragged
    for a in x_blocks:
        for b in y_blocks:
            scores = i2t[a.rows, b.rows], t2i[a.rows, b.rows]
            _reduce(room.similarity(a, b), a, b, scores, found.of(a, b), keys, ragged)
    return _as_they_came(i2t, x_plan, y_plan), _as_they_came(t2i, x_plan, y_plan)


def _backward(x: Side, y: Side, grad_i2t: Tensor, grad_t2i: Tensor, kept: Tensor) -> Maxima:
    sides = x, y
    grads = [s.vectors.new_zeros((len(s.vectors) + 1, s.vectors.shape[1])) for s in sides]
    if not (len(x.vectors) and len(y.vectors)):
        return grads[0][:-1], grads[1][:-1]
    x_plan, y_plan = _plans(x, y)
    unit, grad_i2t, grad_t2i = _in_range(grad_i2t, grad_t2i, x.vectors.dtype)
    grad_i2t, grad_t2i = (_as_planned(g, x_plan, y_plan) for g in (grad_i2t, grad_t2i))
    x_blocks, y_blocks = both_blocks(x_plan, y_plan)
    room, keys = _Room(x.vectors), _Room(grad_i2t)
    places = _Room(x.vectors, _place_type(x_plan.side, y_plan.side))
    found = _kept(kept, x_plan.side, y_plan.side)
    ragged = x_plan.ragged or y_plan.ragged
    sums_y = [torch.zeros_like(b.vectors, dtype=torch.float32) for b in y_blocks]
    for a in x_blocks:
        sum_x = torch.zeros_like(a.vectors, dtype=torch.float32)
        for b, sum_y in zip(y_blocks, sums_y, strict=True):
            first = found.of(a, b)
            if not len(kept):
                first = _again(room, a, b, keys, places, ragged)
            weights = room.take(len(a.vectors), len(b.vectors))
            _weigh(weights, a, b, grad_i2t[a.rows, b.rows], grad_t2i[a.rows, b.rows], first)
            add_product(sum_x, weights, b.vectors)
            add_product(sum_y, weights.mT, a.vectors)
        grads[0].index_copy_(0, a.places, (sum_x * unit).to(x.vectors.dtype))
    for b, sum_y in zip(y_blocks, sums_y, strict=True):
        grads[1].index_copy_(0, b.places, (sum_y * unit).to(y.vectors.dtype))
    return grads[0][:-1], grads[1][:-1]


def _again(room: _Room, a: Rows, b: Rows, keys: _Room, places: _Room, ragged: bool) -> _Found:
    """Where a block's maxima stand, from its product once more."""
    rows, columns = len(a.counts), len(b.counts)
    both = places.take((a.width + b.width) * rows * columns)
    first_n, first_p = both.split([a.width * rows * columns, b.width * rows * columns])
    found = _Found(first_n.view(a.width, rows, columns), first_p.view(rows, b.width, columns))
    i2t, t2i = keys.numbers.new_empty((2, rows, columns))
    _reduce(room.similarity(a, b), a, b, (i2t, t2i), found, keys, ragged)
    return found


def _reduce(
    similarity: Tensor, a: Rows, b: Rows, scores: Maxima, found: _Found, keys: _Room, ragged: bool
) -> None:
    """Fill in a block's ``scores``, i2t and t2i (a,c), and where its maxima stand if ``found``
    wants it."""
    rows, columns, keep = len(a.counts), len(b.counts), found.first_n.numel() > 0
    bits = 8 * found.first_n.itemsize
    if keep:
        found = _Found(*(part.view(torch.int16 if bits == 8 else torch.int32) for part in found))
    size, chunks = _chunks(b.width, CHUNK)
    programs = rows * triton.cdiv(columns, kernels.TEXTS.value)
    per_split, splits = _splits(a.width, programs * chunks, similarity.device)
    whole = chunks == splits == 1
    num_n, num_p = chunks * len(a.places) * columns, splits * len(b.places) * rows
    keys_n, keys_p = keys.take(0 if whole else num_n + num_p).tensor_split([0 if whole else num_n])
    sizes = rows, a.width, b.width, columns // 2, b.rows.stop - b.rows.start, scores[0].stride(0)
    options = {"KEEP": keep, "PLACE_BITS": bits, "FLOAT": _triton_type(similarity.dtype)}
    kernels.reduce[(programs * chunks * splits,)](
        similarity.view(torch.int32),
        a.counts,
        b.counts,
        *scores,
        keys_n,
        keys_p,
        *found,
        *sizes,
        *_strides(found),
        chunks,
        per_split,
        CHUNK=size,
        BLOCK_N=triton.next_power_of_2(size),
        EXACT=chunks * size == b.width,
        WHOLE=whole,
        RAGGED=ragged,
        PTX=kernels.PTX,
        COMPILED=kernels.COMPILED,
        num_warps=1,
        **registers(REGISTERS),
        **options,
    )
    if not whole:
        kernels.combine[(programs,)](
            keys_n,
            keys_p,
            a.counts,
            b.counts,
            *scores,
            *found,
            *sizes,
            *_strides(found),
            chunks,
            splits,
            BLOCK_K=COMBINED,
            **options,
        )


def _weigh(
    weights: Tensor, a: Rows, b: Rows, grad_i2t: Tensor, grad_t2i: Tensor, found: _Found
) -> None:
    """Fill in the gradient (P * a, N * c) of a block's similarities."""
    rows, columns = len(a.counts), len(b.counts)
    size, chunks = _chunks(b.width, WRITTEN)
    programs = rows * triton.cdiv(columns, kernels.TEXTS.value) * chunks
    per_split, splits = _splits(a.width, programs, weights.device)
    kernels.weigh[(programs * splits,)](
        weights,
        grad_i2t,
        grad_t2i,
        a.counts,
        b.counts,
        *found,
        rows,
        a.width,
        b.width,
        columns // ALIGNED,
        b.rows.stop - b.rows.start,
        grad_i2t.stride(0),
        *_strides(found),
        per_split,
        CHUNK=size,
        BLOCK_N=triton.next_power_of_2(size),
        num_warps=1,
    )


def _splits(width: int, programs: int, device: torch.device) -> tuple[int, int]:
    """How many of a picture's vectors one program takes, and how many programs share them: enough
    to fill the device."""
    wanted = -(-WARPS * processors_of(device) // programs)
    each = max(-(-width // wanted), min(width, FEWEST))
    return each, -(-width // each)


def _chunks(width: int, most: int) -> tuple[int, int]:
    """How many of a text's vectors are looked at once, at the most, and how often.

    Sizes are few, since each is a compilation.

    >>> _chunks(10, 32), _chunks(23, 32), _chunks(64, 32), _chunks(77, 32)
    ((10, 1), (24, 1), (32, 2), (28, 3))
    """
    size = -(-width // -(-width // most))
    size = size if size <= 16 else -(-size // 4) * 4
    return size, -(-width // size)


def _strides(found: _Found) -> tuple[int, ...]:
    if not found.first_n.numel():
        return 0, 0, 0, 0
    return *found.first_n.stride()[:2], *found.first_p.stride()[:2]


def _kept(kept: Tensor, x: Side, y: Side) -> _Found:
    """The kept bytes as places."""
    if not len(kept):
        return _Found(kept, kept)
    images, texts = len(x.counts), padded(len(y.counts))
    places = kept.view(_place_type(x, y))
    sizes = [x.most * images * texts, y.most * images * texts]
    first_n, first_p = places[: sum(sizes)].split(sizes)
    return _Found(first_n.view(-1, images, texts), first_p.view(images, -1, texts))


def _plans(x: Side, y: Side) -> tuple[Plan, Plan]:
    x_plan, y_plan = plans(x, y)
    if (most := max(x_plan.side.most, y_plan.side.most)) > MOST:
        raise ShapeError(f"a row has {most} vectors: on a GPU at most {MOST} are matched")
    return x_plan, y_plan


def _place_type(x: Side, y: Side) -> torch.dtype:
    return torch.uint8 if max(x.most, y.most) <= 256 else torch.int16


def _triton_type(dtype: torch.dtype) -> tl.dtype:
    return tl.bfloat16 if dtype == torch.bfloat16 else tl.float16


def _in_range(
    grad_i2t: Tensor, grad_t2i: Tensor, dtype: torch.dtype
) -> tuple[Tensor | float, Tensor, Tensor]:
    """Gradients that float16 can hold, and what to multiply by again."""
    if dtype != torch.float16:
        return 1.0, grad_i2t.contiguous(), grad_t2i.contiguous()
    unit = torch.maximum(grad_i2t.abs().amax(), grad_t2i.abs().amax())
    unit = unit.where(unit > 0, 1.0)
    return unit, (grad_i2t / unit).contiguous(), (grad_t2i / unit).contiguous()


def _as_planned(scores: Tensor, x: Plan, y: Plan) -> Tensor:
    for dim, plan in enumerate((x, y)):
        if plan.order is not None:
            scores = scores.index_select(dim, plan.order)
    return scores


def _as_they_came(scores: Tensor, x: Plan, y: Plan) -> Tensor:
    for dim, plan in enumerate((x, y)):
        if plan.order is not None:
            scores = scores.index_select(dim, plan.order.argsort())
    return scores
