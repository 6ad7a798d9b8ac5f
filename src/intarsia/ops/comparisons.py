"""How a block of rows is compared with a block of columns, and how a gradient goes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from intarsia.ops.products import add_product, product
from intarsia.ops.scores import Scores

PairScores = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], tuple[Tensor, Tensor]]
"""Vectors of rows and of columns and their masks -> both directions' scores (a,c)."""


class Comparison(Protocol):
    def __call__(
        self, x: Tensor, y: Tensor, x_mask: Tensor | None, y_mask: Tensor | None, *, pull: bool
    ) -> Scores:
        """Rows (a,...) with columns (c,...); ``pull``: gradients will be asked for."""
        ...


class AlignedScores(Scores):
    """The k-th vector of each row with the k-th of each column: (a,G,D), (c,G,D) -> (G,a,c)."""

    def __init__(
        self, x: Tensor, y: Tensor, x_mask: Tensor | None, y_mask: Tensor | None, *, pull: bool
    ) -> None:
        self.x, self.y = x.transpose(0, 1), y.transpose(0, 1)
        scores = product(self.x, self.y.mT, torch.promote_types(x.dtype, torch.float32))
        super().__init__(scores, scores, x.dtype)

    def pull(self, i2t: Tensor, t2i: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        by_row, by_column = product(i2t, self.y, dtype), product(i2t.mT, self.x, dtype)
        return by_row.transpose(0, 1), by_column.transpose(0, 1)

    def add_pull(self, i2t: Tensor, t2i: Tensor, grad_x: Tensor, grad_y: Tensor) -> None:
        if len(i2t) > 1:
            super().add_pull(i2t, t2i, grad_x, grad_y)
        else:
            add_product(grad_x[:, 0], i2t[0], self.y[0])
            add_product(grad_y[:, 0], i2t[0].mT, self.x[0])


class DifferentiatedScores(Scores):
    """Scores of any kind, (a,...), (c,...) -> (1,a,c) each way, with the gradients of autograd."""

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        x_mask: Tensor | None,
        y_mask: Tensor | None,
        *,
        function: PairScores,
        learnt: Sequence[Tensor] = (),
        pull: bool,
    ) -> None:
        self.x, self.y = (side.detach().requires_grad_(pull) for side in (x, y))
        self.learnt = learnt
        with torch.set_grad_enabled(pull):
            i2t, t2i = function(self.x, self.y, x_mask, y_mask)
            self.ways = [_widened(i2t)] if i2t is t2i else [_widened(i2t), _widened(t2i)]
        first, last = (way.detach()[None] for way in (self.ways[0], self.ways[-1]))
        super().__init__(first, first if i2t is t2i else last, first.dtype)

    def pull(self, i2t: Tensor, t2i: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        grad_x, grad_y, *self.by_learnt = torch.autograd.grad(
            self.ways,
            [self.x, self.y, *self.learnt],
            [i2t[0], t2i[0]][: len(self.ways)],
            allow_unused=True,
            materialize_grads=True,
        )
        return grad_x, grad_y


def _widened(scores: Tensor) -> Tensor:
    """Sums of 16-bit scores would be 16-bit."""
    return scores.float() if scores.itemsize == 2 else scores


def leaves_of(outputs: Iterable[Tensor]) -> list[Tensor]:
    """The tensors that gradients of some outputs end in, such as a layer's weights."""
    found, seen = [], set()
    waiting = [output.grad_fn for output in outputs]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [before for before, _ in node.next_functions]
    return found
