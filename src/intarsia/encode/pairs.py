"""Picture-caption pairs as batches, read from records while training goes on."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from intarsia.backbones.base import Backbone, ImageTransform
from intarsia.components.hard_negatives import FalseCaptions
from intarsia.data.images import load_image
from intarsia.data.problems import Problems
from intarsia.data.records import Records
from intarsia.encode.false_rows import FalseRows
from intarsia.encode.links import Captioned, Linker, num_usable
from intarsia.encode.loader import Looks, load
from intarsia.encode.views import WHOLE
from intarsia.errors import DataError
from intarsia.ops.true_texts import true_texts
from intarsia.runtime import bar
from intarsia.types import Batch, FalseTexts, Record, TokenBatch

logger = logging.getLogger(__name__)

IN_MEMORY_BYTES = 4 * 2**30
VIEWS_AT_ONCE = 256
LOOKED_AT = 256  # records, to tell how many of the links can be used
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

    ``pictures`` (T,) is the record of each caption, ``first`` (I,) the first caption of each
    record, ``order`` the captions that make up the pairs.
    """

    def __init__(self, records: Records) -> None:
        counts = torch.from_numpy(records.num_captions)
        self.records = records
        self.pictures = torch.repeat_interleave(torch.arange(len(counts)), counts)
        self.first = counts.cumsum(0) - counts
        self.order = torch.arange(len(self.pictures))
        self.truth = true_texts(records.captions, self.pictures, len(counts))

    def with_truth(self, batch: Batch, rows: Tensor) -> Batch:
        """The batch with what its captions say and what is true of their pictures, which only
        matters where captions are shared."""
        if not self.shares_captions:
            return batch
        true = self.truth.true[self.pictures[rows]]
        return replace(batch, said=self.truth.said[rows], true=true)

    @cached_property
    def shares_captions(self) -> bool:
        return bool(self.truth.is_shared.any())

    def keep(self, readable: Tensor) -> None:
        """Leave out the captions of pictures that are False in ``readable`` (I,)."""
        self.order = readable[self.pictures].nonzero()[:, 0]

    def __len__(self) -> int:
        return len(self.order)

    def record_id(self, pair: int) -> str:
        return self.records.id_of(int(self.pictures[self.order[pair]]))


class LinkedPairs(PairIndex):
    """Pairs that may know which phrase of a caption speaks of which region.

    Args:
        records: of the pairs.
        backbone: whose transform boxes follow.
        links: whether batches hold the known (region, phrase) pairs.
        phrases: with those, the tokens of each phrase alone.
        false: negatives of the captions, which batches then hold.
    """

    def __init__(
        self,
        records: Records,
        backbone: Backbone,
        *,
        links: bool = False,
        phrases: bool = False,
        false: FalseCaptions | None = None,
    ) -> None:
        super().__init__(records)
        self.tokenizer = backbone.tokenizer
        self.false = None if false is None else FalseRows(false, records.captions, self.truth)
        self.linked: Records = records
        self.linker: Linker | None = None
        if links:
            self.linker = Linker(backbone.transform, self.tokenizer if phrases else None)
            self._tell_usable(self.linker)

    def relink(self, records: Records) -> None:
        """Take the links from ``records``, which are these with other regions or phrases."""
        self.linked = records

    def captioned(self, rows: Tensor) -> list[Captioned]:
        """The records of some captions, and which of theirs each is; pictures may lack."""
        pictures = self.pictures[rows]
        records = self.linked.without_pictures(pictures.tolist())
        return list(zip(records, (rows - self.first[pictures]).tolist(), strict=True))

    def tokens_of(self, rows: Tensor) -> TokenBatch:
        """The tokens of some captions."""
        return self.tokenizer(self.records.captions_at(rows.numpy()))

    def _tell_usable(self, linker: Linker) -> None:
        rows = torch.arange(len(self.pictures))[self.pictures < LOOKED_AT]
        captions = self.captioned(rows)
        texts = [record.captions[which] for record, which in captions]
        if texts:
            usable, known = num_usable(captions, self.tokenizer(texts), linker)
            logger.info(
                "%d of the %d links of phrases to regions in the first %d records are usable",
                *(usable, known, min(LOOKED_AT, len(self.records))),
            )


class LivePairs(LinkedPairs, Dataset[Batch]):
    """Pairs for a backbone that runs (and perhaps trains) at every step.

    Captions are tokenised as their batches are made; a batch is as wide as its longest, unless the
    backbone pads every text to its whole context, as it was trained. Pictures are decoded once and
    kept as uint8 pixels where they fit into ``IN_MEMORY_BYTES``, else at every visit, in the data
    loader's workers. A picture that cannot be read is reported; its pairs are left out when
    pictures are kept, and replaced by the next readable pair otherwise.

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
        false: FalseCaptions | None = None,
    ) -> None:
        problems = Problems() if problems is None else problems
        super().__init__(Records.of(records), backbone, links=links, phrases=phrases, false=false)
        self.transform = backbone.transform
        if not len(self.pictures):
            raise DataError("the data set has no caption to train on")
        self.trims = self.tokenizer(["a"]).ids.shape[1] < backbone.dims.context
        self.pixels: Tensor | None = None
        problems.expect(len(records))
        if len(records) * 3 * self.transform.size**2 <= IN_MEMORY_BYTES:
            self._keep_pixels(next(backbone.parameters()).device, problems)

    def _keep_pixels(self, device: torch.device, problems: Problems) -> None:
        """Decode all pictures, or take what an earlier run on the same records has decoded."""
        held = _HELD.setdefault(self.records, {})
        if self.transform not in held:
            held[self.transform] = _decoded(self.records, self.transform, device, problems)
        self.pixels, readable, told = held[self.transform]
        for name, reason in told:
            problems.add(name, "image", reason)
        problems.check()
        self.keep(readable)

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
        tokens = self._tokens(rows)
        links = None if self.linker is None else self.linker(self.captioned(rows), tokens)
        batch = Batch(index, pictures, pixels, tokens, links=links, problems=problems)
        batch = replace(self.with_truth(batch, rows), false=self._false(rows))
        if not mirrored.any():
            return batch
        may = torch.tensor([self._may_be_mirrored(i) for i in pictures.tolist()])
        return mirror(batch, mirrored & may)

    def _tokens(self, rows: Tensor) -> TokenBatch:
        tokens = self.tokens_of(rows)
        return tokens.trimmed() if self.trims else tokens

    def _false(self, rows: Tensor) -> FalseTexts | None:
        if self.false is None:
            return None
        tokens = self.false.tokens(rows, self.tokenizer)
        tokens = tokens.trimmed() if self.trims else tokens
        return self.false.of(rows, tokens)

    def _may_be_mirrored(self, picture: int) -> bool:
        first = int(self.first[picture])
        own = np.arange(first, first + int(self._num_captions[picture]))
        return not any(map(SIDED.search, self.records.captions_at(own)))

    @cached_property
    def _num_captions(self) -> Tensor:
        return torch.bincount(self.pictures, minlength=len(self.records))

    def _decode(self, pairs: Tensor) -> tuple[Tensor, Tensor, tuple[tuple[str, str], ...]]:
        """The pairs, their pixels, and what could not be read; the next readable pair instead."""
        wanted = self.pictures[self.order[pairs]].tolist()
        records = dict(zip(wanted, self.records.__getitems__(wanted), strict=True))
        seen: dict[int, Tensor] = {}
        found: list[int] = []
        pixels: list[Tensor] = []
        problems: list[tuple[str, str]] = []
        for pair in pairs.tolist():
            for candidate in range(pair, pair + len(self)):
                candidate %= len(self)
                picture = int(self.pictures[self.order[candidate]])
                record = records.get(picture) or self.records[picture]
                try:
                    if picture not in seen:
                        seen[picture] = self.transform(load_image(record.image))
                except DataError as error:
                    problems.append((record.id, str(error)))
                    continue
                found.append(candidate)
                pixels.append(seen[picture])
                break
            else:
                raise DataError(f"none of {len(self)} pairs has a readable picture")
        return torch.tensor(found), torch.stack(pixels), tuple(problems)


Decoded = tuple[Tensor, Tensor, list[tuple[str, str]]]
_HELD: WeakKeyDictionary[Records, dict[ImageTransform, Decoded]] = WeakKeyDictionary()
"""What is decoded of records that are still in use."""


def _decoded(
    records: Records, transform: ImageTransform, device: torch.device, problems: Problems
) -> Decoded:
    """(I,3,S,S) uint8 pixels of all pictures, which of them are readable (I,), and why the others
    are not.

    Raises:
        DataError: too many are not.
    """
    size = transform.size
    pixels = torch.empty(len(records), 3, size, size, dtype=torch.uint8)
    readable = torch.zeros(len(records), dtype=torch.bool)
    told: list[tuple[str, str]] = []
    looks = Looks(records, [[WHOLE]] * len(records))
    with bar(len(records), "reading pictures") as advance:
        for seen in load(looks, transform, batch_size=VIEWS_AT_ONCE, device=device):
            pixels[seen.records] = seen.pixels
            readable[seen.records] = True
            for index, reason in seen.problems:
                told.append((records.id_of(index), reason))
                problems.add(told[-1][0], "image", reason)
                problems.check()
            advance(len(seen.records) + len(seen.problems))
    return pixels, readable, told


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
