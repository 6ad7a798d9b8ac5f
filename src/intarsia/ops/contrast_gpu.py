"""What the contrastive losses ask of one block of scores, by Triton kernels.

The same three questions as in :mod:`intarsia.ops.contrast_blocks`, each answered in one reading of
the block and without a wait for the device. Scores are float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
from torch import Tensor

from intarsia.ops import contrast_kernels as kernels
from intarsia.ops.contrast_blocks import Costs, Labels, Sums, Weights
from intarsia.ops.devices import processors_of

if TYPE_CHECKING:
    from intarsia.ops.comparisons import Scores

PROGRAMS = 8  # of a processor that are wanted
WARPS = 8  # of a program


def negatives(scores: Scores, scale: Tensor, x: Labels, y: Labels) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of the negatives of each row (G,a) and of each column (G,c), -inf for none."""
    shape = _Shape(scores)
    rows = scores.i2t.new_empty((shape.groups, shape.strips, shape.rows))
    columns = scores.i2t.new_empty((shape.groups, shape.row_blocks, shape.columns))
    kernels.negatives[shape.grid](
        *_inputs(scores, scale, x, y), rows, columns, *shape.sizes, **_options(scores, x)
    )
    return rows.logsumexp(1), columns.logsumexp(1)


def positives(scores: Scores, scale: Tensor, x: Labels, y: Labels, sums: Sums) -> Costs:
    """What the positives cost, given the ``sums`` of all their negatives."""
    shape = _Shape(scores)
    rows = scores.i2t.new_empty((shape.groups, shape.strips, 2, shape.rows))
    columns = scores.i2t.new_zeros((shape.groups, shape.row_blocks, 2, shape.columns))
    kernels.positives[shape.grid](
        *_inputs(scores, scale, x, y),
        *(side.contiguous() for side in sums),
        rows,
        columns,
        *shape.sizes,
        **_options(scores, x),
    )
    return Costs(*rows.sum(1).unbind(1), *columns.sum(1).unbind(1))


def weights(
    scores: Scores, scale: Tensor, x: Labels, y: Labels, sums: Sums, pulls: Sums
) -> Weights:
    """The gradient of the block's logits by those of ``sums`` and by the positives' shares."""
    shape, same = _Shape(scores), scores.i2t is scores.t2i
    i2t = torch.empty_like(scores.i2t, dtype=scores.kind)
    t2i = i2t if same else torch.empty_like(i2t)
    by_scale = scores.i2t.new_empty(shape.grid)
    kernels.weights[shape.grid](
        *_inputs(scores, scale, x, y),
        *(side.contiguous() for side in (*sums, *pulls)),
        x.shares,
        y.shares,
        i2t,
        t2i,
        by_scale,
        *shape.sizes,
        scores.unit,
        **_options(scores, x),
    )
    return Weights(i2t, t2i, by_scale.sum())


class _Shape:
    """How a table (G,a,c) is cut into strips, one a program."""

    def __init__(self, scores: Scores) -> None:
        self.groups, self.rows, self.columns = scores.i2t.shape
        self.row_blocks = triton.cdiv(self.rows, kernels.ROWS.value)
        wanted = -(-PROGRAMS * processors_of(scores.i2t.device) // (self.groups * self.row_blocks))
        tiles = triton.cdiv(self.columns, kernels.COLUMNS.value)
        self.strip = triton.cdiv(tiles, min(wanted, tiles)) * kernels.COLUMNS.value
        self.strips = triton.cdiv(self.columns, self.strip)
        self.grid = (self.groups * self.row_blocks * self.strips,)
        self.sizes = self.rows, self.columns, self.strip


def _inputs(scores: Scores, scale: Tensor, x: Labels, y: Labels) -> tuple[Tensor, ...]:
    x_real, y_real = (side.ids if side.real is None else side.real for side in (x, y))
    tables = scores.i2t.contiguous(), scores.t2i.contiguous()
    return *tables, scale.float(), x.ids, y.ids, x_real, y_real


def _options(scores: Scores, x: Labels) -> dict[str, Any]:
    return {"MASKED": x.real is not None, "SAME": scores.i2t is scores.t2i, "num_warps": WARPS}
