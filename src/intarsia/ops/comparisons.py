"""How a block of rows is compared with a block of columns, and how a gradient goes back."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from intarsia.ops.matching import fine_grained_scores
from intarsia.ops.products import add_product, product
from intarsia.ops.scores import Scores


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


class MatchedScores(Scores):
    """Fine-grained matching, each direction with its own scores: (a,P,D), (c,N,D) -> (1,a,c)."""

    def __init__(
        self, x: Tensor, y: Tensor, x_mask: Tensor | None, y_mask: Tensor | None, *, pull: bool
    ) -> None:
        self.x, self.y = (side.detach().requires_grad_(pull) for side in (x, y))
        with torch.set_grad_enabled(pull):
            self.scores = fine_grained_scores(self.x, self.y, x_mask, y_mask)
        i2t, t2i = self.scores
        super().__init__(i2t.detach()[None], t2i.detach()[None], i2t.dtype)

    def pull(self, i2t: Tensor, t2i: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        grad_x, grad_y = torch.autograd.grad(self.scores, [self.x, self.y], [i2t[0], t2i[0]])
        return grad_x, grad_y
