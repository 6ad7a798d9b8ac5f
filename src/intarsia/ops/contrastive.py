"""Contrastive losses whose logits exist only one block at a time.

All of them are symmetric InfoNCE with several positives. A positive pair (r, c) costs row r
``-log(exp(l_rc) / (exp(l_rc) + sum over r's negatives of exp))``: other positives of the row are
left out of the denominator, so that they are truly no negatives. (Supervised contrastive loss L_out
of Khosla et al. 2020 keeps them there; two captions of one picture then push each other away just
as strangers do.) A row's positives are averaged, then the rows; rows and columns without a positive
do not count, but remain negatives of the others.

``positives`` are the ids of the rows (A,) and of the columns (C,), integers: equal ids are
positives. Rows may have several ids each, (A,K), filled up with -1, which no column has: a column
is a positive of a row that has its id among them. None means that row k belongs to column k alone.
``left_out`` are ids of the same shapes, with a meaning of their own: a column that shares one with
a row and is no positive of it is no negative either.

No more than one block of logits is ever kept (:mod:`intarsia.ops.blockwise`). Losses are float32 or
better; the products are bfloat16 or float16 where the vectors are, or under autocast. Inside
:func:`intarsia.ops.ranks.across_ranks` every function takes this rank's rows and columns and
returns the loss of those of all ranks.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from intarsia.errors import ShapeError, unknown
from intarsia.ops.blockwise import Table, contrast, labelled, negatives_of
from intarsia.ops.comparisons import (
    AlignedScores,
    Comparison,
    DifferentiatedScores,
    PairScores,
    leaves_of,
)
from intarsia.ops.contrast_blocks import Labels, Sums
from intarsia.ops.matching import fine_grained_scores
from intarsia.ops.ranks import ALONE, Ranks, current_ranks

Negatives = Literal["batch", "patches", "both"]
Positives = tuple[Tensor, Tensor]
Masks = tuple[Tensor | None, Tensor | None]


def info_nce(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    positives: Positives | None = None,
    real: Masks | None = None,
    left_out: Positives | None = None,
) -> Tensor:
    """Symmetric InfoNCE of two sets of vectors (CLIP, Radford et al. 2021).

    Args:
        x: (A,D) normalised vectors.
        y: (C,D) normalised vectors.
        scale: scalar, the inverse temperature.
        positives: ids of the rows and of the columns.
        real: (A,) and (C,) bool, which of them there are; None = all.
        left_out: ids of the rows and of the columns which are no negatives of one another.

    Returns:
        Scalar: the mean over rows plus the mean over columns, halved; 0 where nothing is left.

    Raises:
        ShapeError: shapes, dtypes or ids do not fit.
    """
    x, y = _vectors(x, y, ndim=2)
    given = real or (None, None)
    for side, vectors, mask in zip("xy", (x, y), given, strict=True):
        _check_mask(side, vectors, mask, dims=1)
    if left_out is not None:
        _check_ids(left_out, x, y)
    ranks = current_ranks()
    x_ids, y_ids = _ids(x, y, positives, ranks)
    x_real, y_real = given
    x, x_ids, x_real = _present(x, x_ids, x_real, ranks)
    y, y_ids, y_real = _present(y, y_ids, y_real, ranks)
    labels = _labels(x, (x_ids, y_ids), (x_real, y_real), ranks)
    if left_out is not None:
        labels = _leaving_out(labels, left_out, given, ranks)
    table = Table(AlignedScores, 1, *labels, ranks)
    return ranks.sum(contrast(x[:, None], y[:, None], scale, table))


def matched_info_nce(
    x: Tensor,
    y: Tensor,
    x_mask: Tensor | None,
    y_mask: Tensor | None,
    scale: Tensor,
    positives: Positives | None = None,
) -> Tensor:
    """:func:`scored_info_nce` of fine-grained matching (ComAlign eq. 6 to 9; FILIP).

    Args:
        x: (A,P,D) normalised vectors of the pictures.
        y: (C,N,D) normalised vectors of the texts.
        x_mask: (A,P) bool, True = real; None = all real.
        y_mask: (C,N) bool.
        scale: scalar, the inverse temperature.
        positives: ids of the rows and of the columns.

    Returns:
        Scalar: the mean over rows plus the mean over columns, halved; 0 where nothing is left.

    Raises:
        ShapeError: shapes, dtypes, masks or ids do not fit.
    """
    x, y = _vectors(x, y, ndim=3)
    _check_mask("x", x, x_mask, dims=2)
    _check_mask("y", y, y_mask, dims=2)
    comparison = partial(DifferentiatedScores, function=fine_grained_scores)
    table = _table(comparison, x, y, (x_mask, y_mask), positives)
    return table.ranks.sum(contrast(x, y, scale, table))


def scored_info_nce(
    scores: PairScores,
    x: Tensor,
    y: Tensor,
    x_mask: Tensor | None,
    y_mask: Tensor | None,
    scale: Tensor,
    positives: Positives | None = None,
    *,
    numbers: int = 1,
) -> Tensor:
    """Symmetric InfoNCE of any scores, each direction with its own.

    A row is contrasted by its i2t scores, a column by its t2i scores. Rows and columns without a
    real vector are left out altogether, also as negatives: their masks are given to ``scores`` as
    if all of them were real.

    Args:
        scores: differentiable, of a block of rows and of columns; weights that they are made with
            get their gradients, too.
        x: (A,...) vectors of the pictures.
        y: (C,...) vectors of the texts.
        x_mask: (A,P) bool, True = real; None = all real.
        y_mask: (C,N) bool.
        scale: scalar, the inverse temperature.
        positives: ids of the rows and of the columns.
        numbers: that ``scores`` makes for one pair, at most, which bounds its blocks.

    Returns:
        Scalar: the mean over rows plus the mean over columns, halved; 0 where nothing is left.

    Raises:
        ShapeError: masks or ids do not fit.
    """
    table = table_of_scores(scores, x, y, (x_mask, y_mask), positives, numbers)
    return table.ranks.sum(contrast(x, y, scale, table))


def table_of_scores(
    scores: PairScores,
    x: Tensor,
    y: Tensor,
    masks: Masks,
    positives: Positives | None,
    numbers: int = 1,
) -> Table:
    """What :func:`scored_info_nce` compares with what, for any loss; arguments as there."""
    _check_mask("x", x, masks[0], dims=2)
    _check_mask("y", y, masks[1], dims=2)
    learnt = _learnt(scores, x, y, *(never_empty(mask) for mask in masks))
    comparison = partial(DifferentiatedScores, function=scores, learnt=learnt)
    return _table(comparison, x, y, masks, positives, learnt, numbers)


def never_empty(mask: Tensor | None) -> Tensor | None:
    """Of what has nothing real, all: no mean is then one of nothing."""
    return None if mask is None else mask | ~mask.any(1, keepdim=True)


def _table(
    comparison: Comparison,
    x: Tensor,
    y: Tensor,
    masks: Masks,
    positives: Positives | None,
    learnt: tuple[Tensor, ...] = (),
    numbers: int = 1,
) -> Table:
    x_mask, y_mask = masks
    ranks = current_ranks()
    if ranks.size > 1:  # or what one rank has and another has not would not meet
        x_mask, y_mask = (
            mask if side.ndim < 3 else _given(side, mask)
            for side, mask in ((x, x_mask), (y, y_mask))
        )
    real = None if x_mask is None else x_mask.any(1), None if y_mask is None else y_mask.any(1)
    labels = _labels(x, _ids(x, y, positives, ranks), real, ranks)
    x_mask, y_mask = (never_empty(mask) for mask in (x_mask, y_mask))
    return Table(comparison, 1, *labels, ranks, x_mask, y_mask, learnt, numbers)


def _learnt(
    scores: PairScores, x: Tensor, y: Tensor, x_mask: Tensor | None, y_mask: Tensor | None
) -> tuple[Tensor, ...]:
    """The weights that scores are made with, found by making one."""
    if not torch.is_grad_enabled() or not len(x) or not len(y):
        return ()
    masks = (None if mask is None else mask[:1] for mask in (x_mask, y_mask))
    with torch.autocast(x.device.type, enabled=False):
        return tuple(leaves_of(scores(x[:1].detach(), y[:1].detach(), *masks)))


def patchwise_contrastive(
    patches: Tensor,
    slots: Tensor,
    scale: Tensor,
    positives: Positives | None = None,
    negatives: Negatives = "batch",
) -> Tensor:
    """The local loss of `registers`: InfoNCE at each of the M positions, summed over positions.

    At position i the slot i of each caption meets the patch i of each picture; the matching pair
    is the positive (METHODS.md section 1; Local Alignment, section 2).

    Args:
        patches: (B,M,D) normalised patches of the pictures.
        slots: (C,M,D) normalised slots of the captions, the pictures' own first; those from B on
            (hard negatives) are further negatives of a position, and none of ``patches``.
        scale: scalar, the inverse temperature.
        positives: ids of the pictures and of the captions.
        negatives: ``batch``: position i of the other pairs, as in the paper; ``patches``: the
            other positions of the same pair; ``both``: their union.

    Returns:
        Scalar: sum over i of the symmetric cross-entropy at position i.

    Raises:
        ShapeError: shapes, dtypes or ids do not fit, or ``negatives`` is unknown.
    """
    patches, slots = _vectors(patches, slots, ndim=3)
    if patches.shape[1:] != slots.shape[1:] or len(slots) < len(patches):
        raise ShapeError(f"patches {tuple(patches.shape)} and slots {tuple(slots.shape)} differ")
    if negatives not in ("batch", "patches", "both"):
        raise ShapeError(unknown("negatives", negatives, ("batch", "patches", "both")))
    ranks, num = current_ranks(), patches.shape[1]
    x, y = (_by_position(side) for side in (patches, slots))
    if negatives == "patches":
        table = _within_pairs(x, ranks)
        return ranks.sum(contrast(x.transpose(0, 1), y[: len(x)].transpose(0, 1), scale, table))
    labels = _labels(patches, _ids(patches, slots, positives, ranks), (None, None), ranks)
    others = None
    if negatives == "both":
        pairs = x.transpose(0, 1), y[: len(x)].transpose(0, 1)
        found = negatives_of(*pairs, scale, _within_pairs(x, ranks))
        own = ranks.own(ranks.gather(torch.arange(len(slots), device=x.device)))
        after = len(labels[1].ids) - own.start - len(x)
        others = Sums(found.rows.mT, F.pad(found.columns.mT, (own.start, after), value=-torch.inf))
    return ranks.sum(contrast(x, y, scale, Table(AlignedScores, num, *labels, ranks), others))


def _by_position(vectors: Tensor) -> Tensor:
    """(B,M,D) as it is, but on a CPU position by position in memory: products are faster so."""
    return vectors.transpose(0, 1).contiguous().transpose(0, 1) if vectors.is_cpu else vectors


def _within_pairs(vectors: Tensor, ranks: Ranks) -> Table:
    """Each position against the others of its own pair: M rows, M columns, B groups."""
    batch, num, _ = vectors.shape
    positions = torch.arange(num, device=vectors.device)
    ones = torch.ones_like(positions, dtype=torch.int32)
    pairs = ranks.sum(ones[:1].sum() * batch)
    labels = Labels(positions, ones, pairs.to(torch.int32), None)
    return Table(AlignedScores, batch, labels, labels, ALONE)


def _labels(x: Tensor, ids: Positives, real: Masks, ranks: Ranks) -> tuple[Labels, Labels]:
    """Of this rank's rows and of all columns.

    A row's positives share the row, and the rows that have any share half of the loss; so do the
    columns.
    """
    x_parts = ranks.gather(ids[0])
    own, x_ids, y_ids = ranks.own(x_parts), _whole(x_parts), _whole(ranks.gather(ids[1]))
    x_real, y_real = (
        None if side is None else _whole(ranks.gather(side.long())).bool() for side in real
    )
    if x_real is None and y_real is not None:
        x_real = x_ids.new_ones(len(x_ids), dtype=torch.bool)
    if y_real is None and x_real is not None:
        y_real = torch.ones_like(y_ids, dtype=torch.bool)
    wide = torch.promote_types(x.dtype, torch.float32)
    x_labels, y_labels = labelled((x_ids, x_real), (y_ids, y_real), wide)
    return x_labels.of(own), y_labels


def _leaving_out(
    labels: tuple[Labels, Labels], left_out: Positives, real: Masks, ranks: Ranks
) -> tuple[Labels, Labels]:
    """With the ids of what is left out, of those that :func:`_present` has kept."""
    x, y = (
        (ids if mask is None or ids.is_cuda else ids[mask]).long().contiguous()
        for ids, mask in zip(left_out, real, strict=True)
    )
    return labels[0]._replace(left_out=x), labels[1]._replace(left_out=_whole(ranks.gather(y)))


def _present(
    vectors: Tensor, ids: Tensor, real: Tensor | None, ranks: Ranks
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Without what is not real; on a GPU, where to count it would be to wait, zeros instead."""
    if not vectors.is_cuda:
        return (vectors, ids, None) if real is None else (vectors[real], ids[real], None)
    if real is None and ranks.size == 1:
        return vectors, ids, None
    real = vectors.new_ones(len(vectors), dtype=torch.bool) if real is None else real
    return vectors.masked_fill(~real[:, None], 0.0), ids, real


def _given(vectors: Tensor, mask: Tensor | None) -> Tensor:
    return vectors.new_ones(vectors.shape[:2], dtype=torch.bool) if mask is None else mask


def _whole(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _ids(x: Tensor, y: Tensor, positives: Positives | None, ranks: Ranks) -> Positives:
    if positives is None:
        if len(x) != len(y):
            raise ShapeError(f"{len(x)} rows and {len(y)} columns do not pair up: give positives")
        own = torch.arange(len(x), device=x.device) * ranks.size + ranks.rank
        return own, own
    _check_ids(positives, x, y)
    x_ids, y_ids = positives
    x_long = x_ids.long()
    return x_long, x_long if y_ids is x_ids else y_ids.long()


def _check_ids(ids_of: Positives, x: Tensor, y: Tensor) -> None:
    for side, ids, vectors in zip(("rows", "columns"), ids_of, (x, y), strict=True):
        first = ids[:, 0] if side == "rows" and ids.ndim == 2 else ids
        if first.shape != vectors.shape[:1] or ids.is_floating_point():
            raise ShapeError(
                f"the ids of {len(vectors)} {side} are {tuple(ids.shape)} {ids.dtype}, "
                f"not ({len(vectors)},) torch.int64"
            )


def _check_mask(side: str, vectors: Tensor, mask: Tensor | None, *, dims: int) -> None:
    if mask is not None and (mask.shape != vectors.shape[:dims] or mask.dtype != torch.bool):
        raise ShapeError(
            f"{side}_mask is {tuple(mask.shape)} {mask.dtype}, "
            f"but {side} {tuple(vectors.shape)} needs {tuple(vectors.shape[:dims])} torch.bool"
        )


def _vectors(x: Tensor, y: Tensor, *, ndim: int) -> tuple[Tensor, Tensor]:
    """Both sides, checked, in the precision that their products are to have."""
    if x.ndim != ndim or y.ndim != ndim or x.shape[-1] != y.shape[-1]:
        raise ShapeError(
            f"expected two {ndim}-d tensors of one width, got {tuple(x.shape)}, {tuple(y.shape)}"
        )
    if x.dtype != y.dtype or x.device != y.device:
        raise ShapeError(f"{x.dtype} on {x.device} cannot meet {y.dtype} on {y.device}")
    device = x.device.type
    if x.dtype == torch.float32 and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        return x.to(dtype), y.to(dtype)
    return x, y
