"""How a block of rows is compared with a block of columns, and how a gradient goes back."""

from __future__ import annotations

from collections.abc import Callable
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
        pull: bool,
    ) -> None:
        self.x, self.y = (side.detach().requires_grad_(pull) for side in (x, y))
        with torch.set_grad_enabled(pull):
            self.scores = function(self.x, self.y, x_mask, y_mask)
        i2t, t2i = (way.detach()[None] for way in self.scores)
        alike = self.scores[0] is self.scores[1]
        super().__init__(i2t, i2t if alike else t2i, i2t.dtype)

    def pull(self, i2t: Tensor, t2i: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        alike = self.i2t is self.t2i  # then the gradient comes once
        ways = (
            [(self.scores[0], i2t[0])] if alike else zip(self.scores, (i2t[0], t2i[0]), strict=True)
        )
        outputs, grads = zip(*ways, strict=True)
        grad_x, grad_y = torch.autograd.grad(outputs, [self.x, self.y], grads)
        return grad_x, grad_y
