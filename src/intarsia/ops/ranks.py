"""Contrasting one batch across processes: whoever computes a loss sees the rows of every rank.

Inside :func:`across_ranks` the losses of :mod:`intarsia.ops.contrastive` take each rank's own rows,
look at the other ranks' columns one rank at a time, and return on every rank the loss of the whole
batch. Nothing else has to know: methods keep calling the same functions.

Gradients follow the convention of ``torch.distributed.nn``: the objective is the SUM of the losses
of all ranks, which are all alike. A weight's gradient, AVERAGED over the ranks as DDP does, is then
what one process with the whole batch would give it. Every rank must run the same forward and
backward passes, also one without any rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


class Ranks:
    """The processes that share one batch; without a group this process is alone."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.size = 1 if group is None else dist.get_world_size(group)

    def each(self, x: Tensor) -> Iterator[Tensor]:
        """Every rank's ``x`` in rank order, without gradients; two of them exist at a time, since
        the next is on its way while one is looked at.

        They may differ in shape, but not in the number of axes.
        """
        if self.group is None:
            yield x
            return
        coming = None
        for peer, shape in enumerate(self._shapes(x)):
            part = x.detach().contiguous() if peer == self.rank else x.new_empty(shape)
            root = dist.get_global_rank(self.group, peer)
            sent = part, dist.broadcast(part, root, self.group, async_op=True)
            if coming is not None:
                yield _arrived(*coming)
            coming = sent
        assert coming is not None
        yield _arrived(*coming)

    def gather(self, x: Tensor) -> list[Tensor]:
        """Every rank's ``x`` in rank order, without gradients; the first axis of any length."""
        if self.group is None:
            return [x]
        lengths = [shape[0] for shape in self._shapes(x)]
        padded = F.pad(x, (0, 0) * (x.ndim - 1) + (0, max(lengths) - len(x)))
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded, group=self.group)
        return [part[:length] for part, length in zip(parts, lengths, strict=True)]

    def own(self, parts: list[Tensor]) -> slice:
        """Where this rank's part lies among those of all, one behind the other."""
        start = sum(len(part) for part in parts[: self.rank])
        return slice(start, start + len(parts[self.rank]))

    def sum_at(self, peer: int, x: Tensor) -> Tensor:
        """The sum of all ranks' ``x``, on the rank ``peer``; unspecified on the others."""
        if self.group is not None:
            x = x.contiguous()
            dist.reduce(x, dist.get_global_rank(self.group, peer), group=self.group)
        return x

    def sum(self, x: Tensor) -> Tensor:
        """The sum of all ranks' ``x``, on every rank, with gradients."""
        if self.group is None:
            return x
        total: Tensor = _Sum.apply(x, self)
        return total

    def mean(self, x: Tensor, real: Tensor) -> Tensor:
        """The mean of all ranks' ``real`` numbers, with gradients; 0 where there are none."""
        count = self.sum(real.sum().to(x.dtype))
        return self.sum(x.where(real, 0.0).sum()) / count.clamp(min=1)

    def logsumexp(self, x: Tensor) -> Tensor:
        """Over the first axis and all ranks, with gradients; where all is -inf, so is the sum."""
        total: Tensor = _LogSumExp.apply(x, self)
        return total

    def reduced(self, x: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        """``x`` of all ranks combined, without gradients."""
        if self.group is None:
            return x
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x, operation, self.group)
        return x

    def _shapes(self, x: Tensor) -> list[list[int]]:
        mine = torch.tensor(x.shape, device=x.device)
        shapes = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(shapes, mine, group=self.group)
        return [shape.tolist() for shape in shapes]


def _arrived(part: Tensor, work: dist.Work | None) -> Tensor:
    if work is not None:
        work.wait()
    return part


ALONE = Ranks()
_current: ContextVar[Ranks] = ContextVar("ranks", default=ALONE)


@contextmanager
def across_ranks(group: dist.ProcessGroup | None = None) -> Iterator[None]:
    """Losses computed inside see the rows of all ranks of ``group`` (None = all there are).

    The backward pass may come after the block.
    """
    token = _current.set(Ranks(dist.group.WORLD if group is None else group))
    try:
        yield
    finally:
        _current.reset(token)


def current_ranks() -> Ranks:
    return _current.get()


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.reduced(x, dist.ReduceOp.SUM)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.reduced(grads[0], dist.ReduceOp.SUM), None


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        top = ranks.reduced(x.amax(0), dist.ReduceOp.MAX)
        base = top.masked_fill(top.isneginf(), 0.0)
        total = ranks.reduced((x - base).exp_().sum(0), dist.ReduceOp.SUM).log_() + base
        ctx.ranks = ranks
        ctx.save_for_backward(x, total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        x, total = ctx.saved_tensors
        grad = ctx.ranks.reduced(grads[0], dist.ReduceOp.SUM)
        return (x - total.masked_fill(total.isneginf(), 0.0)).exp_() * grad, None
