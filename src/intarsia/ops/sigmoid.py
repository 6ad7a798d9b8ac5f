"""The sigmoid loss: whether a picture and a text belong together is asked of every pair on its own.

A pair of logit ``l = scale * score + bias`` costs ``softplus(-l)`` if the text is true of the
picture and ``softplus(l)`` if it is not; the costs of all pairs are summed and divided by the
number of pictures (SigLIP, Zhai et al. 2023, eq. 1). Every text that is true of a picture is a
positive of it, with the full weight of a pair (FLAIR's multi-positive loss).

No pair needs another's logit, so one pass over blocks finds the loss and, as far as a factor, all
gradients; there is nothing to compute again in the backward pass. Nothing bounds the sum of a row's
gradients either, so float16, whose range is narrow, is widened.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from intarsia.ops.blockwise import Table
from intarsia.ops.comparisons import PairScores
from intarsia.ops.contrast_blocks import Labels
from intarsia.ops.contrastive import Masks, Positives, table_of_scores
from intarsia.ops.devices import on
from intarsia.ops.scores import Scores
from intarsia.ops.true_texts import meets


def scored_sigmoid(
    scores: PairScores,
    x: Tensor,
    y: Tensor,
    masks: Masks,
    scale: Tensor,
    bias: Tensor,
    positives: Positives | None = None,
    *,
    numbers: int = 1,
) -> Tensor:
    """The sigmoid loss of any scores; where their two directions differ, the mean of both.

    Pictures and texts without a real vector are left out altogether. Inside
    :func:`intarsia.ops.ranks.across_ranks` every rank's pictures meet the texts of all.

    Args:
        scores: as of :func:`intarsia.ops.contrastive.scored_info_nce`.
        x: (A,...) vectors of the pictures.
        y: (C,...) vectors of the texts.
        masks: (A,P) and (C,N) bool, True = real; None = all real.
        scale: scalar, the inverse temperature.
        bias: scalar, the logit of a score of 0.
        positives: ids of the pictures, (A,) or (A,K), and of the texts (C,); None = row k belongs
            to column k alone.
        numbers: that ``scores`` makes for one pair, at most, which bounds its blocks.

    Returns:
        Scalar: the sum over pairs over the number of pictures; 0 where nothing is left.

    Raises:
        ShapeError: masks or ids do not fit.
    """
    x, y = (side.float() if side.dtype == torch.float16 else side for side in (x, y))
    table = table_of_scores(scores, x, y, masks, positives, numbers)
    with torch.autocast(x.device.type, enabled=False), on(x.device):
        loss: Tensor = _Sigmoid.apply(x, y, scale, bias, table, *table.learnt)
    return table.ranks.sum(loss)


class _Pass(NamedTuple):
    """The loss of this rank's rows, and its gradients by the rows, this rank's columns, scale,
    bias and what the scores have learnt; None where nobody asks."""

    loss: Tensor
    gradients: tuple[Tensor, ...] | None


class _Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, table: Table, *learnt: Tensor
    ) -> Tensor:
        found = _pass(x, y, scale, bias, table, any(ctx.needs_input_grad))
        ctx.save_for_backward(*(found.gradients or ()))
        ctx.types = [part.dtype for part in (x, y, scale, bias, *learnt)]
        return found.loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        found = zip(ctx.saved_tensors, ctx.types, strict=True)
        x, y, scale, bias, *learnt = ((grads[0] * own).to(kind) for own, kind in found)
        return x, y, scale, bias, None, *learnt


def _pass(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, table: Table, learns: bool) -> _Pass:
    wide = torch.promote_types(x.dtype, torch.float32)
    factor, offset = scale.to(wide).view(()), bias.to(wide).view(())
    num = _num_rows(x, table, wide)
    loss, by_scale, by_bias = x.new_zeros(3, dtype=wide)
    grad_x, grad_y = torch.zeros_like(x, dtype=wide), torch.zeros_like(y, dtype=wide)
    by_learnt = [torch.zeros_like(weight, dtype=wide) for weight in table.learnt]
    for peer in table.peers(y):
        theirs = grad_y if table.ranks.size == 1 else torch.zeros_like(peer.y, dtype=wide)
        for block in table.blocks(peer):
            scores = table.compare(x, peer, block, pull=learns)
            cost, weights = _block(scores, factor, offset, block.x, block.y)
            loss += cost
            if not learns:
                continue
            by_scale += sum((way * w).sum() for way, w in _ways(scores, weights))
            by_bias += sum(w.sum() for w in weights)
            pulls = [w[None].to(scores.kind) for w in weights]
            scores.add_pull(pulls[0], pulls[-1], grad_x[block.rows], theirs[block.own_columns])
            for total, part in zip(by_learnt, scores.by_learnt, strict=True):
                total += part
        theirs = theirs if table.ranks.size == 1 else table.ranks.sum_at(peer.rank, theirs)
        if peer.rank == table.ranks.rank:
            grad_y = theirs
    if not learns:
        return _Pass(loss / num, None)
    constants = (part.view_as(own) / num for part, own in ((by_scale, scale), (by_bias, bias)))
    share = factor / num
    own = (part.mul_(share) for part in (grad_x, grad_y, *by_learnt))
    return _Pass(loss / num, (next(own), next(own), *constants, *own))


def _block(
    scores: Scores, scale: Tensor, bias: Tensor, x: Labels, y: Labels
) -> tuple[Tensor, list[Tensor]]:
    """What a block's pairs cost, and the derivatives by the logits of each direction."""
    same = meets(x.ids, y.ids)
    real = None if x.real is None or y.real is None else x.real[:, None] & y.real
    ways = [scores.i2t[0]] if scores.i2t is scores.t2i else [scores.i2t[0], scores.t2i[0]]
    costs, weights = [], []
    for way in ways:
        logits = way.to(scale.dtype) * scale + bias
        cost = F.softplus(logits.where(~same, -logits))
        weight = logits.sigmoid_().sub_(same.to(logits.dtype))
        if real is not None:
            cost, weight = cost.where(real, 0.0), weight.where(real, 0.0)
        costs.append(cost.sum() / len(ways))
        weights.append(weight.div_(len(ways)))
    return torch.stack(costs).sum(), weights


def _ways(scores: Scores, weights: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip((scores.i2t[0], scores.t2i[0]), weights, strict=False))


def _num_rows(x: Tensor, table: Table, wide: torch.dtype) -> Tensor:
    """The real rows of all ranks, 1 where there are none."""
    real = table.x.real
    own = x.new_full((), len(x), dtype=wide) if real is None else real.sum().to(wide)
    return table.ranks.sum(own).clamp(min=1)
