"""The scores of a block of rows and columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor


class Scores(ABC):
    """``i2t`` and ``t2i`` (G,a,c) of a block; one and the same tensor where the direction makes no
    difference. ``kind`` is the type that their gradients are to have; after a ``pull``,
    ``by_learnt`` holds the gradients of what else the scores were made with."""

    def __init__(self, i2t: Tensor, t2i: Tensor, kind: torch.dtype) -> None:
        self.i2t, self.t2i, self.kind = i2t, t2i, kind
        self.by_learnt: Sequence[Tensor] = ()

    @abstractmethod
    def pull(self, i2t: Tensor, t2i: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The gradients of the rows (a,...) and columns (c,...) by those of the scores."""

    def add_pull(self, i2t: Tensor, t2i: Tensor, grad_x: Tensor, grad_y: Tensor) -> None:
        """Add them to ``grad_x`` and ``grad_y``."""
        by_row, by_column = self.pull(i2t, t2i, grad_x.dtype)
        grad_x += by_row
        grad_y += by_column
