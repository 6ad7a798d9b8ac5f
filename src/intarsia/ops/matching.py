"""Fine-grained matching: the mean over one side's vectors of the best match on the other side.

Both directions come from one pass over blocks of similarities: on a CPU small enough to stay in
cache (:mod:`intarsia.ops.matching_blocks`), on a GPU large (:mod:`intarsia.ops.matching_gpu`). The
type of the inputs, or autocast's, is the type of the products and of the maxima; means accumulate
in float32 or better, which is also what comes out. Float32 inputs are thus exact (unless torch is
told to multiply them as TF32); bfloat16 is the fast way, each similarity rounded to 8 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from intarsia.errors import ShapeError
from intarsia.ops import matching_blocks
from intarsia.ops.devices import has_triton, on
from intarsia.ops.matching_parts import Side


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
    return _scores(_padded(x, x_mask), _padded(y, y_mask))


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
    return _scores(_packed(x, x_offsets), _packed(y, y_offsets))


def _scores(x: Side, y: Side) -> tuple[Tensor, Tensor]:
    learns = torch.is_grad_enabled() and (x.vectors.requires_grad or y.vectors.requires_grad)
    keep = _engine(x.vectors).kept_bytes(x, y) if learns else 0
    sizes = [x.most, y.most, int(x.even), int(y.even)]
    i2t, t2i, _ = _Match.apply(*x[:3], *y[:3], sizes, keep)
    return i2t, t2i


def _engine(vectors: Tensor) -> ModuleType:
    """Where vectors like these are matched: blocks of torch operators, or the GPU's kernels."""
    if vectors.is_cuda and vectors.itemsize == 2 and has_triton():
        from intarsia.ops import matching_gpu

        return matching_gpu
    return matching_blocks


def _as_autocast(vectors: Tensor) -> Tensor:
    kind = vectors.device.type
    return (
        vectors.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else vectors
    )


def _padded(vectors: Tensor, mask: Tensor | None) -> Side:
    """(rows,K,D) -> (rows * K, D) with each row's real vectors first."""
    rows, k, _ = vectors.shape
    starts = torch.arange(rows, device=vectors.device) * k
    if mask is None:
        return Side(vectors.flatten(0, 1), starts, torch.full_like(starts, k), k, True)
    real_first = (~mask).argsort(dim=1, stable=True) + starts[:, None]
    gathered = vectors.flatten(0, 1).index_select(0, real_first.flatten())
    return Side(gathered, starts, mask.sum(1), k, False)


def _packed(vectors: Tensor, offsets: Tensor) -> Side:
    return Side(vectors, offsets[:-1], offsets.diff(), 0, False)


@torch.library.custom_op("intarsia::match", mutates_args=())
def _match(
    x: Tensor,
    x_starts: Tensor,
    x_counts: Tensor,
    y: Tensor,
    y_starts: Tensor,
    y_counts: Tensor,
    sizes: Sequence[int],
    keep: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """``i2t``, ``t2i`` and ``keep`` bytes of arg-max indices; ``sizes``: the rest of both sides."""
    pair = _sides((x, x_starts, x_counts, y, y_starts, y_counts), sizes)
    with on(x.device):
        scores: tuple[Tensor, Tensor, Tensor] = _engine(x).forward(*pair, keep)
    return scores


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
    sizes: Sequence[int],
) -> tuple[Tensor, Tensor]:
    pair = _sides((x, x_starts, x_counts, y, y_starts, y_counts), sizes)
    with on(x.device):
        grads: tuple[Tensor, Tensor] = _engine(x).backward(*pair, grad_i2t, grad_t2i, kept)
    return grads


def _sides(tensors: Sequence[Tensor], sizes: Sequence[int]) -> tuple[Side, Side]:
    x, x_starts, x_counts, y, y_starts, y_counts = tensors
    x_most, y_most, x_even, y_even = sizes
    return (
        Side(x, x_starts, x_counts, x_most, bool(x_even)),
        Side(y, y_starts, y_counts, y_most, bool(y_even)),
    )


@_match.register_fake
def _(
    x: Tensor,
    x_starts: Tensor,
    x_counts: Tensor,
    y: Tensor,
    y_starts: Tensor,
    y_counts: Tensor,
    sizes: Sequence[int],
    keep: int,
) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.promote_types(x.dtype, torch.float32)
    scores = x.new_empty((x_starts.shape[0], y_starts.shape[0]), dtype=wide)
    return scores, torch.empty_like(scores), x.new_empty(keep, dtype=torch.uint8)


@_match_backward.register_fake
def _(
    grad_i2t: Tensor, grad_t2i: Tensor, x: Tensor, xs: Tensor, xc: Tensor, y: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), y.new_empty(y.shape)


def _one_by_one(op: Any) -> Any:
    """The vmap rule of an op whose every call fills the machine: a loop."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        calls = [
            op(
                *(
                    a.select(d, i) if isinstance(d, int) else a
                    for a, d in zip(args, in_dims, strict=True)
                )
            )
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
        ctx.sizes = inputs[6]
        ctx.save_for_backward(*inputs[:6], output[2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        grad_x, grad_y = _match_backward(*grads[:2], *ctx.saved_tensors, ctx.sizes)
        return grad_x, None, None, grad_y, None, None, None, None


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
