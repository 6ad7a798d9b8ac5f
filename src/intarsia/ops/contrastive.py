"""Contrastive losses whose logits exist only one block at a time.

All of them are symmetric InfoNCE with several positives. A positive pair (r, c) costs row r
``-log(exp(l_rc) / (exp(l_rc) + sum over r's negatives of exp))``: other positives of the row are
left out of the denominator, so that they are truly no negatives. (Supervised contrastive loss L_out
of Khosla et al. 2020 keeps them there; two captions of one picture then push each other away just
as strangers do.) A row's positives are averaged, then the rows; rows and columns without a positive
do not count, but remain negatives of the others.

``positives`` are the ids of the rows (A,) and of the columns (C,), int64: equal ids are positives.
None means that row k belongs to column k alone.

Nothing of size rows x columns is ever kept (:mod:`intarsia.ops.blockwise`). Losses are float32 or
better; the products are bfloat16 or float16 where the vectors are, or under autocast. Inside
:func:`intarsia.ops.ranks.across_ranks` every function takes this rank's rows and columns and
returns the loss of those of all ranks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from intarsia.errors import ShapeError, unknown
from intarsia.ops.blockwise import Contrast, Scores, Table, contrast
from intarsia.ops.matching import fine_grained_scores
from intarsia.ops.ranks import ALONE, Ranks, current_ranks

Negatives = Literal["batch", "patches", "both"]
Positives = tuple[Tensor, Tensor]


def info_nce(x: Tensor, y: Tensor, scale: Tensor, positives: Positives | None = None) -> Tensor:
    """Symmetric InfoNCE of two sets of vectors (CLIP, Radford et al. 2021).

    Args:
        x: (A,D) normalised vectors.
        y: (C,D) normalised vectors.
        scale: scalar, the inverse temperature.
        positives: ids of the rows and of the columns.

    Returns:
        Scalar: the mean over rows plus the mean over columns, halved.

    Raises:
        ShapeError: shapes, dtypes or ids do not fit.
    """
    x, y = _vectors(x, y, ndim=2)
    ranks = current_ranks()
    pairs = _Pairs.of(_ids(x, y, positives, ranks), ranks)
    found = contrast(x[:, None], y[:, None], scale, pairs.table(_aligned, 1))
    return pairs.loss(found)


def matched_info_nce(
    x: Tensor,
    y: Tensor,
    x_mask: Tensor | None,
    y_mask: Tensor | None,
    scale: Tensor,
    positives: Positives | None = None,
) -> Tensor:
    """Symmetric InfoNCE of fine-grained matching, each direction with its own scores.

    A row is contrasted by its i2t scores, a column by its t2i scores (ComAlign eq. 6 to 9; FILIP).
    Rows and columns without a real vector are left out altogether, also as negatives.

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
    ranks = current_ranks()
    x_ids, y_ids = _ids(x, y, positives, ranks)
    x, x_mask, x_ids = _real("x", x, x_mask, x_ids)
    y, y_mask, y_ids = _real("y", y, y_mask, y_ids)
    pairs = _Pairs.of((x_ids, y_ids), ranks)
    table = replace(pairs.table(_matched, 1), x_mask=x_mask, y_mask=y_mask)
    found = contrast(x, y, scale, table)
    return pairs.loss(found)


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
        slots: (B,M,D) normalised slots of the captions.
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
    if patches.shape != slots.shape:
        raise ShapeError(f"patches {tuple(patches.shape)} and slots {tuple(slots.shape)} differ")
    if negatives not in ("batch", "patches", "both"):
        raise ShapeError(unknown("negatives", negatives, ("batch", "patches", "both")))
    ranks = current_ranks()
    ids = _ids(patches, slots, None if negatives == "patches" else positives, ranks)
    pairs = _Pairs.of(ids, ranks)
    m = patches.shape[1]
    x, y = (v.transpose(0, 1).contiguous() for v in (patches, slots))  # (M,B,D)
    found = []
    if negatives != "patches":
        table = pairs.table(_aligned, m)
        found.append(contrast(x.transpose(0, 1), y.transpose(0, 1), scale, table))
    if negatives != "batch":
        found.append(pairs.widened(_within_pairs(x, y, scale)))
    return pairs.loss(*found)


def _within_pairs(x: Tensor, y: Tensor, scale: Tensor) -> Contrast:
    """Each position against the others of its own pair: rows and columns (M,B), x and y (M,B,D)."""
    m, batch, _ = x.shape
    positions = torch.arange(m, device=x.device)
    pairs = _Pairs.of((positions, positions), ALONE)
    found = contrast(x, y, scale, pairs.table(_aligned, batch))
    return Contrast(*(part.mT for part in found))


@dataclass(frozen=True)
class _Pairs:
    """The positives of this rank's rows, and by what the cost of each is to be divided.

    ``pairs`` (2,S): a row of this rank, a column of all. A row's positives share the row, and the
    rows that have any share the loss; so do the columns. ``own`` are this rank's columns.
    """

    pairs: Tensor
    row_shares: Tensor
    column_shares: Tensor
    own: slice
    num_columns: int
    ranks: Ranks

    @staticmethod
    def of(ids: Positives, ranks: Ranks) -> _Pairs:
        x_parts, y_parts = (ranks.gather(side) for side in ids)
        ids_of_all, labels = torch.cat(x_parts + y_parts).unique(return_inverse=True)
        x, y = labels.tensor_split([sum(map(len, x_parts))])
        in_x, in_y = (side.bincount(minlength=len(ids_of_all)) for side in (x, y))
        rows = x[_own(x_parts, ranks)]
        r, c = _matches(rows, y, in_y)
        return _Pairs(
            torch.stack([r, c]),
            in_y[rows[r]] * in_y[x].count_nonzero(),
            in_x[y[c]] * in_x[y].count_nonzero(),
            _own(y_parts, ranks),
            len(y),
            ranks,
        )

    def table(self, scores: Scores, groups: int) -> Table:
        return Table(scores, groups, self.num_columns, self.pairs, self.ranks)

    def widened(self, found: Contrast) -> Contrast:
        """With the columns of this rank in their place among those of all."""
        after = self.num_columns - self.own.stop
        wide = F.pad(found.columns, (self.own.start, after), value=-torch.inf)
        return found._replace(columns=wide)

    def loss(self, *found: Contrast) -> Tensor:
        """The symmetric loss, summed over groups; all the tables' negatives count together."""
        r, c = self.pairs
        rows = ALONE.logsumexp(torch.stack([part.rows for part in found]))
        columns = self.ranks.logsumexp(torch.stack([part.columns for part in found]))
        i2t, t2i = found[0].i2t, found[0].t2i
        by_row = (rows[:, r].logaddexp(i2t) - i2t) / self.row_shares
        by_column = (columns[:, c].logaddexp(t2i) - t2i) / self.column_shares
        return self.ranks.sum((by_row + by_column).sum() / 2)


def _own(parts: list[Tensor], ranks: Ranks) -> slice:
    """Where this rank's part lies among those of all."""
    start = sum(len(part) for part in parts[: ranks.rank])
    return slice(start, start + len(parts[ranks.rank]))


def _matches(labels: Tensor, among: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """The places (S,) and (S,) of all equal pairs; label k occurs ``counts[k]`` times ``among``.

    >>> _matches(torch.tensor([0, 1]), torch.tensor([1, 0, 1]), torch.tensor([1, 2]))
    (tensor([0, 1, 1]), tensor([1, 0, 2]))
    """
    device = labels.device
    each = counts[labels]
    rows = torch.arange(len(labels), device=device).repeat_interleave(each)
    nth = torch.arange(len(rows), device=device) - (each.cumsum(0) - each)[rows]
    first = (counts.cumsum(0) - counts)[labels[rows]]
    return rows, among.argsort(stable=True)[first + nth]


def _ids(x: Tensor, y: Tensor, positives: Positives | None, ranks: Ranks) -> Positives:
    if positives is None:
        if len(x) != len(y):
            raise ShapeError(f"{len(x)} rows and {len(y)} columns do not pair up: give positives")
        own = torch.arange(len(x), device=x.device) * ranks.size + ranks.rank
        return own, own
    for side, ids, vectors in zip(("rows", "columns"), positives, (x, y), strict=True):
        if ids.shape != vectors.shape[:1] or ids.is_floating_point():
            raise ShapeError(
                f"the ids of {len(vectors)} {side} are {tuple(ids.shape)} {ids.dtype}, "
                f"not ({len(vectors)},) torch.int64"
            )
    return positives


def _real(
    side: str, vectors: Tensor, mask: Tensor | None, ids: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Without the rows that have no real vector."""
    if mask is None:
        return vectors, None, ids
    if mask.shape != vectors.shape[:2] or mask.dtype != torch.bool:
        raise ShapeError(
            f"{side}_mask is {tuple(mask.shape)} {mask.dtype}, "
            f"but {side} {tuple(vectors.shape)} needs {tuple(vectors.shape[:2])} torch.bool"
        )
    real = mask.any(1)
    return vectors[real], mask[real], ids[real]


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


def _aligned(
    x: Tensor, y: Tensor, x_mask: Tensor | None, y_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The k-th vector of each row with the k-th of each column: (K,a,c), in either direction."""
    scores: Tensor = _Products.apply(x, y)
    return scores, scores


class _Products(torch.autograd.Function):
    """(a,K,D), (c,K,D) -> (K,a,c); unlike bmm's, the gradients lie in memory as x and y do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return x.transpose(0, 1) @ y.permute(1, 2, 0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        grad_x = grads[0] @ y.transpose(0, 1)
        grad_y = grads[0].mT @ x.transpose(0, 1)
        return grad_x.transpose(0, 1), grad_y.transpose(0, 1)


def _matched(
    x: Tensor, y: Tensor, x_mask: Tensor | None, y_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    i2t, t2i = fine_grained_scores(x, y, x_mask, y_mask)
    return i2t[None], t2i[None]
