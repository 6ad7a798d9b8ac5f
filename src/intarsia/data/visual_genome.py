"""Visual Genome: region descriptions, objects with attributes, and relationships."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from intarsia.data.annotated import fitted
from intarsia.data.boxes import cut
from intarsia.data.files import entries, format_of, read_json
from intarsia.data.flickr_entities import entity_ids, entity_records
from intarsia.data.json_stream import elements
from intarsia.data.order import WHOLE, Part, id_order
from intarsia.data.problems import BadField, Problems, screened
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
FLICKR = "flickr30k/"
"""Before the ids of pictures that are added from Flickr30k Entities."""


def visual_genome(
    root: Path, split: str, problems: Problems, part: Part = WHOLE
) -> Iterator[Record]:
    """Visual Genome 1.0 to 1.4: ``image_data.json`` and those of ``KINDS`` that are there.

    What is not wanted is left out by leaving out its file. Captions are the region descriptions,
    each a phrase that speaks of its region, then the relationships as "subject predicate object"
    with a phrase for each end. Regions are those described, labelled with the description, and the
    objects, labelled with attributes and name ("red car"); objects of relationships are those of
    the other files with the same id. Boxes are cut to the picture. The id is the image id, a
    number, by which records are ordered.

    Parts by position count the pictures of ``image_data.json``, before any is left out, and behind
    them those of Flickr30k; so they are the same whichever files are there.

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
    pictures = _pictures(root / "image_data.json", problems)
    entities = root.parent / "flickr30k_entities"
    more = [FLICKR + key for key in entity_ids(entities, "train")] if flickr else []
    chosen = frozenset(part.of([*pictures, *more]))
    reading = _Reading(root, kinds, overlaps, chosen, problems)
    for record in reading.records(pictures):
        yield _joined_captions(record) if form == "joined" else record
    wanted = [key.removeprefix(FLICKR) for key in more if key in chosen]
    for record in entity_records(entities, wanted, problems) if wanted else ():
        record = replace(record, id=FLICKR + record.id)
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


def _pictures(path: Path, problems: Problems) -> dict[str, Any]:
    """The pictures of ``image_data.json`` by their ids, in the order of these."""
    pictures: dict[str, Any] = {}
    listed = read_json(path)
    if not isinstance(listed, list):
        raise DataError(f"{path}: must be a list of pictures, is {type(listed).__name__}")
    for index, picture in enumerate(listed):
        with problems.entry(f"{path}: [{index}]", "records"):
            key = str(_key(picture, "image_id"))
            if key in pictures:
                raise BadField("image_id", f"{key} is used twice")
            pictures[key] = picture
    return {key: pictures[key] for key in sorted(pictures, key=id_order)}


class _Reading:
    """The files of ``kinds`` that are there, read picture by picture side by side."""

    def __init__(
        self,
        root: Path,
        kinds: dict[str, str],
        overlaps: list[_Overlap],
        chosen: Collection[str],
        problems: Problems,
    ) -> None:
        paths = {field: root / name for name, field in kinds.items() if (root / name).is_file()}
        if not paths:
            raise DataError(f"{root}: no annotations: looked for {', '.join(kinds)}")
        self.path = root / "image_data.json"
        self.folder = root / "images" if (root / "images").is_dir() else root
        self.files = {field: _File(path, field, problems) for field, path in paths.items()}
        self.overlaps, self.chosen, self.problems = overlaps, chosen, problems

    def records(self, pictures: dict[str, Any]) -> Iterator[Record]:
        has_text = bool({"regions", "relationships"} & set(self.files))
        sound = screened(self._candidates(pictures), self.problems, need_captions=False)
        for record in fitted(sound, self.problems):
            if record.captions or not has_text:
                yield record
            else:
                self.problems.skip("picture that nothing is said of")

    def _candidates(self, pictures: dict[str, Any]) -> Iterator[Record]:
        wanted = [key for key in pictures if key in self.chosen]
        for key, picture in pictures.items():
            said = {field: file.take(key) for field, file in self.files.items()}
            if key not in self.chosen:
                continue
            with self.problems.entry(f"{self.path}: image {key}", "records"):
                if record := self._candidate(key, picture, said):
                    yield record
            if key == wanted[-1] and len(wanted) < len(pictures):
                return  # what is left in the files belongs to other parts
        for file in self.files.values():
            for key in file.rest():
                where = f"{file.path}: image {key}"
                reason = f"unknown in {self.path.name}"
                self.problems.leave_out(where, "image_id", reason, "records")

    def _candidate(self, key: str, picture: Any, said: dict[str, list[Any]]) -> Record | None:
        """The record of a picture; None if it is left out on purpose."""
        parent, name = picture["url"].split("/")[-2:]
        for overlap in self.overlaps:
            if overlap.holds(picture):
                self.problems.skip(f"picture of {overlap.name}")
                return None
        draft = _Draft((picture["width"], picture["height"]), self.problems)
        for field, some in said.items():
            for index, entry in enumerate(some):
                draft.add(field, entry, f"{self.files[field].path}: image {key}: {field}[{index}]")
        return draft.record(key, self.folder / parent / name)


class _File:
    """The annotations of one picture after another, of a file too large to be held as a whole.

    Pictures that the file names in another order than the ids' wait in memory.
    """

    def __init__(self, path: Path, field: str, problems: Problems) -> None:
        self.path, self._field, self._problems = path, field, problems
        self._elements = enumerate(elements(path))
        self._waiting: dict[str, list[Any]] = {}

    def take(self, key: str) -> list[Any]:
        """What the file says of a picture."""
        while key not in self._waiting and self._read():
            pass
        return self._waiting.pop(key, [])

    def rest(self) -> list[str]:
        """The pictures that were never taken."""
        while self._read():
            pass
        return list(self._waiting)

    def _read(self) -> bool:
        found = next(self._elements, None)
        if found is None:
            return False
        index, element = found
        with self._problems.entry(f"{self.path}: [{index}]", "records"):
            key, said = str(_key(element, "image_id")), element[self._field]
            if not isinstance(said, list):
                raise BadField(self._field, f"must be a list, is {type(said).__name__}")
            self._waiting[key] = said
        return True


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
        with self.problems.entry(where, "captions" if field == "relationships" else "boxes"):
            add(entry, where)

    def record(self, key: str, image: Path) -> Record:
        return Record(
            key,
            image,
            tuple(self.captions),
            tuple(self.regions),
            tuple(self.phrases),
            size=self.size,
        )

    def _describe(self, entry: Any, where: str) -> None:
        text = _joined(entry["phrase"])
        if not text:
            self.problems.leave_out(where, "phrase", "empty", "captions")
        elif (region := self._region(entry, text, where)) is not None:
            self.phrases.append(Phrase(len(self.captions), (0, len(text)), (region,)))
            self.captions.append(text)

    def _object(self, entry: Any, where: str) -> int | None:
        """The region of an object, new if its id is."""
        key = _key(entry, "object_id")
        if key not in self.objects:
            label = _joined(*(entry.get("attributes") or ()), _name(entry))
            self.objects[key] = self._region(entry, label, where)
        return self.objects[key]

    def _relate(self, entry: Any, where: str) -> None:
        ends = entry["subject"], entry["object"]
        subject, thing = (_joined(_name(end)) for end in ends)
        predicate = _joined(entry["predicate"]).lower()
        if not (subject and predicate and thing):
            raise BadField("predicate", f"{subject!r} {predicate!r} {thing!r}: empty")
        text = f"{subject} {predicate} {thing}"
        spans = (0, len(subject)), (len(text) - len(thing), len(text))
        regions = [self._object(end, where) for end in ends]
        for region, span in zip(regions, spans, strict=True):
            places = () if region is None else (region,)
            self.phrases.append(Phrase(len(self.captions), span, places))
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


def _key(entry: Any, name: str) -> Any:
    """An id under its name, or as ``id``, which it is in version 1.0."""
    return entry[name] if name in entry else entry["id"]


def _name(thing: Any) -> str:
    """The first of the ``names``: ``object_names`` in attributes of version 1.0; where things are
    related they may have one ``name``."""
    names = thing.get("names", thing.get("object_names"))
    return str(thing["name"]) if names is None else "".join(names[:1])


def _joined(*words: str) -> str:
    return " ".join(" ".join(words).split())
