"""The Triton kernels of fine-grained matching on a GPU.

A block of similarities lies "vectors major", (P,a,N,c) for a rows of x and c rows of y, so that
neighbouring threads look at neighbouring texts and every maximum stays inside one thread. One
program reads what one picture shares with 64 texts once, and takes of it both directions' maxima
with their first places.

16-bit similarities come two texts in a 32-bit word. Each is made a float32 whose upper half is the
similarity and whose lower half is its place, counted down for positive numbers and up for negative
ones: one maximum then finds the best and, of equals, the first. (-0 stands below 0, and what has
overflowed to infinity in bfloat16 comes out as NaN.)

With ``TRITON_INTERPRET=1`` the kernels run on the CPU, one program after the other.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton import knobs

TEXTS = tl.constexpr(64)  # of one program, which is one warp
LANES = tl.constexpr(32)
COMPILED = not knobs.runtime.interpret
PTX = COMPILED and torch.version.hip is None
LAST_PLACE = tl.constexpr(0xFFFF)


@triton.jit(do_not_specialize_on_alignment=["half"])
def reduce(
    similarity,  # (P,a,N,c/2) int32, two 16-bit floats each
    x_counts,  # (a,) int64
    y_counts,  # (c,) int64
    i2t,  # (a,c) float32, rows ``columns`` apart
    t2i,
    keys_n,  # (chunks,P,a,2,c/2) float32
    keys_p,  # (splits,a,N,2,c/2)
    first_n,  # (P,a,c/2) pairs of places
    first_p,  # (a,N,c/2)
    rows,
    num_p,
    num_n,
    half,
    texts,
    columns,
    n_stride_p,
    n_stride_i,
    p_stride_i,
    p_stride_n,
    chunks,
    per_split,
    CHUNK: tl.constexpr,
    BLOCK_N: tl.constexpr,
    EXACT: tl.constexpr,
    WHOLE: tl.constexpr,
    KEEP: tl.constexpr,
    RAGGED: tl.constexpr,
    FLOAT: tl.constexpr,
    PLACE_BITS: tl.constexpr,
    PTX: tl.constexpr,
    COMPILED: tl.constexpr,
):
    """The maxima of one picture with 64 texts, over CHUNK of their N vectors and over per_split of
    its P. If that is all of both (WHOLE), their means and places; else keys for :func:`combine`."""
    blocks = tl.cdiv(half, LANES)
    word = (tl.program_id(0) % blocks) * LANES + tl.max_contiguous(tl.arange(0, LANES), 2)
    i = (tl.program_id(0) // blocks % rows).to(tl.int64)
    chunk = tl.program_id(0) // (blocks * rows) % chunks
    split = tl.program_id(0) // (blocks * rows) // chunks
    row = tl.arange(0, BLOCK_N)[:, None]
    n = chunk * CHUNK + row
    inside = (row < CHUNK) & (word < half)[None]
    if not EXACT:
        inside = inside & (n < num_n)
    x_count = tl.load(x_counts + i).to(tl.int32)
    low_count = tl.load(y_counts + 2 * word, mask=word < half, other=0).to(tl.int32)
    high_count = tl.load(y_counts + 2 * word + 1, mask=word < half, other=0).to(tl.int32)
    low_real, high_real = inside, inside
    if RAGGED:
        low_real = inside & (n < low_count[None])
        high_real = inside & (n < high_count[None])

    start = split * per_split
    line = similarity + (start.to(tl.int64) * rows + i) * (num_n * half)
    found = first_n + start.to(tl.int64) * n_stride_p + i * n_stride_i + word
    best = keys_n + ((chunk * num_p + start).to(tl.int64) * rows + i) * (2 * half) + word
    tile = n * half + word[None]
    low_top = tl.full([BLOCK_N, LANES], float("-inf"), tl.float32)
    high_top = tl.full([BLOCK_N, LANES], float("-inf"), tl.float32)
    low_sum, high_sum = tl.zeros([LANES], tl.float32), tl.zeros([LANES], tl.float32)
    for p in range(start, tl.minimum(start + per_split, x_count)):
        low, high = _halves(tl.load(line + tile, mask=inside, other=0), PTX)
        low_top = _greater(low_top, _key(low, LAST_PLACE - p))
        high_top = _greater(high_top, _key(high, LAST_PLACE - p))
        low_key, high_key = _key(low, LAST_PLACE - n), _key(high, LAST_PLACE - n)
        if RAGGED or CHUNK < BLOCK_N or not EXACT:
            low_key = tl.where(low_real, low_key, float("-inf"))
            high_key = tl.where(high_real, high_key, float("-inf"))
        low_best, high_best = _greatest(low_key, COMPILED), _greatest(high_key, COMPILED)
        if not WHOLE:
            tl.store(best, low_best, mask=word < half)
            tl.store(best + half, high_best, mask=word < half)
        else:
            low_sum += _value(low_best, FLOAT)
            high_sum += _value(high_best, FLOAT)
            if KEEP:
                tl.store(found, _places(low_best, high_best, first_n, PLACE_BITS), mask=word < half)
        line += rows * (num_n * half)
        best += rows * (2 * half)
        found += n_stride_p

    if not WHOLE:
        keys = keys_p + ((split * rows + i) * num_n + n) * (2 * half) + word[None]
        tl.store(keys, low_top, mask=inside)
        tl.store(keys + half, high_top, mask=inside)
    else:
        if KEEP:
            target = first_p + i * p_stride_i + n.to(tl.int64) * p_stride_n + word[None]
            tl.store(target, _places(low_top, high_top, first_p, PLACE_BITS), mask=inside)
        low_means = tl.sum(tl.where(low_real, _value(low_top, FLOAT), 0.0), 0)
        high_means = tl.sum(tl.where(high_real, _value(high_top, FLOAT), 0.0), 0)
        out = i * columns + 2 * word
        _write(i2t + out, t2i + out, low_sum, low_means, x_count, low_count, 2 * word < texts)
        out += 1
        _write(
            i2t + out, t2i + out, high_sum, high_means, x_count, high_count, 2 * word + 1 < texts
        )


@triton.jit(do_not_specialize_on_alignment=["half"])
def combine(
    keys_n,  # (chunks,P,a,2,c/2) float32
    keys_p,  # (splits,a,N,2,c/2)
    x_counts,
    y_counts,
    i2t,
    t2i,
    first_n,
    first_p,
    rows,
    num_p,
    num_n,
    half,
    texts,
    columns,
    n_stride_p,
    n_stride_i,
    p_stride_i,
    p_stride_n,
    chunks,
    splits,
    BLOCK_K: tl.constexpr,
    KEEP: tl.constexpr,
    FLOAT: tl.constexpr,
    PLACE_BITS: tl.constexpr,
):
    """Means and places of one picture with 64 texts from the keys of all their parts."""
    blocks = tl.cdiv(half, LANES)
    word = (tl.program_id(0) % blocks) * LANES + tl.max_contiguous(tl.arange(0, LANES), 2)
    i = (tl.program_id(0) // blocks).to(tl.int64)
    row = tl.arange(0, BLOCK_K)[:, None]
    x_count = tl.load(x_counts + i).to(tl.int32)
    low_count = tl.load(y_counts + 2 * word, mask=word < half, other=0).to(tl.int32)
    high_count = tl.load(y_counts + 2 * word + 1, mask=word < half, other=0).to(tl.int32)

    low_sum, high_sum = tl.zeros([LANES], tl.float32), tl.zeros([LANES], tl.float32)
    for start in range(0, x_count, BLOCK_K):
        p = start + row
        inside = (p < x_count) & (word < half)[None]
        keys = keys_n + (p.to(tl.int64) * rows + i) * (2 * half) + word[None]
        low, high = _over_parts(
            keys, half, chunks, tl.cast(num_p, tl.int64) * rows * 2 * half, inside
        )
        low_sum += tl.sum(tl.where(inside, _value(low, FLOAT), 0.0), 0)
        high_sum += tl.sum(tl.where(inside, _value(high, FLOAT), 0.0), 0)
        if KEEP:
            target = first_n + p.to(tl.int64) * n_stride_p + i * n_stride_i + word[None]
            tl.store(target, _places(low, high, first_n, PLACE_BITS), mask=inside)

    low_means, high_means = tl.zeros([LANES], tl.float32), tl.zeros([LANES], tl.float32)
    for start in range(0, num_n, BLOCK_K):
        n = start + row
        inside = (n < num_n) & (word < half)[None]
        keys = keys_p + (i * num_n + n) * (2 * half) + word[None]
        low, high = _over_parts(
            keys, half, splits, tl.cast(num_n, tl.int64) * rows * 2 * half, inside
        )
        low_means += tl.sum(tl.where(n < low_count[None], _value(low, FLOAT), 0.0), 0)
        high_means += tl.sum(tl.where(n < high_count[None], _value(high, FLOAT), 0.0), 0)
        if KEEP:
            target = first_p + i * p_stride_i + n.to(tl.int64) * p_stride_n + word[None]
            tl.store(target, _places(low, high, first_p, PLACE_BITS), mask=inside)
    out = i * columns + 2 * word
    _write(i2t + out, t2i + out, low_sum, low_means, x_count, low_count, 2 * word < texts)
    out += 1
    _write(i2t + out, t2i + out, high_sum, high_means, x_count, high_count, 2 * word + 1 < texts)


@triton.jit
def weigh(
    weights,  # (P,a,N,c), written
    grad_i2t,  # (a,c) float32, rows ``columns`` apart
    grad_t2i,
    x_counts,
    y_counts,
    first_n,  # (P,a,c) places
    first_p,  # (a,N,c)
    rows,
    num_p,
    num_n,
    eighths,  # of c
    texts,
    columns,
    n_stride_p,
    n_stride_i,
    p_stride_i,
    p_stride_n,
    per_split,
    CHUNK: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """The gradient of a block's similarities: what each pair's scores took went to its maxima."""
    padded = eighths * 8
    blocks, chunks = tl.cdiv(padded, TEXTS), tl.cdiv(num_n, CHUNK)
    t = (tl.program_id(0) % blocks) * TEXTS + tl.max_contiguous(tl.arange(0, TEXTS), 2)
    i = (tl.program_id(0) // blocks % rows).to(tl.int64)
    row = tl.arange(0, BLOCK_N)[:, None]
    n = tl.minimum((tl.program_id(0) // (blocks * rows) % chunks) * CHUNK + row, num_n - 1)
    start = tl.program_id(0) // (blocks * rows) // chunks * per_split
    x_count = tl.load(x_counts + i).to(tl.int32)
    y_count = tl.load(y_counts + t, mask=t < padded, other=0).to(tl.int32)
    by_x = tl.load(grad_i2t + i * columns + t, mask=t < texts, other=0.0)
    by_y = tl.load(grad_t2i + i * columns + t, mask=t < texts, other=0.0)
    by_x = tl.where(y_count > 0, by_x / tl.maximum(x_count, 1), 0.0)
    by_y = by_y / tl.maximum(y_count, 1)
    inside = (row < CHUNK) & (t < padded)[None]
    real = inside & (n < y_count[None]) & (x_count > 0)
    places = first_p + i * p_stride_i + n.to(tl.int64) * p_stride_n + t[None]
    at_p = tl.where(real, tl.load(places, mask=real, other=0).to(tl.int32), num_p)

    found = first_n + start.to(tl.int64) * n_stride_p + i * n_stride_i + t
    line = weights + (start.to(tl.int64) * rows + i) * (num_n * padded) + (n * padded + t[None])
    for p in range(start, tl.minimum(start + per_split, num_p)):
        at_n = tl.load(found, mask=(t < padded) & (p < x_count), other=0).to(tl.int32)
        at_n = tl.where(p < x_count, at_n, num_n)
        weight = tl.where(at_n[None] == n, by_x[None], 0.0)
        weight += tl.where(at_p == p, by_y[None], 0.0)
        tl.store(line, weight.to(weights.dtype.element_ty), mask=inside)
        line += rows * (num_n * padded)
        found += n_stride_p


@triton.jit
def _write(i2t, t2i, best_sum, mean_sum, x_count, y_count, inside):
    """Both means of one picture with some texts; 0 where either has no vector."""
    both = (x_count > 0) & (y_count > 0)
    tl.store(i2t, tl.where(both, best_sum / tl.maximum(x_count, 1), 0.0), mask=inside)
    tl.store(t2i, tl.where(both, mean_sum / tl.maximum(y_count, 1), 0.0), mask=inside)


@triton.jit
def _over_parts(keys, half, parts, stride, inside):
    """The greatest of the keys of all parts, of both texts of each word."""
    low, high = (
        tl.full(inside.shape, float("-inf"), tl.float32),
        tl.full(inside.shape, float("-inf"), tl.float32),
    )
    for _ in range(parts):
        low = _greater(low, tl.load(keys, mask=inside, other=float("-inf")))
        high = _greater(high, tl.load(keys + half, mask=inside, other=float("-inf")))
        keys += stride
    return low, high


@triton.jit
def _halves(word, PTX: tl.constexpr):
    """Two 16-bit floats in an int32 -> two int32, the float's bits above, its sign's 16 times
    below."""
    if PTX:
        low = tl.inline_asm_elementwise(
            "prmt.b32 $0, $1, 0, 0x1099;", "=r,r", [word], dtype=tl.int32, is_pure=True, pack=1
        )
        high = tl.inline_asm_elementwise(
            "prmt.b32 $0, $1, 0, 0x32BB;", "=r,r", [word], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        low = word << 16
        low = low | ((low >> 31) & 0xFFFF)
        high = (word & -65536) | ((word >> 31) & 0xFFFF)
    return low, high


@triton.jit
def _key(half, countdown):
    return (half ^ countdown).to(tl.float32, bitcast=True)


@triton.jit
def _value(key, FLOAT: tl.constexpr):
    bits = (key.to(tl.int32, bitcast=True) >> 16).to(tl.int16)
    return bits.to(FLOAT, bitcast=True).to(tl.float32)


@triton.jit
def _place(key):
    bits = key.to(tl.int32, bitcast=True)
    return ((bits ^ (bits >> 31)) & 0xFFFF) ^ 0xFFFF


@triton.jit
def _places(low, high, target, PLACE_BITS: tl.constexpr):
    return (_place(low) | (_place(high) << PLACE_BITS)).to(target.dtype.element_ty)


@triton.jit
def _greater(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _greatest(keys, COMPILED: tl.constexpr):
    """Over the first axis, NaN if any is; the interpreter knows how to do that fast without NaN."""
    if COMPILED:
        return tl.reduce(keys, 0, _greater)
    else:
        return tl.max(keys, 0)
