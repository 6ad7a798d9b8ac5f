"""The Triton kernels of the contrastive losses on a GPU.

Each program goes through a strip of a table of scores (G,a,c) float32, ROWS rows high and
``strip`` columns wide, tile by tile, and leaves one partial result a row and one a column. Whether
a pair is a positive is seen from the ids where it stands, so that nothing is ever listed: a row has
``num_ids`` of them, next to one another. Logits are in units of log 2 inside.
"""

from __future__ import annotations

import triton
import triton.language as tl

from intarsia.ops.contrast_parts import (
    COLUMNS,
    LN_2,
    LOG2_E,
    ROWS,
    cost_of,
    finite,
    is_real,
    is_same,
    line_of,
    logits_of,
    share_of,
    slope_of,
    strip_of,
)


@triton.jit
def count(ids, real, others, others_real, counts, num, rows, columns, MASKED: tl.constexpr):
    """How many of ``others`` (columns,) have the id of each row, and to ``num`` the rows that have
    any."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    own = tl.load(ids + r, mask=r < rows, other=0)
    found = tl.zeros([ROWS], tl.int32)
    for start in range(0, columns, COLUMNS):
        c = start + tl.arange(0, COLUMNS)
        there = is_real(others_real, c, c < columns, MASKED)
        same = own[:, None] == tl.load(others + c, mask=c < columns, other=0)[None]
        found += tl.sum((same & there[None]).to(tl.int32), 1)
    found = tl.where(is_real(real, r, r < rows, MASKED), found, 0)
    tl.store(counts + r, found, mask=r < rows)
    tl.atomic_add(num, tl.sum((found > 0).to(tl.int32), 0))


@triton.jit
def negatives(
    i2t,  # (G,a,c) float32 scores
    t2i,
    scale,  # () float32
    x_ids,  # (a,num_ids) int64
    y_ids,  # (c,)
    x_real,  # (a,) bool
    y_real,
    x_left,  # (a,num_left) int64: a column with any of these is no negative
    y_left,  # (c,)
    row_sums,  # (G,strips,a) float32
    column_sums,  # (G,a/ROWS,c)
    rows,
    columns,
    strip,
    num_ids,
    num_left,
    MASKED: tl.constexpr,
    SAME: tl.constexpr,
    LEFT: tl.constexpr,
):
    """Log-sum-exp of the negatives of each row within a strip, and of each of its columns.

    A thread has four neighbouring columns of every row: what it finds of a row it keeps until the
    strip ends, and a column's part is whole inside of it.
    """
    group, r, start, stop = strip_of(rows, columns, strip)
    high = tl.load(scale) * LOG2_E
    ids = tl.load(x_ids + r * num_ids, mask=r < rows, other=0)
    row_real = is_real(x_real, r, r < rows, MASKED)
    line = group.to(tl.int64) * rows * columns + r.to(tl.int64) * columns
    top = tl.full([ROWS, COLUMNS // 4], float("-inf"), tl.float32)
    total = tl.zeros([ROWS, COLUMNS // 4], tl.float32)
    for c0 in range(start, stop, COLUMNS):
        c = c0 + tl.arange(0, COLUMNS)
        inside = (r < rows)[:, None] & (c < columns)[None]
        wrong = row_real[:, None] & is_real(y_real, c, c < columns, MASKED)[None]
        wrong = wrong & (is_same(ids, x_ids, r, rows, num_ids, y_ids, c, columns) == 0)
        if LEFT:
            left = tl.load(x_left + r * num_left, mask=r < rows, other=-1)
            wrong = wrong & (is_same(left, x_left, r, rows, num_left, y_left, c, columns) == 0)
        logits = logits_of(i2t, line, c, inside, wrong, high)
        fours = tl.reshape(logits, [ROWS, COLUMNS // 4, 4])
        new_top = tl.maximum(top, tl.max(fours, 2))
        base = finite(new_top)
        total = total * tl.exp2(top - base) + tl.sum(tl.exp2(fours - base[:, :, None]), 2)
        top = new_top
        if not SAME:
            logits = logits_of(t2i, line, c, inside, wrong, high)
        base = finite(tl.max(logits, 0))
        column = tl.log2(tl.sum(tl.exp2(logits - base[None]), 0)) + base
        strip_row = group.to(tl.int64) * tl.cdiv(rows, ROWS) + line_of(rows, columns, strip)
        place = strip_row * columns + c
        tl.store(column_sums + place, column * LN_2, mask=c < columns)
    base = finite(tl.max(top, 1))
    whole = tl.log2(tl.sum(total * tl.exp2(top - base[:, None]), 1)) + base
    place = (group * tl.cdiv(columns, strip) + start // strip) * rows + r
    tl.store(row_sums + place, whole * LN_2, mask=r < rows)


@triton.jit
def log_sum_exp(
    parts,
    total,
    num_parts,
    size,
    stride,
    ADD: tl.constexpr,
    PARTS: tl.constexpr,
    SIZE: tl.constexpr,
):
    """(G,num_parts,size) -> (G,size), -inf where all are; with what is there already if ADD."""
    blocks = tl.cdiv(size, SIZE)
    group = (tl.program_id(0) // blocks).to(tl.int64)
    place = (tl.program_id(0) % blocks) * SIZE + tl.arange(0, SIZE)
    top = tl.full([PARTS, SIZE], float("-inf"), tl.float32)
    found = tl.zeros([PARTS, SIZE], tl.float32)
    for start in range(0, num_parts, PARTS):
        part = start + tl.arange(0, PARTS)[:, None]
        inside = (part < num_parts) & (place < size)[None]
        source = parts + (group * num_parts + part) * size + place[None]
        numbers = tl.load(source, mask=inside, other=float("-inf")) * LOG2_E
        new_top = tl.maximum(top, numbers)
        base = finite(new_top)
        found = found * tl.exp2(top - base) + tl.exp2(numbers - base)
        top = new_top
    base = finite(tl.max(top, 0))
    whole = tl.log2(tl.sum(found * tl.exp2(top - base[None]), 0)) + base
    target = total + group * stride + place
    if ADD:
        before = tl.load(target, mask=place < size, other=float("-inf")) * LOG2_E
        base = finite(tl.maximum(whole, before))
        whole = tl.log2(tl.exp2(whole - base) + tl.exp2(before - base)) + base
    tl.store(target, whole * LN_2, mask=place < size)


@triton.jit
def positives(
    i2t,
    t2i,
    scale,
    x_ids,
    y_ids,
    x_real,
    y_real,
    row_lse,  # (G,a) float32: of all negatives
    column_lse,  # (G,c)
    x_counts,  # (a,) int32
    y_counts,
    x_num,  # () int32
    y_num,
    row_costs,  # (G,strips,2,a) float32
    column_costs,  # (G,a/ROWS,2,c), zero
    rows,
    columns,
    strip,
    num_ids,
    MASKED: tl.constexpr,
    SAME: tl.constexpr,
):
    """What the positives of each row cost within a strip and the derivative of that, and of each
    column; tiles without any are not even read."""
    group, r, start, stop = strip_of(rows, columns, strip)
    high = tl.load(scale) * LOG2_E
    r_inside = r < rows
    ids = tl.load(x_ids + r * num_ids, mask=r_inside, other=0)
    row_real = is_real(x_real, r, r_inside, MASKED)
    by_row = tl.load(row_lse + group * rows + r, mask=r_inside, other=0.0)
    row_share = share_of(x_counts, x_num, r, r_inside)
    line = group.to(tl.int64) * rows * columns + r.to(tl.int64) * columns
    cost, pull = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32)
    for c0 in range(start, stop, COLUMNS):
        c = c0 + tl.arange(0, COLUMNS)
        hits = is_same(ids, x_ids, r, rows, num_ids, y_ids, c, columns)
        hits = row_real[:, None] & is_real(y_real, c, c < columns, MASKED)[None] & (hits > 0)
        if tl.max(hits.to(tl.int32)) > 0:
            by_column = tl.load(column_lse + group * columns + c, mask=c < columns, other=0.0)
            inside = r_inside[:, None] & (c < columns)[None]
            logits = logits_of(i2t, line, c, inside, hits, high)
            gap, slope = cost_of(by_row[:, None] * LOG2_E - logits, hits)
            cost += tl.sum(gap, 1)
            pull += tl.sum(slope, 1)
            if not SAME:
                logits = logits_of(t2i, line, c, inside, hits, high)
            gap, slope = cost_of(by_column[None] * LOG2_E - logits, hits)
            share = share_of(y_counts, y_num, c, c < columns)
            strip_row = group.to(tl.int64) * tl.cdiv(rows, ROWS) + line_of(rows, columns, strip)
            place = strip_row * 2 * columns + c
            tl.store(column_costs + place, tl.sum(gap, 0) * share, mask=c < columns)
            tl.store(column_costs + place + columns, tl.sum(slope, 0) * share, mask=c < columns)
    place = (group * tl.cdiv(columns, strip) + start // strip) * 2 * rows + r
    tl.store(row_costs + place, cost * row_share, mask=r_inside)
    tl.store(row_costs + place + rows, pull * row_share, mask=r_inside)


@triton.jit
def aligned_positives(
    x,  # (a,G,D)
    y,  # (c,G,D)
    scale,
    x_ids,
    y_ids,
    x_real,
    y_real,
    row_lse,
    column_lse,
    x_counts,
    y_counts,
    x_num,
    y_num,
    row_costs,  # (G,1,2,a) float32
    column_costs,  # (G,a/ROWS,2,c), zero
    rows,
    columns,
    width,
    num_ids,
    x_stride_r,
    x_stride_g,
    y_stride_c,
    y_stride_g,
    MASKED: tl.constexpr,
    FEW: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """:func:`positives` from the vectors themselves: tiles without any are not even multiplied."""
    row_blocks = tl.cdiv(rows, ROWS)
    row_block, group = tl.program_id(0) % row_blocks, tl.program_id(0) // row_blocks
    r = row_block * ROWS + tl.arange(0, ROWS)
    high = tl.load(scale) * LOG2_E
    ids = tl.load(x_ids + r * num_ids, mask=r < rows, other=0)
    row_real = is_real(x_real, r, r < rows, MASKED)
    by_row = tl.load(row_lse + group * rows + r, mask=r < rows, other=0.0)
    cost, pull = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32)
    depth = tl.arange(0, DEPTH)
    left = x + group.to(tl.int64) * x_stride_g + r.to(tl.int64)[:, None] * x_stride_r
    for start in range(0, columns, FEW):
        c = start + tl.arange(0, FEW)
        hits = is_same(ids, x_ids, r, rows, num_ids, y_ids, c, columns) > 0
        hits = hits & row_real[:, None] & is_real(y_real, c, c < columns, MASKED)[None]
        if tl.max(hits.to(tl.int32)) > 0:
            right = y + group.to(tl.int64) * y_stride_g + c.to(tl.int64)[None] * y_stride_c
            logits = tl.zeros([ROWS, FEW], tl.float32)
            for d0 in range(0, width, DEPTH):
                d = d0 + depth
                own = (r < rows)[:, None] & (d < width)[None]
                theirs = (c < columns)[None] & (d < width)[:, None]
                a = tl.load(left + d[None], mask=own, other=0.0)
                b = tl.load(right + d[:, None], mask=theirs, other=0.0)
                logits = tl.dot(a, b, logits, input_precision="ieee")
            logits = tl.where(hits, logits * high, float("-inf"))
            gap, slope = cost_of(by_row[:, None] * LOG2_E - logits, hits)
            cost += tl.sum(gap, 1)
            pull += tl.sum(slope, 1)
            by_column = tl.load(column_lse + group * columns + c, mask=c < columns, other=0.0)
            gap, slope = cost_of(by_column[None] * LOG2_E - logits, hits)
            share = share_of(y_counts, y_num, c, c < columns)
            place = (group.to(tl.int64) * row_blocks + row_block) * 2 * columns + c
            tl.store(column_costs + place, tl.sum(gap, 0) * share, mask=c < columns)
            tl.store(column_costs + place + columns, tl.sum(slope, 0) * share, mask=c < columns)
    share = share_of(x_counts, x_num, r, r < rows)
    place = group * 2 * rows + r
    tl.store(row_costs + place, cost * share, mask=r < rows)
    tl.store(row_costs + place + rows, pull * share, mask=r < rows)


@triton.jit
def weights(
    i2t,
    t2i,
    scale,
    x_ids,
    y_ids,
    x_real,
    y_real,
    x_left,
    y_left,
    row_lse,
    column_lse,
    row_pulls,  # (G,a) float32: gradients of ``row_lse``
    column_pulls,
    x_counts,  # (a,) int32
    y_counts,
    x_num,  # () int32
    y_num,
    i2t_weights,  # (G,a,c), written
    t2i_weights,
    by_scale,  # (G,a/ROWS,strips) float32, written
    factor,  # () float32
    rows,
    columns,
    strip,
    num_ids,
    num_left,
    MASKED: tl.constexpr,
    SAME: tl.constexpr,
    LEFT: tl.constexpr,
):
    """The gradient of the logits, ``factor`` times, and without it its product with the scores."""
    group, r, start, stop = strip_of(rows, columns, strip)
    high = tl.load(scale) * LOG2_E
    r_inside = r < rows
    ids = tl.load(x_ids + r * num_ids, mask=r_inside, other=0)
    row_real = is_real(x_real, r, r_inside, MASKED)
    row_base = tl.load(row_lse + group * rows + r, mask=r_inside, other=0.0) * LOG2_E
    row_pull = tl.load(row_pulls + group * rows + r, mask=r_inside, other=0.0)
    row_share = share_of(x_counts, x_num, r, r_inside)
    line = group.to(tl.int64) * rows * columns + r.to(tl.int64) * columns
    times = tl.load(factor)
    total = tl.zeros([ROWS], tl.float32)
    for c0 in range(start, stop, COLUMNS):
        c = c0 + tl.arange(0, COLUMNS)
        c_inside = c < columns
        hits = is_same(ids, x_ids, r, rows, num_ids, y_ids, c, columns) > 0
        real = row_real[:, None] & is_real(y_real, c, c_inside, MASKED)[None]
        base = tl.load(column_lse + group * columns + c, mask=c_inside, other=0.0)
        base = base * LOG2_E
        pull = tl.load(column_pulls + group * columns + c, mask=c_inside, other=0.0)
        share = share_of(y_counts, y_num, c, c_inside)
        hits = real & hits
        if LEFT:
            left = tl.load(x_left + r * num_left, mask=r_inside, other=-1)
            others = is_same(left, x_left, r, rows, num_left, y_left, c, columns) == 0
            real = real & (hits | others)
        any_hit = tl.max(hits.to(tl.int32)) > 0
        inside = r_inside[:, None] & c_inside[None]
        target = line[:, None] + c[None]
        scores = tl.load(i2t + target, mask=inside, other=0.0)
        logits = scores * high
        weight = row_pull[:, None] * tl.exp2(logits - row_base[:, None])
        if SAME:
            weight += pull[None] * tl.exp2(logits - base[None])
        if any_hit:
            cost = row_share[:, None] * slope_of(row_base[:, None] - logits)
            if SAME:
                cost += share[None] * slope_of(base[None] - logits)
            weight = tl.where(hits, -cost, weight)
        weight = tl.where(real, weight, 0.0)
        total += tl.sum(weight * scores, 1)
        weight = (weight * times).to(i2t_weights.dtype.element_ty)
        tl.store(i2t_weights + target, weight, mask=inside)
        if not SAME:
            scores = tl.load(t2i + target, mask=inside, other=0.0)
            logits = scores * high
            weight = pull[None] * tl.exp2(logits - base[None])
            if any_hit:
                weight = tl.where(hits, -share[None] * slope_of(base[None] - logits), weight)
            weight = tl.where(real, weight, 0.0)
            total += tl.sum(weight * scores, 1)
            weight = (weight * times).to(t2i_weights.dtype.element_ty)
            tl.store(t2i_weights + target, weight, mask=inside)
    tl.store(by_scale + tl.program_id(0), tl.sum(total, 0))
