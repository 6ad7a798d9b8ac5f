"""Text-conditioned pooling: each text's query pools the patches of each picture (FLAIR).

Every text meets every picture's patches (FLAIR, Xiao et al., CVPR 2025, section 3.2). Keys and
values are projected once a picture and queries once a text; what is left for a pair are two small
products with the patches and one with the output projection, which are made a block of pictures and
texts at a time (:mod:`intarsia.ops.attended_blocks`), forward and backward.

On a GPU the type of the vectors, or autocast's, is the type of the products; on a CPU these are
float32, since blocks of this kind are slower in bfloat16. Softmax, norms and scores are float32 or
better anywhere.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from intarsia.errors import ConfigError, ShapeError
from intarsia.ops.attended_blocks import Projected, backward, forward


class AttentionPool(nn.Module):
    """One cross-attention with LayerNorm on queries, keys and values and one zero key and value.

    The zeros are something to attend to for a text that speaks of nothing in the picture. Vectors
    come normalised; LayerNorm takes them as if their norm were sqrt(D), so that it gives what it
    would have given before they were normalised.

    Args:
        width: D.
        num_heads: that D is split over.

    Raises:
        ConfigError: D cannot be split so.
    """

    def __init__(self, width: int, num_heads: int = 8) -> None:
        super().__init__()
        if num_heads < 1 or width % num_heads:
            fits = [n for n in range(1, min(width, 64) + 1) if width % n == 0]
            raise ConfigError(
                f"num_heads is {num_heads}, but the width {width} can be split over "
                f"{', '.join(map(str, fits))}"
            )
        self.attn = nn.MultiheadAttention(width, num_heads, add_zero_attn=True, batch_first=True)
        self.ln_q, self.ln_k, self.ln_v = (nn.LayerNorm(width, eps=1e-5 / width) for _ in range(3))

    def queries(self, y: Tensor) -> Tensor:
        """(T,D) -> (T,D), scaled for the product with keys."""
        scale = self.attn.head_dim**-0.5
        return self._project(self.ln_q, y, 0).mul(float(scale))

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(I,M,D) -> both (I,M,D)."""
        return self._project(self.ln_k, x, 1), self._project(self.ln_v, x, 2)

    def _project(self, norm: nn.Module, vectors: Tensor, part: int) -> Tensor:
        weights, bias = self.attn.in_proj_weight, self.attn.in_proj_bias
        return F.linear(
            norm(vectors.to(weights.dtype)), weights.chunk(3)[part], bias.chunk(3)[part]
        )


def attended_scores(
    x: Tensor, y: Tensor, pool: AttentionPool, x_mask: Tensor | None = None
) -> Tensor:
    """The cosine of every text with what it pools from every picture.

    Args:
        x: (I,M,D) normalised patches of the pictures.
        y: (T,D) normalised vectors of the texts, which are their queries, too.
        pool: the attention.
        x_mask: (I,M) bool, True = real; None = all real. Of a picture without any, nothing but the
            zero value is pooled.

    Returns:
        (I,T), float32 or better.

    Raises:
        ShapeError: widths, types, devices or the mask's shape do not fit.
    """
    _check(x, y, x_mask, pool)
    return _scores(_projected(x, y[None], pool, x_mask))


def attended_pairs(
    x: Tensor, y: Tensor, pool: AttentionPool, x_mask: Tensor | None = None
) -> Tensor:
    """:func:`attended_scores` of picture b with text b alone: (B,M,D), (B,D) -> (B,)."""
    _check(x, y, x_mask, pool)
    if len(x) != len(y):
        raise ShapeError(f"{len(x)} pictures cannot be paired with {len(y)} texts")
    return _scores(_projected(x, y[:, None], pool, x_mask))[:, 0]


def attention_of_pairs(
    x: Tensor, y: Tensor, pool: AttentionPool, x_mask: Tensor | None = None
) -> Tensor:
    """How much of text b's attention each patch of picture b gets, the mean over heads: (B,M).

    What is missing from a sum of 1 is attended to nothing.
    """
    _check(x, y, x_mask, pool)
    queries = pool.queries(y).unflatten(1, (pool.attn.num_heads, -1))
    keys = F.pad(pool.keys_and_values(x)[0], (0, 0, 0, 1)).unflatten(2, queries.shape[1:])
    logits = torch.einsum("bhd,bmhd->bhm", queries, keys)
    if x_mask is not None:
        logits[..., :-1].masked_fill_(~x_mask[:, None], -torch.inf)
    return logits.softmax(2)[..., :-1].mean(1)


def _scores(projected: Projected) -> Tensor:
    scores: Tensor = _Attend.apply(*projected)
    return scores


def _projected(x: Tensor, y: Tensor, pool: AttentionPool, x_mask: Tensor | None) -> Projected:
    """Of y (G,t,D): G = 1 where all texts meet all pictures."""
    kind, heads = _kind(x), pool.attn.num_heads
    allowed = None
    if x_mask is not None:
        x = x.masked_fill(~x_mask[..., None], 0.0)
        allowed = F.pad(x_mask, (0, 1), value=True)
    with torch.autocast(x.device.type, enabled=False):
        keys, values = (
            F.pad(side, (0, 0, 0, 1)).unflatten(2, (heads, -1)).transpose(1, 2)
            for side in pool.keys_and_values(x)
        )  # (I,H,M + 1,d)
        queries = pool.queries(y).mT.unflatten(1, (heads, -1))  # (G,H,d,t)
    output = pool.attn.out_proj
    parts = [queries, keys, values, output.weight, output.bias, y.mT]
    queries, keys, values, weight, bias, texts = (part.to(kind).contiguous() for part in parts)
    return Projected(queries, keys, values, weight, bias, texts, allowed)


def _kind(x: Tensor) -> torch.dtype:
    device = x.device.type
    if device == "cpu":
        return torch.promote_types(x.dtype, torch.float32)
    if x.dtype == torch.float32 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


class _Attend(torch.autograd.Function):
    """Scores (I,t) of what is projected, block by block; the backward pass makes blocks again."""

    @staticmethod
    def forward(ctx: Any, *parts: Any) -> Tensor:
        ctx.save_for_backward(*parts)
        with torch.autocast(parts[0].device.type, enabled=False):
            return forward(Projected(*parts))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        parts = ctx.saved_tensors
        with torch.autocast(parts[0].device.type, enabled=False):
            return *backward(Projected(*parts), grads[0]), None


def _check(x: Tensor, y: Tensor, x_mask: Tensor | None, pool: AttentionPool) -> None:
    width = pool.attn.embed_dim
    if x.ndim != 3 or y.ndim != 2 or x.shape[2] != width or y.shape[1] != width:
        raise ShapeError(
            f"expected (pictures, patches, {width}) and (texts, {width}), "
            f"got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if x.dtype != y.dtype or x.device != y.device:
        raise ShapeError(f"{x.dtype} on {x.device} cannot meet {y.dtype} on {y.device}")
    if x_mask is not None and (x_mask.shape != x.shape[:2] or x_mask.dtype != torch.bool):
        raise ShapeError(
            f"x_mask is {tuple(x_mask.shape)} {x_mask.dtype}, "
            f"but x {tuple(x.shape)} needs {tuple(x.shape[:2])} torch.bool"
        )
