"""The known (region, phrase) pairs of a data set, as tensors beside its captions."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from intarsia.backbones.base import Backbone, ImageTransform
from intarsia.data.images import image_size
from intarsia.errors import DataError
from intarsia.types import Box, Links, Record, Span, TokenBatch

logger = logging.getLogger(__name__)

MAX_LINKS = 10  # a caption
MIN_VISIBLE = 0.25  # share of a box that must survive the crop to the backbone's input
PHRASES_AT_ONCE = 16_384

Row = list[tuple[Box, Span, str]]


def links_of(
    records: Sequence[Record], backbone: Backbone, tokens: TokenBatch, *, phrases: bool = False
) -> Links:
    """Links of every caption of ``records``, in order; up to ``MAX_LINKS`` each.

    A link is left out where its region was cropped away or its phrase lies beyond the context;
    how many is logged.

    Args:
        records: with regions and phrases.
        backbone: whose transform the boxes follow.
        tokens: of all captions in order.
        phrases: tokenise each phrase as a text of its own, too.
    """
    rows = [row for record in records for row in _rows(record, backbone.transform)]
    most = max(1, min(MAX_LINKS, max(map(len, rows), default=0)))
    kept = [row[:most] for row in rows]
    boxes = torch.zeros(len(rows), most, 4)
    words = torch.zeros(len(rows), most, 2, dtype=torch.long)
    labels = torch.zeros(len(rows), most, dtype=torch.long)
    mask = torch.zeros(len(rows), most, dtype=torch.bool)
    caption = torch.tensor([i for i, row in enumerate(kept) for _ in row], dtype=torch.long)
    place = torch.tensor([k for row in kept for k in range(len(row))], dtype=torch.long)
    numbers: dict[str, int] = {"": 0}  # the label of what is no link
    if len(caption):
        found = [link for row in kept for link in row]
        spans = torch.tensor([span for _, span, _ in found])
        boxes[caption, place] = torch.tensor([box for box, _, _ in found])
        words[caption, place] = word_ranges(tokens, caption, spans)
        labels[caption, place] = torch.tensor(
            [numbers.setdefault(text, len(numbers)) for _, _, text in found]
        )
        mask[caption, place] = words[caption, place, 1] > 0
    known = sum(len(p.regions) for record in records for p in record.phrases)
    logger.info("%d of %d links of phrases to regions are usable", int(mask.sum()), known)
    alone = backbone.tokenize(list(numbers)).rows(labels) if phrases else None
    return Links(boxes, words, labels, mask, alone)


def _rows(record: Record, transform: ImageTransform) -> list[Row]:
    """A row of links a caption."""
    rows: list[Row] = [[] for _ in record.captions]
    if not record.phrases:
        return rows
    try:
        size = image_size(record.image)
    except DataError:
        return rows  # whoever reads the picture reports it
    boxes = transform.boxes([region.box for region in record.regions], size)
    for phrase in record.phrases:
        for index in phrase.regions:
            box = _clipped(boxes[index], transform.size)
            if box is not None:
                rows[phrase.caption].append((box, phrase.span, record.phrase_text(phrase).lower()))
    return rows


def _clipped(box: Box, size: int) -> Box | None:
    """The part inside the input, in its unit; None where too little of the box is left."""
    x0, y0, x1, y1 = (min(max(side / size, 0.0), 1.0) for side in box)
    area = (box[2] - box[0]) * (box[3] - box[1]) / size**2
    is_seen = x0 < x1 and y0 < y1 and (x1 - x0) * (y1 - y0) >= MIN_VISIBLE * area
    return (x0, y0, x1, y1) if is_seen else None


def word_ranges(tokens: TokenBatch, caption: Tensor, spans: Tensor) -> Tensor:
    """(P,2) first and last + 1 real token that each span touches; (0, 0) where none does."""
    parts = []
    for rows, some in zip(
        caption.split(PHRASES_AT_ONCE), spans.split(PHRASES_AT_ONCE), strict=True
    ):
        mask, offsets = tokens.mask[rows], tokens.offsets[rows]
        inside = (offsets[..., 0] < some[:, 1:]) & (offsets[..., 1] > some[:, :1]) & mask
        before = (mask & (inside.cumsum(1) == 0)).sum(1)
        count = inside.sum(1)
        parts.append(torch.stack([before, before + count], 1) * (count > 0)[:, None])
    return torch.cat(parts)
