"""The passes of fine-grained matching over blocks of similarities.

A block is the product of all vectors of a few rows of x with those of a few rows of y. Its layout
is "vectors major": (P,a,N,c) for a rows of x with P vectors each and c rows of y with N each. Both
maxima then run over whole contiguous slabs of numbers, at the speed of the cache they lie in.

Rows are taken in order of their number of vectors, so a block is hardly padded; what padding there
is repeats a row's first vector, which changes no maximum.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from intarsia.ops.devices import memory_of
from intarsia.ops.matching_parts import Block, Maxima, Results, Room, Side

# Similarities in a block, and rows of y. On CPU a block stays in cache (3 MB in bfloat16; half of
# that is faster where only the maxima are wanted), and with fewer rows the slabs would be too
# narrow for vector instructions. The compiled kernel reads a block once, so it may be larger, and
# gives each thread a few blocks where that leaves them large enough.
AT_ONCE = {"cpu": (2560 * 640, 64), "compiled": (2500 * 1280, 128)}
FEWEST = 2**18
KEPT_BYTES = 2**28  # of arg-max indices kept for the backward pass; beyond, it computes them again


def forward(x: Side, y: Side, keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """``i2t`` and ``t2i`` (I,T), and ``keep`` bytes of arg-max indices, none if 0."""
    wide = torch.promote_types(x.vectors.dtype, torch.float32)
    i2t = x.vectors.new_zeros((len(x.counts), len(y.counts)), dtype=wide)
    t2i = torch.zeros_like(i2t)
    kept = torch.zeros(keep, dtype=torch.uint8, device=x.vectors.device)
    results = Results(i2t, t2i, *_places(kept, x, y))
    x_order, y_order = _order(x.counts), _order(y.counts)
    compiled = _compiled() if x.vectors.is_cpu and x.vectors.dtype == torch.bfloat16 else None
    if compiled is not None:
        compiled.fill(*_both_blocks(x, x_order, y, y_order, "compiled"), results)
    else:
        smaller = 1 if keep else 2
        _fill(*_both_blocks(x, x_order, y, y_order, smaller=smaller), results)
    return _reordered(i2t, x_order, y_order), _reordered(t2i, x_order, y_order), kept


def kept_bytes(x: Side, y: Side) -> int:
    """How many bytes the arg-max indices take, 0 where that is more than they are worth."""
    numbers = len(x.counts) * len(y.counts) * (x.most + y.most)
    small = x.most and y.most and max(x.most, y.most) <= 256 and numbers <= KEPT_BYTES
    return numbers if small else 0


def _fill(x_blocks: Iterable[Block], y_blocks: Sequence[Block], results: Results) -> None:
    """Fill in the results of every block of x with every block of y."""
    room = None
    for a in x_blocks:
        room = room or Room(a.vectors)
        for b in y_blocks:
            similarity = room.similarity(a, b)
            if len(results.first_n):
                over_y, over_x, first_n, first_p = maxima_and_first(similarity)
                results.first_n[: len(first_n), a.rows, b.rows] = first_n
                results.first_p[a.rows, : first_p.shape[1], b.rows] = first_p
            else:
                over_y, over_x = maxima(similarity)
            results.i2t[a.rows, b.rows] = _means(over_y, a, 0)
            results.t2i[a.rows, b.rows] = _means(over_x, b, 1)


@cache
def _compiled() -> ModuleType | None:
    """:mod:`intarsia.ops.matching_cpu`, where numba is installed and works."""
    if find_spec("numba") is None:
        return None
    try:
        return import_module("intarsia.ops.matching_cpu")
    except ImportError as error:  # as of a numba that is too old for this numpy
        logging.getLogger(__name__).warning("matching without its compiled kernel: %s", error)
        return None


def backward(
    x: Side, y: Side, grad_i2t: Tensor, grad_t2i: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of both sides' vectors."""
    wide = grad_i2t.dtype
    grad_x = torch.zeros_like(x.vectors)
    grad_y = torch.zeros_like(y.vectors)
    x_order, y_order = _order(x.counts), _order(y.counts)
    grad_i2t, grad_t2i = grad_i2t[x_order][:, y_order], grad_t2i[x_order][:, y_order]
    x_blocks, y_blocks = _both_blocks(x, x_order, y, y_order)
    room = Room(x.vectors)
    sums_y = [torch.zeros_like(b.vectors, dtype=wide) for b in y_blocks]
    first_n, first_p = _places(kept, x, y)
    for a in x_blocks:
        sum_x = torch.zeros_like(a.vectors, dtype=wide)
        for b, sum_y in zip(y_blocks, sums_y, strict=True):
            if len(kept):
                first = (
                    first_n[: len(a.places), a.rows, b.rows],
                    first_p[a.rows, : len(b.places), b.rows],
                )
            else:
                first = maxima_and_first(room.similarity(a, b))[2:]
            weights = _weights(a, b, grad_i2t[a.rows, b.rows], grad_t2i[a.rows, b.rows], first)
            sum_x += weights @ b.vectors
            sum_y += weights.mT @ a.vectors
        _spread(grad_x, a, sum_x)
    for b, sum_y in zip(y_blocks, sums_y, strict=True):
        _spread(grad_y, b, sum_y)
    return grad_x, grad_y


def maxima(similarity: Tensor) -> Maxima:
    """Of (P,a,N,c): the maxima over N (P,a,c) and over P (a,N,c)."""
    if not _as_integers(similarity):
        return similarity.amax(2), similarity.amax(0)
    bits = similarity.view(torch.int16)
    return _top(bits, 2).view(similarity.dtype), _top(bits, 0).view(similarity.dtype)


def maxima_and_first(similarity: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The maxima over N and over P, and where each stands first (int64 or less)."""
    p, _, n, _ = similarity.shape
    if not _as_integers(similarity) or max(p, n) > 256:
        over_y, first_n = similarity.max(2)
        over_x, first_p = similarity.max(0)
        return over_y, over_x, first_n, first_p
    # One integer holds the number, then 255 - n, then 255 - p: its maximum is the first of equals.
    device = similarity.device
    place_p = torch.arange(255, 255 - p, -1, dtype=torch.int32, device=device)
    place_n = torch.arange(255, 255 - n, -1, dtype=torch.int32, device=device) * 256
    keys = _ordered(similarity.view(torch.int16)).int().bitwise_left_shift_(16)
    keys.bitwise_or_(place_p.view(-1, 1, 1, 1) + place_n.view(-1, 1))
    best_n, best_p = keys.amax(2), keys.amax(0)
    over_y, over_x = (
        _ordered((best >> 16).to(torch.int16)).view(similarity.dtype) for best in (best_n, best_p)
    )
    return over_y, over_x, 255 - (best_n >> 8 & 255), 255 - (best_p & 255)


def _as_integers(x: Tensor) -> bool:
    """On CPU 16-bit floats are compared as integers, several times faster."""
    return x.is_cpu and x.itemsize == 2


def _top(bits: Tensor, dim: int) -> Tensor:
    """The maximum of 16-bit floats by their bits: of negative numbers that is the least integer."""
    top = bits.amax(dim)
    if top.numel() and int(top.amin()) < 0:
        least = bits.amin(dim)
        top ^= (top ^ least) & (top >> 15)
    return top


def _ordered(bits: Tensor) -> Tensor:
    """Bits of 16-bit floats <-> integers in the same order: a negative number's are turned over."""
    return (bits >> 15).bitwise_and_(0x7FFF).bitwise_xor_(bits)


def _means(over: Tensor, block: Block, dim: int) -> Tensor:
    """Of a block's K maxima, at ``dim`` of ``over``; the block's own weights where rows differ."""
    wide = block.weights.dtype
    if block.even:
        return over.sum(dim, dtype=wide).div_(len(block.places))
    weights = block.weights if dim else block.weights[:, :, None]
    return (over * weights).sum(dim)


def _weights(a: Block, b: Block, grad_i2t: Tensor, grad_t2i: Tensor, first: Maxima) -> Tensor:
    """(P * a, N * c): the gradient of the block's similarities."""
    (p, rows), (n, columns) = a.places.shape, b.places.shape
    weights = a.vectors.new_zeros((p, rows, n, columns))
    by_x = (grad_i2t * a.weights[:, :, None]).to(weights.dtype)
    by_y = (grad_t2i[:, None] * b.weights).to(weights.dtype)
    weights.scatter_(2, first[0].long().unsqueeze(2), by_x.unsqueeze(2))
    weights.scatter_add_(0, first[1].long().unsqueeze(0), by_y.unsqueeze(0))
    return weights.view(p * rows, n * columns)


def _blocks(side: Side, order: Tensor, at_once: int) -> Iterator[Block]:
    """The side's rows that have any vectors, most vectors first, ``at_once`` vectors at a time."""
    starts, counts = side.starts[order], side.counts[order]
    sizes = counts.tolist()
    wide = torch.promote_types(side.vectors.dtype, torch.float32)
    row, end = 0, sum(size > 0 for size in sizes)
    while row < end:
        rows = slice(row, min(row + max(1, at_once // sizes[row]), end))
        k = torch.arange(sizes[row], device=counts.device)[:, None]
        real = k < counts[rows]
        places = starts[rows] + k * real
        vectors = side.vectors.index_select(0, places.flatten())
        even = sizes[row] == sizes[rows.stop - 1]
        yield Block(rows, vectors, places, real / counts[rows].to(wide), even)
        row = rows.stop


def _both_blocks(
    x: Side, x_order: Tensor, y: Side, y_order: Tensor, way: str | None = None, smaller: int = 1
) -> tuple[Iterator[Block], list[Block]]:
    numbers, y_rows = AT_ONCE[way or "cpu"]
    if x.vectors.is_cuda:
        numbers = max(numbers, memory_of(x.vectors.device) // 1024 // x.vectors.itemsize)
    if way == "compiled":
        share = len(x.vectors) * len(y.vectors) // (4 * torch.get_num_threads())
        numbers = min(numbers, max(share, FEWEST))
    y_vectors = y_rows * max([1, *y.counts.tolist()])
    at_once = numbers // smaller // y_vectors
    return _blocks(x, x_order, at_once), list(_blocks(y, y_order, y_vectors))


def _order(counts: Tensor) -> Tensor:
    return counts.argsort(dim=0, descending=True, stable=True)


def _reordered(scores: Tensor, x_order: Tensor, y_order: Tensor) -> Tensor:
    """Scores of rows in order by count -> of rows as they came."""
    for dim, order in enumerate((x_order, y_order)):
        if (order.diff() != 1).any():
            scores = scores.index_select(dim, order.argsort())
    return scores


def _spread(grad: Tensor, block: Block, sums: Tensor) -> None:
    """Write a block's part of ``grad``.

    Products of equal vectors may round differently: what a repeated vector won is its original's.
    """
    real = block.weights > 0
    sums = sums.view(*real.shape, -1)
    sums[0] += sums.masked_fill(real[:, :, None], 0.0).sum(0)
    grad[block.places[real]] = sums[real].to(grad.dtype)


def _places(kept: Tensor, x: Side, y: Side) -> Maxima:
    """``first_n`` and ``first_p`` of :class:`Results` in the kept bytes."""
    rows, columns = len(x.counts), len(y.counts)
    p, n = (int(side.counts.max()) if len(kept) else 0 for side in (x, y))
    first_n, first_p = kept[: (p + n) * rows * columns].split(
        [p * rows * columns, n * rows * columns]
    )
    return first_n.view(p, rows, columns), first_p.view(rows, n, columns)
