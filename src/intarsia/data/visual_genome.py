"""Visual Genome: region descriptions, objects with attributes, and relationships."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from intarsia.data.boxes import cut
from intarsia.data.files import entries, format_of, read_json
from intarsia.data.flickr_entities import flickr30k_entities
from intarsia.data.problems import Problems, screened
from intarsia.errors import ConfigError, DataError, unknown
from intarsia.types import Phrase, Record, Region

KINDS = {
    "region_descriptions.json": "regions",
    "attributes.json": "attributes",
    "objects.json": "objects",
    "relationships.json": "relationships",
}
"""Annotation files and the list that each holds of a picture, in the order they are read."""
SPLIT = re.compile(r"(all|joined)((?:-\w+)*)(\+flickr30k_entities)?")
JOINED = 10  # descriptions of a picture that make its one caption
SEPARATOR = ", "
COCO_FILES = ("captions", "instances", "image_info")  # each lists all pictures of its split
CHARACTERS = 1 << 20  # read at a time
BETWEEN = re.compile(r"[\s,]*")


def visual_genome(root: Path, split: str, problems: Problems) -> Iterator[Record]:
    """Visual Genome (any version): ``image_data.json`` and those of ``KINDS`` that are there.

    What is not wanted is left out by leaving out its file. Captions are the region descriptions,
    each a phrase that speaks of its region, then the relationships as "subject predicate object"
    with a phrase for each end. Regions are those described, labelled with the description, and the
    objects, labelled with attributes and name ("red car"); objects of relationships are those of
    the other files with the same id. Boxes are cut to the picture. The id is the image id.

    The pictures lie in ``VG_100K/`` and ``VG_100K_2/``, in ``root`` or in ``images/``. Half of them
    are pictures of COCO, also of its validation split, and some are pictures of Flickr30k: what a
    model is tested with must be left out of its training. Other data sets lie beside ``root``.

    Args:
        split: ``all``, or ``joined`` for one caption a picture: its first ``JOINED`` region
            descriptions, each a phrase. Then what to leave out: ``-coco`` (every picture of COCO),
            ``-coco_SPLIT`` (those of ``coco/annotations/captions_SPLIT.json``), ``-flickr30k``
            (those of ``flickr30k/dataset_flickr30k.json``). Then ``+flickr30k_entities`` to add the
            training pictures of Flickr30k; if ``joined``, with the first caption of each. For
            example ``joined-coco+flickr30k_entities``; parts are taken as ``all[:-5000]``.

    Raises:
        ConfigError: The split is unknown.
        DataError: A file is missing or of another format, or too many records are bad.
    """
    match = SPLIT.fullmatch(split)
    if match is None:
        choices = unknown("split of visual_genome", split, ("all", "joined"))
        raise ConfigError(f"{choices}, then perhaps -coco, -coco_SPLIT, -flickr30k")
    form, without, flickr = match.groups()
    kinds = {"region_descriptions.json": "regions"} if form == "joined" else KINDS
    overlaps = [_overlap(root, name) for name in without.split("-")[1:]]
    for record in _described(root, kinds, overlaps, problems):
        yield _joined_captions(record) if form == "joined" else record
    if flickr:
        for record in flickr30k_entities(root.parent / "flickr30k_entities", "train", problems):
            record = replace(record, id=f"flickr30k/{record.id}")
            yield _first_caption(record) if form == "joined" else record


@dataclass(frozen=True, slots=True)
class _Overlap:
    """Pictures that are those of another data set; ``ids`` None = all that have an id there."""

    name: str
    field: str
    ids: frozenset[int] | None

    def holds(self, picture: Any) -> bool:
        key = picture[self.field]
        return key is not None and (self.ids is None or int(key) in self.ids)


def _overlap(root: Path, name: str) -> _Overlap:
    """The pictures to leave out by the name of their other data set, which lies beside ``root``."""
    if name == "coco":
        return _Overlap(name, "coco_id", None)
    if name == "flickr30k":
        path = root.parent / "flickr30k" / "dataset_flickr30k.json"
        field, key = "flickr_id", lambda image: int(Path(image["filename"]).stem)
    elif name.startswith("coco_"):
        folder, split = root.parent / "coco" / "annotations", name.removeprefix("coco_")
        paths = [folder / f"{kind}_{split}.json" for kind in COCO_FILES]
        path = next(filter(Path.is_file, paths), paths[0])
        field, key = "coco_id", lambda image: int(image["id"])
    else:
        choices = ("coco", "coco_SPLIT", "flickr30k")
        raise ConfigError(unknown("data set to leave out of visual_genome", name, choices))
    with format_of(path):
        return _Overlap(name, field, frozenset(map(key, entries(read_json(path), "images", path))))


def _described(
    root: Path, kinds: dict[str, str], overlaps: list[_Overlap], problems: Problems
) -> Iterator[Record]:
    paths = {field: root / name for name, field in kinds.items() if (root / name).is_file()}
    if not paths:
        raise DataError(f"{root}: no annotations: looked for {', '.join(kinds)}")
    folder = root / "images" if (root / "images").is_dir() else root
    candidates = _records(root / "image_data.json", paths, folder, overlaps, problems)
    has_text = bool({"regions", "relationships"} & set(paths))
    for record in screened(candidates, problems, need_captions=False):
        if record.captions or not has_text:
            yield record
        else:
            problems.skip("picture that nothing is said of")


def _joined_captions(record: Record) -> Record:
    """The first region descriptions as one caption, each of them still a phrase of its region."""
    phrases, start = [], 0
    for phrase, text in zip(record.phrases[:JOINED], record.captions, strict=False):
        phrases.append(Phrase(0, (start, start + len(text)), phrase.regions))
        start += len(text) + len(SEPARATOR)
    caption = SEPARATOR.join(record.captions[:JOINED])
    return replace(record, captions=(caption,), phrases=tuple(phrases))


def _first_caption(record: Record) -> Record:
    phrases = tuple(phrase for phrase in record.phrases if phrase.caption == 0)
    return replace(record, captions=record.captions[:1], phrases=phrases)


def _records(
    path: Path,
    paths: dict[str, Path],
    folder: Path,
    overlaps: list[_Overlap],
    problems: Problems,
) -> Iterator[Record]:
    files = {field: _File(place, field) for field, place in paths.items()}
    pictures = read_json(path)
    with format_of(path):
        for picture in pictures:
            key, (parent, name) = picture["image_id"], picture["url"].split("/")[-2:]
            overlap = next((overlap for overlap in overlaps if overlap.holds(picture)), None)
            draft = _Draft((picture["width"], picture["height"]), problems)
            for field, file in files.items():
                with format_of(file.path):
                    said = file.take(key)
                    for index, entry in enumerate(said if overlap is None else ()):
                        draft.add(field, entry, f"{file.path}: image {key}: {field}[{index}]")
            if overlap is None:
                yield draft.record(str(key), folder / parent / name)
            else:
                problems.skip(f"picture of {overlap.name}")
    for file in files.values():
        for key in file.rest():
            problems.add(f"{file.path}: image {key}", "image_id", f"unknown in {path.name}")


class _File:
    """The annotations of one picture after another, of a file too large to be held as a whole.

    Pictures that another file names in another order wait in memory.
    """

    def __init__(self, path: Path, field: str) -> None:
        self.path, self._field = path, field
        self._elements = _elements(path)
        self._waiting: dict[int, list[Any]] = {}

    def take(self, key: int) -> list[Any]:
        """What the file says of a picture."""
        while key not in self._waiting and self._read():
            pass
        return self._waiting.pop(key, [])

    def rest(self) -> list[int]:
        """The pictures that were never taken."""
        with format_of(self.path):
            while self._read():
                pass
        return list(self._waiting)

    def _read(self) -> bool:
        element = next(self._elements, None)
        if element is not None:
            key = element["image_id"] if "image_id" in element else element["id"]
            self._waiting[key] = element[self._field]
        return element is not None


def _elements(path: Path) -> Iterator[Any]:
    """The elements of the list in a JSON file, one at a time."""
    decode = json.JSONDecoder().raw_decode
    with path.open(encoding="utf-8-sig") as file:
        text = file.read(CHARACTERS)
        if not text.startswith("["):
            raise DataError(f"{path}: must be a list of pictures, begins with {text[:20]!r}")
        place = 1
        while True:
            place += len(BETWEEN.match(text, place)[0])  # type: ignore[index]  # may be empty
            if text.startswith("]", place):
                return
            try:
                element, place = decode(text, place)
            except json.JSONDecodeError as error:
                if not (more := file.read(CHARACTERS)):
                    raise DataError(f"{path}: not JSON, or cut off: {error}") from error
                text, place = text[place:] + more, 0
                continue
            yield element


class _Draft:
    """A record in the making."""

    def __init__(self, size: tuple[int, int], problems: Problems) -> None:
        self.size, self.problems = size, problems
        self.captions: list[str] = []
        self.phrases: list[Phrase] = []
        self.regions: list[Region] = []
        self.objects: dict[int, int | None] = {}  # object id -> its region; None: box outside

    def add(self, field: str, entry: Any, where: str) -> None:
        add = {"regions": self._describe, "relationships": self._relate}.get(field, self._object)
        add(entry, where)

    def record(self, key: str, image: Path) -> Record:
        return Record(key, image, tuple(self.captions), tuple(self.regions), tuple(self.phrases))

    def _describe(self, entry: Any, where: str) -> None:
        text = _joined(entry["phrase"])
        if not text:
            self.problems.add(where, "phrase", "empty")
        elif (region := self._region(entry, text, where)) is not None:
            self.phrases.append(Phrase(len(self.captions), (0, len(text)), (region,)))
            self.captions.append(text)

    def _object(self, entry: Any, where: str) -> int | None:
        """The region of an object, new if its id is."""
        key = entry["object_id"]
        if key not in self.objects:
            label = _joined(*(entry.get("attributes") or ()), _name(entry))
            self.objects[key] = self._region(entry, label, where)
        return self.objects[key]

    def _relate(self, entry: Any, where: str) -> None:
        ends = entry["subject"], entry["object"]
        subject, thing = (_joined(_name(end)) for end in ends)
        predicate = _joined(entry["predicate"]).lower()
        if not (subject and predicate and thing):
            self.problems.add(where, "predicate", f"{subject!r} {predicate!r} {thing!r}: empty")
            return
        text = f"{subject} {predicate} {thing}"
        spans = (0, len(subject)), (len(text) - len(thing), len(text))
        for end, span in zip(ends, spans, strict=True):
            region = self._object(end, where)
            regions = () if region is None else (region,)
            self.phrases.append(Phrase(len(self.captions), span, regions))
        self.captions.append(text)

    def _region(self, entry: Any, label: str, where: str) -> int | None:
        x, y = entry["x"], entry["y"]
        width, height = (
            entry[name] if name in entry else entry[name[0]] for name in ("width", "height")
        )
        box = cut((x, y, x + width, y + height), self.size, where, "box", self.problems)
        if box is None:
            return None
        self.regions.append(Region(box, label))
        return len(self.regions) - 1


def _name(thing: Any) -> str:
    """Objects have ``names``, in relationships of some versions a ``name``."""
    return "".join(thing["names"][:1]) if "names" in thing else str(thing["name"])


def _joined(*words: str) -> str:
    return " ".join(" ".join(words).split())
