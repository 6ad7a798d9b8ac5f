"""Patch vectors of a vision transformer in the space of its output vector.

A patch's own value, passed through the last attention's value and output weights without any
mixing of places, lies where the pooled vector lies (MaskCLIP; used by CLIPSelf and FineCLIP).
The last attention is that of the last block where the CLS token or a mean is the output, and
that of the pooling head where there is one (CoCa, SigLIP).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from intarsia.ops.attention import attend


def value_attention(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    """Attention of the CLS token; every patch keeps its own value.

    Args:
        q: (B,1,W), the query of the CLS token. k, v: (B,1+M,W), the CLS token first.

    Returns:
        (B,1+M,W), before the output projection.
    """
    return torch.cat([attend(q, k, v, None, num_heads), v[:, 1:]], dim=1)


def each_alone(pool: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    """An attention pool over one token at a time, (B,M,W) -> (B,M,W').

    With a single key the attention weight is 1, so this is the value path of the pool.
    """
    num_images, num_tokens, _ = tokens.shape
    return pool(tokens.flatten(0, 1).unsqueeze(1)).view(num_images, num_tokens, -1)
