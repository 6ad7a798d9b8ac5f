"""Fine-grained matching: the mean over one side's vectors of the best match on the other side.

Both directions come from one pass over blocks of similarities small enough to stay in cache
(:mod:`intarsia.ops.matching_blocks`). The type of the inputs, or autocast's, is the type of the
products and of the maxima; means accumulate in float32 or better, which is also what comes out.
Float32 inputs are thus exact; bfloat16 is the fast way, each similarity rounded to 8 bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from intarsia.errors import ShapeError
from intarsia.ops import matching_blocks, matching_gpu
from intarsia.ops.matching_blocks import Side

KEPT_BYTES = 2**28  # of arg-max indices kept for the backward pass; beyond, it computes them again


def fine_grained_scores(
    x: Tensor, y: Tensor, x_mask: Tensor | None = None, y_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """FGM of every picture with every text, both directions from one pass (ComAlign eq. 2).

    Padding counts in neither the max nor the mean. A side whose mask is all False scores 0 against
    everything, in both directions, and gets no gradient. Of equal matches the first one counts:
    the gradient goes to it alone.

    Args:
        x: (I,P,D) vectors of the pictures.
        y: (T,N,D) vectors of the texts.
        x_mask: (I,P) bool, True = real; None = all real.
        y_mask: (T,N) bool.

    Returns:
        ``i2t`` (I,T): mean over the P of x of the max over the N of y;
        ``t2i`` (I,T): mean over the N of y of the max over the P of x. Float32 or better.

    Raises:
        ShapeError: widths, types, devices or mask shapes do not fit.
    """
    _check_mask("x", x, x_mask)
    _check_mask("y", y, y_mask)
    _check_pair(x, y)
    x, y = _as_autocast(x), _as_autocast(y)
    if matching_gpu.usable(x):
        masks = (_mask(vectors, mask) for vectors, mask in ((x, x_mask), (y, y_mask)))
        return matching_gpu.fused_scores(x, y, *masks)
    numbers = x.shape[0] * y.shape[0] * (x.shape[1] + y.shape[1])
    keep = numbers if numbers <= KEPT_BYTES and max(x.shape[1], y.shape[1]) <= 256 else 0
    return _scores(*_padded(x, x_mask), *_padded(y, y_mask), keep)


def fine_grained_scores_packed(
    x: Tensor, y: Tensor, x_offsets: Tensor, y_offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """:func:`fine_grained_scores` of rows that lie one behind the other, without padding.

    Args:
        x: (V,D) vectors of all pictures.
        y: (W,D) vectors of all texts.
        x_offsets: (I + 1,) int64 from 0 to V: picture i has the vectors from ``x_offsets[i]`` up
            to ``x_offsets[i + 1]``; it may have none.
        y_offsets: (T + 1,) int64 from 0 to W.

    Returns:
        ``i2t`` and ``t2i``, (I,T).

    Raises:
        ShapeError: widths, types or devices do not fit, or offsets are not one list of integers.
    """
    _check_offsets("x", x, x_offsets)
    _check_offsets("y", y, y_offsets)
    _check_pair(x, y)
    x, y = _as_autocast(x), _as_autocast(y)
    return _scores(x, x_offsets[:-1], x_offsets.diff(), y, y_offsets[:-1], y_offsets.diff(), keep=0)


def _scores(
    x: Tensor,
    x_starts: Tensor,
    x_counts: Tensor,
    y: Tensor,
    y_starts: Tensor,
    y_counts: Tensor,
    keep: int,
) -> tuple[Tensor, Tensor]:
    if not (torch.is_grad_enabled() and (x.requires_grad or y.requires_grad)):
        keep = 0
    i2t, t2i, _ = _Match.apply(x, x_starts, x_counts, y, y_starts, y_counts, keep)
    return i2t, t2i


def _as_autocast(vectors: Tensor) -> Tensor:
    kind = vectors.device.type
    return (
        vectors.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else vectors
    )


def _mask(vectors: Tensor, mask: Tensor | None) -> Tensor:
    return vectors.new_ones(vectors.shape[:2], dtype=torch.bool) if mask is None else mask


def _padded(vectors: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(rows,K,D) -> (rows * K, D) with each row's real vectors first, their starts and counts."""
    rows, k, _ = vectors.shape
    starts = torch.arange(rows, device=vectors.device) * k
    if mask is None:
        return vectors.flatten(0, 1), starts, torch.full_like(starts, k)
    real_first = (~mask).argsort(dim=1, stable=True) + starts[:, None]
    return vectors.flatten(0, 1).index_select(0, real_first.flatten()), starts, mask.sum(1)


@torch.library.custom_op("intarsia::match", mutates_args=())
def _match(
    x: Tensor,
    x_starts: Tensor,
    x_counts: Tensor,
    y: Tensor,
    y_starts: Tensor,
    y_counts: Tensor,
    keep: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """``i2t``, ``t2i`` and ``keep`` bytes of arg-max indices."""
    pair = Side(x, x_starts, x_counts), Side(y, y_starts, y_counts)
    return matching_blocks.forward(*pair, keep)


@torch.library.custom_op("intarsia::match_backward", mutates_args=())
def _match_backward(
    grad_i2t: Tensor,
    grad_t2i: Tensor,
    x: Tensor,
    x_starts: Tensor,
    x_counts: Tensor,
    y: Tensor,
    y_starts: Tensor,
    y_counts: Tensor,
    kept: Tensor,
) -> tuple[Tensor, Tensor]:
    pair = Side(x, x_starts, x_counts), Side(y, y_starts, y_counts)
    return matching_blocks.backward(*pair, grad_i2t, grad_t2i, kept)


@_match.register_fake
def _(
    x: Tensor,
    x_starts: Tensor,
    x_counts: Tensor,
    y: Tensor,
    y_starts: Tensor,
    y_counts: Tensor,
    keep: int,
) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.promote_types(x.dtype, torch.float32)
    scores = x.new_empty((x_starts.shape[0], y_starts.shape[0]), dtype=wide)
    return scores, torch.empty_like(scores), x.new_empty(keep, dtype=torch.uint8)


@_match_backward.register_fake
def _(
    grad_i2t: Tensor, grad_t2i: Tensor, x: Tensor, xs: Tensor, xc: Tensor, y: Tensor, *_: Tensor
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), y.new_empty(y.shape)


def _one_by_one(op: Any) -> Any:
    """The vmap rule of an op whose every call fills the machine: a loop."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        calls = [
            op(*(a if d is None else a.select(d, i) for a, d in zip(args, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        return tuple(torch.stack(part) for part in zip(*calls, strict=True)), (0,) * len(calls[0])

    return rule


_match.register_vmap(_one_by_one(_match))
_match_backward.register_vmap(_one_by_one(_match_backward))


class _Match(torch.autograd.Function):
    """The two ops tied together here, since ``register_autograd`` knows no ``torch.func``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        scores: tuple[Tensor, Tensor, Tensor] = _match(*inputs)
        return scores

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(*inputs[:6], output[2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        grad_x, grad_y = _match_backward(*grads[:2], *ctx.saved_tensors)
        return grad_x, None, None, grad_y, None, None, None


def _check_mask(side: str, vectors: Tensor, mask: Tensor | None) -> None:
    if vectors.ndim != 3:
        raise ShapeError(f"{side} must be (rows, vectors, width), not {tuple(vectors.shape)}")
    if mask is not None and (mask.shape != vectors.shape[:2] or mask.dtype != torch.bool):
        raise ShapeError(
            f"{side}_mask is {tuple(mask.shape)} {mask.dtype}, "
            f"but {side} {tuple(vectors.shape)} needs {tuple(vectors.shape[:2])} torch.bool"
        )


def _check_offsets(side: str, vectors: Tensor, offsets: Tensor) -> None:
    if vectors.ndim != 2:
        raise ShapeError(f"{side} must be (vectors, width), not {tuple(vectors.shape)}")
    if offsets.ndim != 1 or not len(offsets) or offsets.dtype != torch.int64:
        raise ShapeError(
            f"{side}_offsets is {tuple(offsets.shape)} {offsets.dtype}, but must be "
            "(rows + 1,) torch.int64"
        )


def _check_pair(x: Tensor, y: Tensor) -> None:
    if x.shape[-1] != y.shape[-1] or x.dtype != y.dtype or x.device != y.device:
        raise ShapeError(
            f"x {tuple(x.shape)} {x.dtype} on {x.device} cannot meet "
            f"y {tuple(y.shape)} {y.dtype} on {y.device}"
        )
