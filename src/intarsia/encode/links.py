"""The known (region, phrase) pairs of some captions, as tensors beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

from intarsia.backbones.base import ImageTransform, Tokenizer
from intarsia.data.images import image_size
from intarsia.encode.views import key_of
from intarsia.errors import DataError
from intarsia.types import Box, Links, Record, Span, TokenBatch

MAX_LINKS = 10  # a caption
MIN_VISIBLE = 0.25  # share of a box that must survive the crop to the backbone's input
MIN_IOU = 0.5  # of regions that overlap: more than this


class Link(NamedTuple):
    """A region as the backbone sees it, the phrase that speaks of it, and ``regions``: its number
    in its picture and those of the others that it overlaps."""

    box: Box
    span: Span
    text: str
    regions: tuple[int, ...]


Row = list[Link]
Captioned = tuple[Record, int]
"""A record, and which of its captions."""


@dataclass(frozen=True)
class Linker:
    """Makes the links of captions, up to ``MAX_LINKS`` each.

    A link is left out where its region was cropped away or its phrase lies beyond the context.

    Args:
        transform: of the backbone; the boxes follow it.
        tokenizer: where each phrase is to be tokenised as a text of its own, too.
    """

    transform: ImageTransform
    tokenizer: Tokenizer | None = None

    def __call__(self, captions: Sequence[Captioned], tokens: TokenBatch) -> Links:
        """Links of B captions, of which ``tokens`` are those."""
        rows = [_row(record, which, self.transform) for record, which in captions]
        most = max(1, min(MAX_LINKS, max(map(len, rows), default=0)))
        kept = [row[:most] for row in rows]
        boxes = torch.zeros(len(rows), most, 4)
        words = torch.zeros(len(rows), most, 2, dtype=torch.long)
        labels = torch.zeros(len(rows), most, dtype=torch.long)
        mask = torch.zeros(len(rows), most, dtype=torch.bool)
        caption = torch.tensor([i for i, row in enumerate(kept) for _ in row], dtype=torch.long)
        place = torch.tensor([k for row in kept for k in range(len(row))], dtype=torch.long)
        found = [link for row in kept for link in row]
        widest = max((len(link.regions) for link in found), default=1)
        regions = torch.full((len(rows), most, widest), -1)
        if found:
            spans = torch.tensor([link.span for link in found])
            boxes[caption, place] = torch.tensor([link.box for link in found])
            words[caption, place] = word_ranges(tokens, caption, spans)
            labels[caption, place] = torch.tensor([label_of(link.text) for link in found])
            mask[caption, place] = words[caption, place, 1] > 0
            filled = [(*link.regions, *[-1] * (widest - len(link.regions))) for link in found]
            regions[caption, place] = torch.tensor(filled)
        alone = None if self.tokenizer is None else self._alone(found, caption, place, mask.shape)
        return Links(boxes, words, labels, mask, regions, alone)

    def _alone(self, found: Row, caption: Tensor, place: Tensor, shape: torch.Size) -> TokenBatch:
        """(B,P,N) the phrases as texts of their own; blank where there is no link."""
        assert self.tokenizer is not None
        numbers = {"": 0}
        which = torch.zeros(shape, dtype=torch.long)
        if found:
            told = [numbers.setdefault(link.text, len(numbers)) for link in found]
            which[caption, place] = torch.tensor(told)
        return self.tokenizer(list(numbers)).rows(which)


def label_of(phrase: str) -> int:
    """A number for a phrase's words, the same in every batch and process; 0 is none's."""
    return int.from_bytes(key_of(phrase)[:8], "little") >> 1 or 1


def num_usable(
    captions: Sequence[Captioned], tokens: TokenBatch, linker: Linker
) -> tuple[int, int]:
    """How many links there are, and how many that people drew."""
    known = sum(
        len(phrase.regions)
        for record, which in captions
        for phrase in record.phrases
        if phrase.caption == which
    )
    return int(linker(captions, tokens).mask.sum()), known


def _row(record: Record, which: int, transform: ImageTransform) -> Row:
    """The links of one caption of a record."""
    phrases = [phrase for phrase in record.phrases if phrase.caption == which and phrase.regions]
    if not phrases:
        return []
    try:
        size = record.size or image_size(record.image)
    except DataError:
        return []  # whoever reads the picture reports it
    whole = transform.boxes([region.box for region in record.regions], size)
    spoken_of = sorted({i for phrase in record.phrases for i in phrase.regions})
    clipped = {i: _clipped(whole[i], transform.size) for i in spoken_of}
    boxes = {i: box for i, box in clipped.items() if box is not None}
    overlaps = _overlaps(boxes)
    return [
        Link(boxes[i], phrase.span, record.phrase_text(phrase).lower(), (i, *overlaps[i]))
        for phrase in phrases
        for i in phrase.regions
        if i in boxes
    ]


def _overlaps(boxes: dict[int, Box]) -> dict[int, list[int]]:
    """The others that each overlaps.

    >>> _overlaps({3: (0, 0, 1, 1), 5: (0, 0, 1, 0.6), 8: (0, 0, 1, 0.5)})
    {3: [5], 5: [3, 8], 8: [5]}
    """
    places = torch.tensor(list(boxes.values()), dtype=torch.double).view(-1, 4)
    near = (box_iou(places, places) > MIN_IOU).tolist()
    return {
        i: [j for j, overlaps in zip(boxes, row, strict=True) if overlaps and j != i]
        for i, row in zip(boxes, near, strict=True)
    }


def _clipped(box: Box, size: int) -> Box | None:
    """The part inside the input, in its unit; None where too little of the box is left."""
    x0, y0, x1, y1 = (min(max(side / size, 0.0), 1.0) for side in box)
    area = (box[2] - box[0]) * (box[3] - box[1]) / size**2
    is_seen = x0 < x1 and y0 < y1 and (x1 - x0) * (y1 - y0) >= MIN_VISIBLE * area
    return (x0, y0, x1, y1) if is_seen else None


def word_ranges(tokens: TokenBatch, caption: Tensor, spans: Tensor) -> Tensor:
    """(P,2) first and last + 1 real token that each span touches; (0, 0) where none does."""
    mask, offsets = tokens.mask[caption], tokens.offsets[caption]
    inside = (offsets[..., 0] < spans[:, 1:]) & (offsets[..., 1] > spans[:, :1]) & mask
    before = (mask & (inside.cumsum(1) == 0)).sum(1)
    count = inside.sum(1)
    return torch.stack([before, before + count], 1) * (count > 0)[:, None]
