"""Multi-head attention on already projected queries, keys and values."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, num_heads: int) -> Tensor:
    """Scaled dot-product attention.

    On CPU the product is written out: there the backward pass of torch's fused kernel takes twice
    as long in bfloat16 (docs/performance.md).

    Args:
        q: (B,Q,D). k, v: (B,N,D). D is split over the heads.
        mask: (B,N) bool, True = may be attended to; a row without any gives zeros.

    Returns:
        (B,Q,D).
    """
    q, k, v = (x.unflatten(2, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))
    allowed = None if mask is None else mask[:, None, None]
    if q.is_cuda:
        out = F.scaled_dot_product_attention(q, k, v, allowed)
    else:
        scores = (q * q.shape[-1] ** -0.5) @ k.mT
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -1e4)
        out = scores.softmax(-1).to(v.dtype) @ v
    if allowed is not None:
        out = out.masked_fill(~allowed.any(3, keepdim=True), 0.0)
    return out.transpose(1, 2).flatten(2)
