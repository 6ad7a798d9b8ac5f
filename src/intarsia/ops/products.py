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


def dots(x: Tensor, y: Tensor) -> Tensor:
    """(I,D), (T,D) -> (I,T) float32: one product a pair is cheap enough not to round it."""
    with torch.autocast(x.device.type, enabled=False):
        if _sums_wider(x, y):
            return torch.mm(x, y.mT, out_dtype=torch.float32)
        return x.float() @ y.float().mT


def _sums_wider(x: Tensor, y: Tensor) -> bool:
    """Whether a product of 16-bit numbers can come out in float32: on CUDA, without gradients."""
    return (
        x.is_cuda
        and x.dtype == y.dtype
        and x.itemsize == 2
        and not (x.requires_grad or y.requires_grad)
    )
