"""What the contrastive losses ask of one block of scores, by Triton kernels.

The same three questions as in :mod:`intarsia.ops.contrast_blocks`, each answered in one reading of
the block and without a wait for the device. Scores are float32.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from intarsia.ops import contrast_kernels as kernels
from intarsia.ops.contrast_blocks import Costs, Labelled, Labels, Sums, Weights
from intarsia.ops.contrast_parts import COLUMNS, ROWS
from intarsia.ops.devices import memory_of, processors_of, registers
from intarsia.ops.scores import Scores

PROGRAMS = 8  # of a processor that are wanted


def counts(ids: Tensor, real: Tensor | None, others: Labelled) -> tuple[Tensor, Tensor]:
    """How many of ``others`` have each id (A,), and how many ids any have."""
    found = torch.empty_like(ids, dtype=torch.int32)
    num = torch.zeros((), dtype=torch.int32, device=ids.device)
    others_ids, others_real = others
    masks = (ids if real is None else real), (others_ids if others_real is None else others_real)
    kernels.count[(triton.cdiv(len(ids), ROWS.value),)](
        ids,
        masks[0],
        others_ids,
        masks[1],
        found,
        num,
        len(ids),
        len(others_ids),
        MASKED=real is not None,
    )
    return found, num


def negatives(scores: Scores, scale: Tensor, x: Labels, y: Labels) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of the negatives of each row (G,a) and of each column (G,c), -inf for none."""
    groups, rows, columns = scores.i2t.shape
    total = Sums(scores.i2t.new_empty((groups, rows)), scores.i2t.new_empty((groups, columns)))
    _negatives(scores, scale, x, y, total, add=False)
    return total


def add_negatives(scores: Scores, scale: Tensor, x: Labels, y: Labels, total: Sums) -> None:
    """Add them to the ``total`` of earlier blocks."""
    _negatives(scores, scale, x, y, total, add=True)


def _negatives(
    scores: Scores, scale: Tensor, x: Labels, y: Labels, total: Sums, *, add: bool
) -> None:
    shape = _Shape(scores)
    rows = scores.i2t.new_empty((shape.groups, shape.strips, shape.rows))
    columns = scores.i2t.new_empty((shape.groups, shape.row_blocks, shape.columns))
    kernels.negatives[shape.grid](
        *_inputs(scores, scale, x, y),
        *_left_out(x, y),
        rows,
        columns,
        *shape.sizes,
        _num_ids(x.ids),
        1 if x.left_out is None else _num_ids(x.left_out),
        **_options(scores, x),
        LEFT=x.left_out is not None,
        num_warps=8,
        **registers(128),
    )
    for parts, place in ((rows, total.rows), (columns, total.columns)):
        groups, num, size = parts.shape
        kernels.log_sum_exp[(groups * triton.cdiv(size, 64),)](
            parts,
            place,
            num,
            size,
            place.stride(0),
            ADD=add,
            PARTS=min(32, triton.next_power_of_2(num)),
            SIZE=64,
        )


def positives(scores: Scores, scale: Tensor, x: Labels, y: Labels, sums: Sums) -> Costs:
    """What the positives cost, given the ``sums`` of all their negatives."""
    shape = _Shape(scores)
    rows = scores.i2t.new_empty((shape.groups, shape.strips, 2, shape.rows))
    columns = scores.i2t.new_zeros((shape.groups, shape.row_blocks, 2, shape.columns))
    kernels.positives[shape.grid](
        *_inputs(scores, scale, x, y),
        *(side.contiguous() for side in sums),
        *(x.counts, y.counts, x.num, y.num),
        rows,
        columns,
        *shape.sizes,
        _num_ids(x.ids),
        **_options(scores, x),
        num_warps=16,
    )
    return Costs(*rows.sum(1).unbind(1), *columns.sum(1).unbind(1))


def aligned_positives(
    x: Tensor, y: Tensor, scale: Tensor, x_labels: Labels, y_labels: Labels, sums: Sums
) -> Costs:
    """:func:`positives` of the k-th vectors of rows (A,G,D) with the k-th of columns (C,G,D),
    where their scores are not at hand."""
    x, y = (side if side.stride(2) == 1 else side.contiguous() for side in (x, y))
    total = Costs.none(sums)
    columns = slice(0, len(y))
    of_column = max(1, 8 * x.shape[1] * len(y))  # bytes, for each ROWS rows
    step = ROWS.value * max(1, memory_of(x.device) // 1024 // of_column)
    for start in range(0, len(x), step):
        rows = slice(start, min(start + step, len(x)))
        some = x_labels.of(rows), y_labels, sums.of(rows, columns)
        total.add(_aligned_positives(x[rows], y, scale, *some), rows, columns)
    return total


def _aligned_positives(
    x: Tensor, y: Tensor, scale: Tensor, x_labels: Labels, y_labels: Labels, sums: Sums
) -> Costs:
    rows, groups, width = x.shape
    row_blocks = triton.cdiv(rows, ROWS.value)
    row_costs = x.new_empty((groups, 2, rows), dtype=torch.float32)
    column_costs = x.new_zeros((groups, row_blocks, 2, len(y)), dtype=torch.float32)
    kernels.aligned_positives[(groups * row_blocks,)](
        x,
        y,
        scale.float(),
        *_labels(x_labels, y_labels),
        *(side.contiguous() for side in sums),
        *(x_labels.counts, y_labels.counts, x_labels.num, y_labels.num),
        row_costs,
        column_costs,
        rows,
        len(y),
        width,
        _num_ids(x_labels.ids),
        *x.stride()[:2],
        *y.stride()[:2],
        MASKED=x_labels.real is not None,
        FEW=128,
        DEPTH=64,
    )
    return Costs(*row_costs.unbind(1), *column_costs.sum(1).unbind(1))


def weights(
    scores: Scores,
    scale: Tensor,
    x: Labels,
    y: Labels,
    sums: Sums,
    pulls: Sums,
    factor: Tensor,
) -> Weights:
    """``factor`` times the gradient of the block's logits by those of ``sums`` and by what the
    positives cost."""
    shape, same = _Shape(scores), scores.i2t is scores.t2i
    i2t = scores.i2t.new_empty(scores.i2t.shape, dtype=scores.kind)
    t2i = i2t if same else torch.empty_like(i2t)
    by_scale = scores.i2t.new_empty(shape.grid)
    kernels.weights[shape.grid](
        *_inputs(scores, scale, x, y),
        *_left_out(x, y),
        *(side.contiguous() for side in (*sums, *pulls)),
        *(x.counts, y.counts, x.num, y.num),
        i2t,
        t2i,
        by_scale,
        factor,
        *shape.sizes,
        _num_ids(x.ids),
        1 if x.left_out is None else _num_ids(x.left_out),
        **_options(scores, x),
        LEFT=x.left_out is not None,
        num_warps=16,
    )
    return Weights(i2t, t2i, by_scale)


class _Shape:
    """How a table (G,a,c) is cut into strips, one a program."""

    def __init__(self, scores: Scores) -> None:
        self.groups, self.rows, self.columns = scores.i2t.shape
        self.row_blocks = triton.cdiv(self.rows, ROWS.value)
        lines = max(1, self.groups * self.row_blocks)
        wanted = -(-PROGRAMS * processors_of(scores.i2t.device) // lines)
        tiles = triton.cdiv(self.columns, COLUMNS.value)
        self.strip = triton.cdiv(tiles, min(wanted, tiles)) * COLUMNS.value
        self.strips = triton.cdiv(self.columns, self.strip)
        self.grid = (self.groups * self.row_blocks * self.strips,)
        self.sizes = self.rows, self.columns, self.strip


def _inputs(scores: Scores, scale: Tensor, x: Labels, y: Labels) -> tuple[Tensor, ...]:
    tables = scores.i2t.contiguous(), scores.t2i.contiguous()
    return *tables, scale.float(), *_labels(x, y)


def _labels(x: Labels, y: Labels) -> tuple[Tensor, ...]:
    x_real, y_real = (side.ids if side.real is None else side.real for side in (x, y))
    return x.ids, y.ids, x_real, y_real


def _left_out(x: Labels, y: Labels) -> tuple[Tensor, ...]:
    return tuple(side.ids if side.left_out is None else side.left_out for side in (x, y))


def _num_ids(ids: Tensor) -> int:
    return ids.shape[1] if ids.ndim == 2 else 1


def _options(scores: Scores, x: Labels) -> dict[str, Any]:
    return {
        "MASKED": x.real is not None,
        "SAME": scores.i2t is scores.t2i,
    }
