"""What the Triton kernels of the contrastive losses do alike."""

from __future__ import annotations

import triton
import triton.language as tl

ROWS = tl.constexpr(16)
COLUMNS = tl.constexpr(512)
LN_2 = tl.constexpr(0.6931471805599453)
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def strip_of(rows, columns, strip):
    """The group, the rows (ROWS,) and the first and last + 1 column of this program."""
    strips = tl.cdiv(columns, strip)
    start = (tl.program_id(0) % strips) * strip
    r = line_of(rows, columns, strip) * ROWS + tl.arange(0, ROWS)
    group = tl.program_id(0) // (strips * tl.cdiv(rows, ROWS))
    return group, r, start, tl.minimum(start + strip, columns)


@triton.jit
def line_of(rows, columns, strip):
    return tl.program_id(0) // tl.cdiv(columns, strip) % tl.cdiv(rows, ROWS)


@triton.jit
def is_real(real, place, inside, MASKED: tl.constexpr):
    if MASKED:
        return tl.load(real + place, mask=inside, other=0) != 0
    else:
        return inside


@triton.jit
def is_same(first, x_ids, r, rows, num_ids, y_ids, c, columns):
    """(ROWS,COLUMNS) int32: whether a column has one of the row's ids, ``first`` or a further."""
    others = tl.load(y_ids + c, mask=c < columns, other=0)
    found = (first[:, None] == others[None]).to(tl.int32)
    for k in range(1, num_ids):
        further = tl.load(x_ids + r * num_ids + k, mask=r < rows, other=-1)
        found = found | (further[:, None] == others[None]).to(tl.int32)
    return found


@triton.jit
def logits_of(scores, line, c, inside, wanted, high):
    """(ROWS,COLUMNS) in units of log 2, -inf where not ``wanted``."""
    numbers = tl.load(scores + line[:, None] + c[None], mask=inside, other=0.0)
    return tl.where(wanted, numbers * high, float("-inf"))


@triton.jit
def share_of(counts, num, place, inside):
    """What each positive of a row costs it."""
    found = tl.load(counts + place, mask=inside, other=0).to(tl.float32)
    return tl.where(found > 0, 0.5 / (found * tl.load(num).to(tl.float32)), 0.0)


@triton.jit
def finite(top):
    return tl.where(top == float("-inf"), 0.0, top)


@triton.jit
def cost_of(gap, hits):
    """softplus of ``gap`` (in units of log 2) and its derivative, 0 outside of ``hits``."""
    cost = (tl.maximum(gap, 0.0) + tl.log2(1.0 + tl.exp2(-tl.abs(gap)))) * LN_2
    return tl.where(hits, cost, 0.0), tl.where(hits, slope_of(gap), 0.0)


@triton.jit
def slope_of(gap):
    """The sigmoid of ``gap`` (in units of log 2)."""
    small = tl.exp2(-tl.abs(gap))
    return tl.where(gap > 0, 1.0, small) / (1.0 + small)
