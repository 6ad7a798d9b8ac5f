"""Picture-caption pairs as batches, read from records while training goes on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from intarsia.backbones.base import Backbone, ImageTransform
from intarsia.data.images import load_image
from intarsia.data.problems import Problems
from intarsia.encode.links import links_of
from intarsia.errors import DataError
from intarsia.runtime import progress
from intarsia.types import Batch, Links, Record, TokenBatch

IN_MEMORY_BYTES = 4 * 2**30
SIDED = re.compile(r"\b(?:top|bottom|upper|lower)?(?:left|right)", re.IGNORECASE)


class Pairs(Protocol):
    """Every (picture, caption) of a data set, addressed by pair index, read a batch at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, pairs: Sequence[int]) -> Batch: ...

    def record_id(self, pair: int) -> str:
        """The id of the record that a pair comes from."""
        ...


class PairIndex:
    """Which record each pair comes from: every caption of every record whose picture is readable.

    ``pictures`` (T,) is the record of each caption, ``order`` the captions that make up the pairs.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        counts = torch.tensor([len(record.captions) for record in records])
        self.ids = [record.id for record in records]
        self.pictures = torch.repeat_interleave(torch.arange(len(counts)), counts)
        self.order = torch.arange(len(self.pictures))

    def keep(self, readable: Tensor) -> None:
        """Leave out the captions of pictures that are False in ``readable`` (I,)."""
        self.order = readable[self.pictures].nonzero()[:, 0]

    def __len__(self) -> int:
        return len(self.order)

    def record_id(self, pair: int) -> str:
        return self.ids[int(self.pictures[self.order[pair]])]


class LivePairs(PairIndex, Dataset[Batch]):
    """Pairs for a backbone that runs (and perhaps trains) at every step.

    Captions are tokenised once; a batch is as wide as its longest, unless the backbone pads every
    text to its whole context, as it was trained. Pictures are decoded once and kept as uint8 pixels
    where they fit into ``IN_MEMORY_BYTES``, else at every visit, in the data loader's workers. A
    picture that cannot be read is reported; its pairs are left out when pictures are kept, and
    replaced by the next readable pair otherwise. With ``links`` its batches hold the known
    (region, phrase) pairs, with ``phrases`` also the tokens of each phrase alone.

    Numbers from ``len(self)`` on are the same pairs once more, mirrored: picture and boxes. A
    picture any of whose captions has a word that begins with left or right (or topleft and the
    like) is never mirrored.
    """

    def __init__(
        self,
        records: Sequence[Record],
        backbone: Backbone,
        problems: Problems | None = None,
        *,
        links: bool = False,
        phrases: bool = False,
    ) -> None:
        problems = Problems() if problems is None else problems
        self.transform: ImageTransform = backbone.transform
        super().__init__(records)
        captions = [caption for record in records for caption in record.captions]
        if not captions:
            raise DataError("the data set has no caption to train on")
        self.mirrors = torch.tensor([not any(map(SIDED.search, r.captions)) for r in records])
        self.tokens: TokenBatch = backbone.tokenize(captions)
        self.trims = backbone.tokenize(["a"]).ids.shape[1] < backbone.dims.context
        self.links: Links | None = None
        if links:
            self.links = links_of(records, backbone, self.tokens, phrases=phrases)
        self.records: Sequence[Record] | None = records
        self.pixels: Tensor | None = None
        problems.expect(len(records))
        if len(self.ids) * 3 * self.transform.size**2 <= IN_MEMORY_BYTES:
            self._keep_pixels(records, problems)

    def _keep_pixels(self, records: Sequence[Record], problems: Problems) -> None:
        size = self.transform.size
        self.pixels = torch.empty(len(records), 3, size, size, dtype=torch.uint8)
        readable = torch.ones(len(records), dtype=torch.bool)
        for index, record in enumerate(progress(records, "reading pictures")):
            try:
                self.pixels[index] = self.transform(load_image(record.image))
            except DataError as error:
                readable[index] = False
                problems.add(record.id, "image", str(error))
                problems.check()
        self.keep(readable)
        self.records = None

    def __getitem__(self, pairs: Sequence[int]) -> Batch:
        index = torch.as_tensor(pairs)
        mirrored, index = index >= len(self), index % len(self)
        problems: tuple[tuple[str, str], ...] = ()
        if self.pixels is None:
            index, pixels, problems = self._decode(index)
        else:
            pixels = self.pixels[self.pictures[self.order[index]]]
        rows = self.order[index]
        pictures = self.pictures[rows]
        links = None if self.links is None else self.links.rows(rows)
        tokens = self.tokens.rows(rows)
        tokens = tokens.trimmed() if self.trims else tokens
        batch = Batch(index, pictures, pixels, tokens, links=links)
        return replace(mirror(batch, mirrored & self.mirrors[pictures]), problems=problems)

    def _decode(self, pairs: Tensor) -> tuple[Tensor, Tensor, tuple[tuple[str, str], ...]]:
        assert self.records is not None
        found: list[int] = []
        pixels: list[Tensor] = []
        problems: list[tuple[str, str]] = []
        for pair in pairs.tolist():
            for candidate in range(pair, pair + len(self)):
                candidate %= len(self)
                record = self.records[int(self.pictures[self.order[candidate]])]
                try:
                    pixels.append(self.transform(load_image(record.image)))
                except DataError as error:
                    problems.append((record.id, str(error)))
                    continue
                found.append(candidate)
                break
            else:
                raise DataError(f"none of {len(self)} pairs has a readable picture")
        return torch.tensor(found), torch.stack(pixels), tuple(problems)


def mirror(batch: Batch, rows: Tensor) -> Batch:
    """The batch with the pictures of some ``rows`` (B,) bool mirrored, and their boxes with them.

    Returns:
        A new batch; the pixels are changed in place.
    """
    assert batch.pixels is not None
    batch.pixels[rows] = batch.pixels[rows].flip(-1)
    if batch.links is None:
        return batch
    x0, y0, x1, y1 = batch.links.boxes.unbind(-1)
    mirrored = torch.stack([1 - x1, y0, 1 - x0, y1], -1)
    chosen = (rows[:, None] & batch.links.mask)[..., None]
    boxes = torch.where(chosen, mirrored, batch.links.boxes)
    return replace(batch, links=replace(batch.links, boxes=boxes))
