"""Records -> components -> tower states of each, kept by content and computed once."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intarsia.backbones.base import Backbone
from intarsia.components.box_files import picture_of
from intarsia.components.detectors import Detector, load_detector
from intarsia.components.regions import image_components
from intarsia.components.text import TextComponents, TextParser
from intarsia.data.problems import Problems
from intarsia.encode.lines import JsonLines
from intarsia.encode.vectors import VectorStore, key_of
from intarsia.errors import DataError
from intarsia.runtime import progress
from intarsia.types import Box, ImageSource, Record, Region

RECORDS_AT_ONCE, CAPTIONS_AT_ONCE, TEXTS_AT_ONCE = 64, 4096, 64


@dataclass(frozen=True)
class ComponentSpec:
    """How the components of pictures and texts are found.

    Args:
        detector: as of ``load_detector``; None takes the regions of the records.
        options: of the detector.
        parser: spaCy model.
        num_entities: at most so many entities of a picture or a text.
        num_relations: at most so many relations.
        whole_image: a picture without a region has itself as its one entity.
    """

    detector: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    parser: str = "en_core_web_sm"
    num_entities: int = 10
    num_relations: int = 10
    whole_image: bool = True


@dataclass(frozen=True, slots=True)
class ImageParts:
    """A picture's components, and the keys of the vectors of the whole and of each of them."""

    whole: bytes
    entities: list[bytes]
    relations: list[bytes]
    regions: list[Region]
    pairs: list[tuple[int, int]]
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class TextParts:
    """A text's components as texts; ``triplets`` are the relations' subject, action and object."""

    text: str
    entities: list[str]
    relations: list[str]
    triplets: list[tuple[str, str, str]]


class ComponentStore:
    """Finds components and embeds them with a frozen backbone; what was done is not done again.

    The whole picture is what the backbone itself would see of it; a region is cut out and scaled
    to the backbone's input whatever its shape.

    One thread at a time may use it: whoever is not alone holds ``lock``.

    Args:
        backbone: frozen, on its device; put in evaluation mode.
        spec: how components are found.
        folder: where everything is kept; None = in memory, for as long as this object lives.
        compiled: the image tower by ``torch.compile``, its weights folded in: worth a minute's
            wait for thousands of pictures. Needs a C++ compiler, or a GPU.
    """

    def __init__(
        self,
        backbone: Backbone,
        spec: ComponentSpec,
        folder: Path | None,
        *,
        compiled: bool = False,
    ) -> None:
        self.backbone, self.spec, self.folder = backbone.eval(), spec, folder
        self.compiled, self.lock = compiled, threading.RLock()
        self.image_states = backbone.image_states
        if compiled:
            self.image_states = torch.compile(
                backbone.image_states, dynamic=False, options={"freezing": True}
            )
        made_by = backbone.fingerprint()
        self.images = VectorStore(folder and folder / made_by / "images", made_by)
        self.texts = VectorStore(folder and folder / made_by / "texts", made_by)
        self.detector: Detector | None = None
        self.boxes: JsonLines | None = None
        if spec.detector is not None:
            self.detector = load_detector(spec.detector, **spec.options)
            file = f"boxes-{self.detector.fingerprint()}.jsonl"
            self.boxes = JsonLines(folder and folder / file)
        self.parser = TextParser(spec.parser)
        self.parses = JsonLines(folder and folder / f"parses-{self.parser.fingerprint()}.jsonl")
        self.squash = backbone.transform.squashed()

    def close(self) -> None:
        """Write everything through to the disk and let other processes go on from it."""
        self.images.close()
        self.texts.close()

    # ---- pictures -----------------------------------------------------------------------------

    def add_pictures(
        self, records: Sequence[Record], problems: Problems | None = None
    ) -> list[ImageParts | None]:
        """Components of every record's picture, their vectors in ``images``; None = unreadable."""
        problems = Problems() if problems is None else problems
        problems.expect(len(records))
        found: list[ImageParts | None] = []
        starts = range(0, len(records), RECORDS_AT_ONCE)
        for start in progress(starts, f"regions and crops, by {RECORDS_AT_ONCE} pictures"):
            found += self.find(records[start : start + RECORDS_AT_ONCE], problems)
        return found

    def find(self, records: Sequence[Record], problems: Problems) -> list[ImageParts | None]:
        """:meth:`add_pictures` of a few, all open at once."""
        pictures = [_opened(record, problems) for record in records]
        regions = self._regions(records, pictures)
        found: list[ImageParts | None] = []
        waiting: dict[bytes, Tensor] = {}
        for record, picture, boxes in zip(records, pictures, regions, strict=True):
            if picture is None:
                found.append(None)
                continue
            image, digest = picture
            parts = self._parts(record, image.size, digest, boxes, problems)
            for key, box in self._views(parts):
                if key not in self.images and key not in waiting:
                    waiting[key] = self._pixels(image, box)
            found.append(parts)
        self._embed_pictures(waiting)
        return found

    def _regions(
        self, records: Sequence[Record], pictures: Sequence[tuple[Image.Image, bytes] | None]
    ) -> list[list[Region]]:
        if self.detector is None or self.boxes is None:
            return [list(record.regions) for record in records]
        missing = {p[1].hex(): p[0] for p in pictures if p and p[1].hex() not in self.boxes.entries}
        if missing:
            detected = self.detector(list(missing.values()))
            self.boxes.add(
                {
                    key: [[*region.box, region.score, region.label] for region in found]
                    for key, found in zip(missing, detected, strict=True)
                }
            )
        return [
            [Region((a, b, c, d), label, score) for a, b, c, d, score, label in rows]
            for rows in (self.boxes.entries[p[1].hex()] if p else [] for p in pictures)
        ]

    def _parts(
        self,
        record: Record,
        size: tuple[int, int],
        digest: bytes,
        regions: Sequence[Region],
        problems: Problems,
    ) -> ImageParts:
        spec = self.spec
        found = image_components(
            regions,
            size,
            num_entities=spec.num_entities,
            num_relations=spec.num_relations,
            whole_image=spec.whole_image,
            problems=problems,
            source=record.id,
        )
        return ImageParts(
            key_of(digest, "whole"),
            [_view(digest, region.box, size) for region in found.entities],
            [_view(digest, pair.box, size) for pair in found.relations],
            list(found.entities),
            [(pair.first, pair.second) for pair in found.relations],
            size,
        )

    @staticmethod
    def _views(parts: ImageParts) -> Iterator[tuple[bytes, Box | None]]:
        """The keys of all vectors of a picture, and what to cut out; None = the whole picture."""
        boxes = [region.box for region in parts.regions]
        yield parts.whole, None
        yield from zip(parts.entities, boxes, strict=True)
        for key, (i, j) in zip(parts.relations, parts.pairs, strict=True):
            yield key, hull(boxes[i], boxes[j])

    def _pixels(self, image: Image.Image, box: Box | None) -> Tensor:
        if box is None:
            return self.backbone.preprocess(image)
        return self.squash(image.crop(_whole_pixels(box, image.size)))

    @torch.no_grad()
    def _embed_pictures(self, waiting: dict[bytes, Tensor]) -> None:
        keys, step = list(waiting), self.backbone.images_at_once
        device = next(self.backbone.parameters()).device
        for start in range(0, len(keys), step):
            some = keys[start : start + step]
            pixels = torch.stack([waiting[key] for key in some])
            if self.compiled:  # for one size of batch only
                pixels = torch.cat([pixels, pixels[:1].expand(step - len(some), -1, -1, -1)])
            states = self.image_states(pixels.to(device)).require("image_global")
            self.images.add(some, states[: len(some)])

    # ---- texts --------------------------------------------------------------------------------

    def add_texts(self, captions: Sequence[str]) -> list[TextParts]:
        """Components of every caption, their vectors in ``texts``."""
        found: list[TextParts] = []
        starts = range(0, len(captions), CAPTIONS_AT_ONCE)
        for start in progress(starts, f"phrases, by {CAPTIONS_AT_ONCE} captions"):
            parts = self._parsed(captions[start : start + CAPTIONS_AT_ONCE])
            needed = dict.fromkeys(text for part in parts for text in _texts_of(part))
            self._embed_texts([text for text in needed if key_of(text) not in self.texts])
            found += parts
        return found

    def _parsed(self, captions: Sequence[str]) -> list[TextParts]:
        missing = [c for c in dict.fromkeys(captions) if key_of(c).hex() not in self.parses.entries]
        if missing:
            parsed = zip(missing, self.parser.parse(missing), strict=True)
            self.parses.add({key_of(c).hex(): _as_json(found) for c, found in parsed})
        rows = [self.parses.entries[key_of(caption).hex()] for caption in captions]
        k, n = self.spec.num_entities, self.spec.num_relations
        return [
            TextParts(caption, entities[:k], relations[:n], [(a, b, c) for a, b, c in triplets[:n]])
            for caption, (entities, relations, triplets) in zip(captions, rows, strict=True)
        ]

    @torch.no_grad()
    def _embed_texts(self, texts: list[str]) -> None:
        texts.sort(key=len)
        device = next(self.backbone.parameters()).device
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            some = texts[start : start + TEXTS_AT_ONCE]
            states = self.backbone.text_states(self.backbone.tokenize(some).to(device))
            self.texts.add([key_of(t) for t in some], states.require("text_global"))


def hull(a: Box, b: Box) -> Box:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _opened(record: Record, problems: Problems) -> tuple[Image.Image, bytes] | None:
    """A record's picture and the hash of its content."""
    try:
        return picture_of(record), key_of(_content(record.image))
    except DataError as error:
        problems.add(record.id, "image", str(error))
        problems.check()
        return None


def _content(image: ImageSource) -> bytes:
    if isinstance(image, Path):
        return image.read_bytes()
    if isinstance(image, np.ndarray):
        return repr(image.shape).encode() + image.tobytes()
    return image


def _view(digest: bytes, box: Box, size: tuple[int, int]) -> bytes:
    return key_of(digest, ",".join(map(str, _whole_pixels(box, size))))


def _whole_pixels(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The smallest box of whole pixels around one, at least a pixel wide, inside the picture."""
    x0, y0 = (min(int(low), limit - 1) for low, limit in zip(box[:2], size, strict=True))
    x1, y1 = (
        min(max(int(np.ceil(high)), low + 1), limit)
        for high, low, limit in zip(box[2:], (x0, y0), size, strict=True)
    )
    return x0, y0, x1, y1


def _as_json(found: TextComponents) -> list[Any]:
    return [found.entity_texts(), found.relation_texts(), found.triplet_texts()]


def _texts_of(part: TextParts) -> Iterable[str]:
    yield part.text
    yield from part.entities
    yield from part.relations
    for triplet in part.triplets:
        yield from triplet
