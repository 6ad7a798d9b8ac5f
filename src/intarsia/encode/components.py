"""What the components of pictures and texts are: found once, kept as boxes and phrases."""

from __future__ import annotations

import logging
import threading
from collections import ChainMap
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from intarsia.components.box_files import picture_of
from intarsia.components.detectors import Detector, load_detector
from intarsia.components.regions import image_components
from intarsia.components.text import MAX_CHARACTERS, NOT_ENGLISH, TextComponents, TextParser
from intarsia.components.text_language import is_english
from intarsia.data.problems import Problems
from intarsia.data.records import Records
from intarsia.encode.lines import JsonLines
from intarsia.encode.views import WHOLE, View, key_of
from intarsia.errors import ConfigError, DataError
from intarsia.runtime import bar, chunks, in_threads
from intarsia.types import Box, Record, Region

logger = logging.getLogger(__name__)
RECORDS_AT_ONCE, CAPTIONS_AT_ONCE = 64, 4096


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

    def __post_init__(self) -> None:
        for name in ("num_entities", "num_relations"):
            if (number := getattr(self, name)) < 0:
                raise ConfigError(f"components.{name} is {number}: choose 0 or more")


@dataclass(frozen=True, slots=True)
class ImageParts:
    """A picture's components: ``regions`` are its entities, ``pairs`` of them its relations; the
    picture is known by ``key``."""

    key: bytes
    regions: list[Region]
    pairs: list[tuple[int, int]]
    size: tuple[int, int]

    @property
    def entities(self) -> list[View]:
        return [View.of(region.box, self.size) for region in self.regions]

    @property
    def relations(self) -> list[View]:
        boxes = [region.box for region in self.regions]
        return [View.of(hull(boxes[i], boxes[j]), self.size) for i, j in self.pairs]

    @property
    def views(self) -> list[View]:
        """All that is looked at: the whole picture, the entities, the relations."""
        return [WHOLE, *self.entities, *self.relations]


@dataclass(frozen=True, slots=True)
class TextParts:
    """A text's components as texts; ``triplets`` are the relations' subject, action and object."""

    text: str
    entities: list[str]
    relations: list[str]
    triplets: list[tuple[str, str, str]]

    @property
    def texts(self) -> list[str]:
        """All that is read: the text, the entities, the relations and their ends."""
        ends = [end for triplet in self.triplets for end in triplet]
        return [self.text, *self.entities, *self.relations, *ends]


class Components:
    """Finds the components of pictures and texts; one thread at a time, whoever is not alone holds
    ``lock``.

    Args:
        spec: how.
        folder: where what detector and parser found is kept; None keeps nothing.
    """

    def __init__(self, spec: ComponentSpec, folder: Path | None) -> None:
        self.spec, self.folder = spec, folder
        self.lock = threading.RLock()
        self.detector: Detector | None = None
        self._boxes: JsonLines | None = None
        if spec.detector is not None:
            self.detector = load_detector(spec.detector, **spec.options)
            file = f"boxes-{self.detector.fingerprint()}.jsonl"
            self._boxes = JsonLines(folder / file) if folder else None
        self.parser = TextParser(spec.parser)
        file = f"parses-{self.parser.fingerprint()}.jsonl"
        self._parses = JsonLines(folder / file) if folder else None

    def of_pictures(
        self, records: Records, problems: Problems | None = None
    ) -> list[ImageParts | None]:
        """Components of every record's picture; None of one that cannot be read.

        Raises:
            DataError: too many cannot be read, or have bad regions.
        """
        problems = Problems() if problems is None else problems
        problems.expect(len(records))
        found: list[ImageParts | None] = []
        with bar(len(records), "regions of pictures") as advance:
            for some in chunks(range(len(records)), RECORDS_AT_ONCE):
                found += self._of_some(records.at(some), problems)
                advance(len(some))
        return found

    def _of_some(self, records: Records, problems: Problems) -> Iterator[ImageParts | None]:
        keys = records.picture_keys()
        regions = self._regions(records, keys, problems)
        for index, (key, own) in enumerate(zip(keys, regions, strict=True)):
            yield None if own is None else self._parts(records, index, key, own, problems)

    def _parts(
        self, records: Records, index: int, key: bytes, regions: list[Region], problems: Problems
    ) -> ImageParts | None:
        name = records.id_of(index)
        try:
            size = records.size(index)
        except DataError as error:
            problems.add(name, "image", str(error))
            problems.check()
            return None
        found = image_components(
            regions,
            size,
            num_entities=self.spec.num_entities,
            num_relations=self.spec.num_relations,
            whole_image=self.spec.whole_image,
            problems=problems,
            source=name,
        )
        pairs = [(pair.first, pair.second) for pair in found.relations]
        return ImageParts(key, list(found.entities), pairs, size)

    def _regions(
        self, records: Records, keys: Sequence[bytes], problems: Problems
    ) -> list[list[Region] | None]:
        """The regions of each picture; None where it had to be opened and cannot be."""
        if self.detector is None:
            given = records.without_pictures(range(len(records)))
            return [list(record.regions) for record in given]
        known: MutableMapping[str, Any] = {} if self._boxes is None else self._boxes.entries
        by_name = getattr(self.detector, "looks_up_names", False)
        names = [
            self._name(records, i, key) if by_name else key.hex() for i, key in enumerate(keys)
        ]
        todo = [i for i, name in enumerate(names) if name not in known]
        opened = dict(zip(todo, in_threads(_opened, records.at(todo)), strict=True))
        pictures = {names[i]: x for i, x in opened.items() if isinstance(x, Image.Image)}
        for i, reason in opened.items():
            if isinstance(reason, str):
                problems.add(records.id_of(i), "image", reason)
                problems.check()
        if pictures:
            detected = self.detector(list(pictures.values()))
            found = {
                name: [[*region.box, region.score, region.label] for region in some]
                for name, some in zip(pictures, detected, strict=True)
            }
            if self._boxes is not None:
                self._boxes.add(found)
            known = ChainMap(found, known)
        return [_as_regions(known[name]) if name in known else None for name in names]

    @staticmethod
    def _name(records: Records, index: int, key: bytes) -> str:
        """Of a picture and all that a detector may know it by."""
        (record,) = records.without_pictures([index])
        image = record.image
        file = image.name if isinstance(image, Path) else ""
        return key_of(key, record.id, file).hex()

    def of_texts(
        self, captions: Sequence[str], problems: Problems | None = None
    ) -> list[TextParts]:
        """Components of every caption; of those in other languages, which have none, ``problems``
        keeps the number, or a warning tells it."""
        if foreign := sum(not is_english(caption[:MAX_CHARACTERS]) for caption in captions):
            if problems is None:
                told = "%d of %d captions are not English and have no components"
                logger.warning(told, foreign, len(captions))
            else:
                problems.skip(NOT_ENGLISH, foreign)
        found: list[TextParts] = []
        with bar(len(captions), "phrases of captions") as advance:
            for some in chunks(captions, CAPTIONS_AT_ONCE):
                found += self._of_captions(some)
                advance(len(some))
        return found

    def _of_captions(self, captions: Sequence[str]) -> list[TextParts]:
        known: MutableMapping[str, Any] = {} if self._parses is None else self._parses.entries
        names = {caption: key_of(caption).hex() for caption in captions}
        missing = [caption for caption, name in names.items() if name not in known]
        if missing:
            parsed = zip(missing, self.parser.parse(missing), strict=True)
            found = {names[caption]: _as_json(some) for caption, some in parsed}
            if self._parses is not None:
                self._parses.add(found)
            known = ChainMap(found, known)
        k, n = self.spec.num_entities, self.spec.num_relations
        rows = ((caption, *known[names[caption]]) for caption in captions)
        return [
            TextParts(caption, entities[:k], relations[:n], [(a, b, c) for a, b, c in triplets[:n]])
            for caption, entities, relations, triplets in rows
        ]


def hull(a: Box, b: Box) -> Box:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _opened(record: Record) -> Image.Image | str:
    """A record's picture, or why it cannot be read."""
    try:
        return picture_of(record)
    except DataError as error:
        return str(error)


def _as_regions(rows: Sequence[Any]) -> list[Region]:
    return [Region((a, b, c, d), label, score) for a, b, c, d, score, label in rows]


def _as_json(found: TextComponents) -> list[Any]:
    return [found.entity_texts(), found.relation_texts(), found.triplet_texts()]
