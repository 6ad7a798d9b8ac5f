"""Matrix products of 16-bit vectors whose sums stay float32."""

from __future__ import annotations

import torch
from torch import Tensor


def product(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """(G,a,b) @ (G,b,c), summed in float32; on a GPU ``dtype`` is also what comes out."""
    if not left.is_cuda or left.dtype == dtype:
        return left @ right
    if len(left) == 1:
        return torch.mm(left[0], right[0], out_dtype=dtype)[None]
    return torch.bmm(left, right, out_dtype=dtype)


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total`` (a,c) += ``left`` (a,b) @ ``right`` (b,c), summed in the type of ``total``."""
    if left.dtype == total.dtype:
        torch.addmm(total, left, right, out=total)
    elif left.is_cuda:
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        torch.addmm(total, left.to(total.dtype), right.to(total.dtype), out=total)
