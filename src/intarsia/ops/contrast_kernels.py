"""The Triton kernels of the contrastive losses on a GPU.

Each program goes through a strip of a table of scores (G,a,c) float32, ROWS rows high and
``strip`` columns wide, tile by tile, and leaves one partial result a row and one a column. Whether
a pair is a positive is seen from the ids where it stands, so that nothing is ever listed. Logits
are in units of log 2 inside.
"""

from __future__ import annotations

import triton
import triton.language as tl

ROWS = tl.constexpr(32)
COLUMNS = tl.constexpr(128)
LN_2 = tl.constexpr(0.6931471805599453)
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def negatives(
    i2t,  # (G,a,c) float32 scores
    t2i,
    scale,  # () float32
    x_ids,  # (a,) int64
    y_ids,  # (c,)
    x_real,  # (a,) bool
    y_real,
    row_sums,  # (G,strips,a) float32
    column_sums,  # (G,a/ROWS,c)
    rows,
    columns,
    strip,
    MASKED: tl.constexpr,
    SAME: tl.constexpr,
):
    """Log-sum-exp of the negatives of each row within a strip, and of each of its columns."""
    group, r, start, stop = _strip(rows, columns, strip)
    high = tl.load(scale) * LOG2_E
    r_inside = r < rows
    ids = tl.load(x_ids + r, mask=r_inside, other=0)
    row_real = _real(x_real, r, r_inside, MASKED)
    line = group.to(tl.int64) * rows * columns + r.to(tl.int64) * columns
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for c0 in range(start, stop, COLUMNS):
        c = c0 + tl.arange(0, COLUMNS)
        hidden = _same(ids, y_ids, c, columns)
        wrong = row_real[:, None] & _real(y_real, c, c < columns, MASKED)[None] & (hidden == 0)
        logits = _logits(i2t, line, c, wrong, high)
        new_top = tl.maximum(top, tl.max(logits, 1))
        base = _finite(new_top)
        total = total * tl.exp2(top - base) + tl.sum(tl.exp2(logits - base[:, None]), 1)
        top = new_top
        if not SAME:
            logits = _logits(t2i, line, c, wrong, high)
        column_top = tl.max(logits, 0)
        base = _finite(column_top)
        column_total = tl.sum(tl.exp2(logits - base[None]), 0)
        place = (group * tl.cdiv(rows, ROWS) + _row_block(rows, columns, strip)) * columns + c
        tl.store(column_sums + place, (tl.log2(column_total) + base) * LN_2, mask=c < columns)
    strips = tl.cdiv(columns, strip)
    place = (group * strips + start // strip) * rows + r
    tl.store(row_sums + place, (tl.log2(total) + _finite(top)) * LN_2, mask=r_inside)


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
    row_costs,  # (G,strips,2,a) float32, zero
    column_costs,  # (G,a/ROWS,2,c)
    rows,
    columns,
    strip,
    MASKED: tl.constexpr,
    SAME: tl.constexpr,
):
    """What the positives of each row cost within a strip and the derivative of that, and of each
    column; tiles without any are not even read."""
    group, r, start, stop = _strip(rows, columns, strip)
    high = tl.load(scale) * LOG2_E
    r_inside = r < rows
    ids = tl.load(x_ids + r, mask=r_inside, other=0)
    row_real = _real(x_real, r, r_inside, MASKED)
    by_row = tl.load(row_lse + group * rows + r, mask=r_inside, other=0.0)
    line = group.to(tl.int64) * rows * columns + r.to(tl.int64) * columns
    cost, pull = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32)
    for c0 in range(start, stop, COLUMNS):
        c = c0 + tl.arange(0, COLUMNS)
        hits = _same(ids, y_ids, c, columns)
        hits = row_real[:, None] & _real(y_real, c, c < columns, MASKED)[None] & (hits > 0)
        if tl.max(hits.to(tl.int32)) > 0:
            by_column = tl.load(column_lse + group * columns + c, mask=c < columns, other=0.0)
            logits = _logits(i2t, line, c, hits, high)
            gap, slope = _cost(by_row[:, None] * LOG2_E - logits, hits)
            cost += tl.sum(gap, 1)
            pull += tl.sum(slope, 1)
            if not SAME:
                logits = _logits(t2i, line, c, hits, high)
            gap, slope = _cost(by_column[None] * LOG2_E - logits, hits)
            place = (
                group * tl.cdiv(rows, ROWS) + _row_block(rows, columns, strip)
            ) * 2 * columns + c
            tl.store(column_costs + place, tl.sum(gap, 0), mask=c < columns)
            tl.store(column_costs + place + columns, tl.sum(slope, 0), mask=c < columns)
    place = (group * tl.cdiv(columns, strip) + start // strip) * 2 * rows + r
    tl.store(row_costs + place, cost, mask=r_inside)
    tl.store(row_costs + place + rows, pull, mask=r_inside)


@triton.jit
def weights(
    i2t,
    t2i,
    scale,
    x_ids,
    y_ids,
    x_real,
    y_real,
    row_lse,
    column_lse,
    row_pulls,  # (G,a) float32: gradients of ``row_lse``
    column_pulls,
    row_shares,  # (a,) float32
    column_shares,  # (c,)
    i2t_weights,  # (G,a,c), written
    t2i_weights,
    by_scale,  # (G,a/ROWS,strips) float32, written
    rows,
    columns,
    strip,
    unit,
    MASKED: tl.constexpr,
    SAME: tl.constexpr,
):
    """The gradient of the logits, ``unit`` times, and its product with the scores."""
    group, r, start, stop = _strip(rows, columns, strip)
    high = tl.load(scale) * LOG2_E
    r_inside = r < rows
    ids = tl.load(x_ids + r, mask=r_inside, other=0)
    row_real = _real(x_real, r, r_inside, MASKED)
    row_base = tl.load(row_lse + group * rows + r, mask=r_inside, other=0.0) * LOG2_E
    row_pull = tl.load(row_pulls + group * rows + r, mask=r_inside, other=0.0)
    row_share = tl.load(row_shares + r, mask=r_inside, other=0.0)
    line = group.to(tl.int64) * rows * columns + r.to(tl.int64) * columns
    total = tl.zeros([ROWS], tl.float32)
    for c0 in range(start, stop, COLUMNS):
        c = c0 + tl.arange(0, COLUMNS)
        c_inside = c < columns
        hits = _same(ids, y_ids, c, columns) > 0
        real = row_real[:, None] & _real(y_real, c, c_inside, MASKED)[None]
        base = tl.load(column_lse + group * columns + c, mask=c_inside, other=0.0)
        base = base * LOG2_E
        pull = tl.load(column_pulls + group * columns + c, mask=c_inside, other=0.0)
        share = tl.load(column_shares + c, mask=c_inside, other=0.0)
        hits = real & hits
        any_hit = tl.max(hits.to(tl.int32)) > 0
        target = line[:, None] + c[None]
        scores = tl.load(i2t + target, mask=real, other=0.0)
        logits = scores * high
        weight = row_pull[:, None] * tl.exp2(logits - row_base[:, None])
        if SAME:
            weight += pull[None] * tl.exp2(logits - base[None])
        if any_hit:
            cost = row_share[:, None] * _slope(row_base[:, None] - logits)
            if SAME:
                cost += share[None] * _slope(base[None] - logits)
            weight = tl.where(hits, -cost, weight)
        weight = tl.where(real, weight, 0.0)
        total += tl.sum(weight * scores, 1)
        inside = r_inside[:, None] & c_inside[None]
        weight = (weight * unit).to(i2t_weights.dtype.element_ty)
        tl.store(i2t_weights + target, weight, mask=inside)
        if not SAME:
            scores = tl.load(t2i + target, mask=real, other=0.0)
            logits = scores * high
            weight = pull[None] * tl.exp2(logits - base[None])
            if any_hit:
                weight = tl.where(hits, -share[None] * _slope(base[None] - logits), weight)
            weight = tl.where(real, weight, 0.0)
            total += tl.sum(weight * scores, 1)
            weight = (weight * unit).to(t2i_weights.dtype.element_ty)
            tl.store(t2i_weights + target, weight, mask=inside)
    tl.store(by_scale + tl.program_id(0), tl.sum(total, 0))


@triton.jit
def _strip(rows, columns, strip):
    """The group, the rows (ROWS,) and the first and last + 1 column of this program."""
    strips = tl.cdiv(columns, strip)
    start = (tl.program_id(0) % strips) * strip
    r = _row_block(rows, columns, strip) * ROWS + tl.arange(0, ROWS)
    group = tl.program_id(0) // (strips * tl.cdiv(rows, ROWS))
    return group, r, start, tl.minimum(start + strip, columns)


@triton.jit
def _row_block(rows, columns, strip):
    return tl.program_id(0) // tl.cdiv(columns, strip) % tl.cdiv(rows, ROWS)


@triton.jit
def _real(real, place, inside, MASKED: tl.constexpr):
    if MASKED:
        return tl.load(real + place, mask=inside, other=0) != 0
    else:
        return inside


@triton.jit
def _same(ids, y_ids, c, columns):
    others = tl.load(y_ids + c, mask=c < columns, other=0)
    return (ids[:, None] == others[None]).to(tl.int32)


@triton.jit
def _logits(scores, line, c, inside, high):
    """(ROWS,COLUMNS) in units of log 2, -inf where not ``inside``."""
    numbers = tl.load(scores + line[:, None] + c[None], mask=inside, other=0.0)
    return tl.where(inside, numbers * high, float("-inf"))


@triton.jit
def _finite(top):
    return tl.where(top == float("-inf"), 0.0, top)


@triton.jit
def _cost(gap, hits):
    """softplus of ``gap`` (in units of log 2) and its derivative, 0 outside of ``hits``."""
    cost = (tl.maximum(gap, 0.0) + tl.log2(1.0 + tl.exp2(-tl.abs(gap)))) * LN_2
    return tl.where(hits, cost, 0.0), tl.where(hits, _slope(gap), 0.0)


@triton.jit
def _slope(gap):
    """The sigmoid of ``gap`` (in units of log 2)."""
    small = tl.exp2(-tl.abs(gap))
    return tl.where(gap > 0, 1.0, small) / (1.0 + small)
