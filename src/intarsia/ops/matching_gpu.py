"""Fine-grained matching by the fused kernels of ``late-interaction-kernels`` (the extra ``gpu``).

They are used for 16-bit vectors on a GPU, eagerly: their float32 is not exact, and neither
``torch.compile`` nor ``torch.func`` looks into them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def usable(x: Tensor) -> bool:
    """Whether vectors like ``x`` can be matched by the kernels."""
    return (
        x.is_cuda
        and x.dtype in (torch.bfloat16, torch.float16)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and _installed()
    )


def fused_scores(x: Tensor, y: Tensor, x_mask: Tensor, y_mask: Tensor) -> tuple[Tensor, Tensor]:
    """``intarsia.ops.matching.fine_grained_scores`` with every mask given."""
    from late_interaction_kernels import maxsim

    def kernel(queries: Tensor, documents: Tensor, mask: Tensor, other: Tensor) -> Tensor:
        scores: Tensor = maxsim(queries, documents, mask, other, backward="unified")
        return scores

    return means_of_sums(kernel, x, y, x_mask, y_mask)


def means_of_sums(
    kernel: Kernel, x: Tensor, y: Tensor, x_mask: Tensor, y_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Both directions from a kernel that sums, over a row's real vectors, their best matches.

    A row without any is shown to the kernel whole and then scores 0.
    """
    x_real, y_real = x_mask.any(1), y_mask.any(1)
    x_shown, y_shown = x_mask | ~x_real[:, None], y_mask | ~y_real[:, None]
    both = x_real[:, None] & y_real
    i2t = kernel(x, y, x_shown, y_shown) / x_shown.sum(1)[:, None]
    t2i = kernel(y, x, y_shown, x_shown).mT / y_shown.sum(1)
    return i2t.where(both, 0.0), t2i.where(both, 0.0)


@cache
def _installed() -> bool:
    return find_spec("late_interaction_kernels") is not None
