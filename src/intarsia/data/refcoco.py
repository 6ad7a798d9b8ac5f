"""RefCOCO, RefCOCO+ and RefCOCOg: expressions that single out one object of a COCO picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from intarsia.data.annotated import fitted
from intarsia.data.boxes import inside, size_of, spanned
from intarsia.data.files import entries, existing_folder, format_of, read_json
from intarsia.data.order import WHOLE, Part, id_order
from intarsia.data.problems import BadField, Kind, Problems, screened
from intarsia.errors import ConfigError, DataError, unknown
from intarsia.types import Phrase, Record, Region


def refcoco(root: Path, split: str, problems: Problems, part: Part = WHOLE) -> Iterator[Record]:
    """RefCOCO, RefCOCO+ or RefCOCOg: ``refs(BY).json``, ``instances.json`` and ``train2014/``.

    The expressions are published as ``refs(BY).p``, a Python pickle, which can run any code when it
    is read; intarsia reads JSON only. Convert a file that you trust once::

        import json, pickle
        with open("refs(unc).p", "rb") as old:
            with open("refs(unc).json", "w", encoding="utf-8") as new:
                json.dump(pickle.load(old), new)

    A record is a picture, and each expression a caption that is as a whole the phrase of its
    region. Regions are all objects that ``instances.json`` has of the picture, referred to or not,
    labelled with their categories: what published figures choose among. The id is the image id, a
    number, by which records are ordered. ``train2014/`` may lie in ``images/``.

    Args:
        split: train, val, test, testA, testB: what the file knows. Where there are several files,
            with its BY (unc, google or umd) in front: ``umd/val``.

    Raises:
        ConfigError: The split is unknown, or must say which file.
        DataError: A file is missing or of another format, or too many records are bad.
    """
    by, _, name = split.rpartition("/")
    path = _expressions(root, by)
    refs = read_json(path)
    if not isinstance(refs, list):
        raise DataError(f"{path}: must be a list of expressions, is {type(refs).__name__}")
    by_split: dict[str, list[Any]] = defaultdict(list)
    for index, ref in enumerate(refs):
        with problems.entry(f"{path}: [{index}]", "captions"):
            by_split[ref["split"]].append(ref)
    if name not in by_split:
        problems.check()
        raise ConfigError(f"{path}: {unknown('split', name, by_split)}")
    folder = existing_folder(root, ("train2014", "images/train2014"))
    objects = _Objects(root / "instances.json", problems)
    pictures = _by_picture(by_split[name], path, problems)
    records = (
        _record(key, pictures[key], path, objects, folder)
        for key in part.of(sorted(pictures, key=id_order))
    )
    yield from fitted(screened(records, problems), problems)


def _expressions(root: Path, by: str) -> Path:
    paths = {
        path.name.removeprefix("refs(").removesuffix(").json"): path
        for path in root.glob("refs(*).json")
    }
    if not paths:
        raise DataError(
            f"{root}: no refs(*).json; pickles (refs(*).p) are not read: convert them once with a "
            "command in the help of this reader (intarsia.data.refcoco)"
        )
    if not by and len(paths) == 1:
        return next(iter(paths.values()))
    if by not in paths:
        choices = ", ".join(f"{name}/SPLIT" for name in sorted(paths))
        raise ConfigError(f"{root}: which expressions? split must be one of {choices}")
    return paths[by]


class _Objects:
    """The pictures and labelled boxes of ``instances.json``."""

    def __init__(self, path: Path, problems: Problems) -> None:
        self.path, self.problems = path, problems
        data = read_json(path)
        self.images = self._by_id(data, "images", "records")
        self.boxes = self._by_id(data, "annotations", "boxes")
        self.of_image: dict[str, list[int]] = defaultdict(list)
        for key, item in self.boxes.items():
            self.of_image[str(item.get("image_id"))].append(key)
        with format_of(path):
            self.labels = {item["id"]: item["name"] for item in entries(data, "categories", path)}

    def _by_id(self, data: Any, name: str, kind: Kind) -> dict[int, Any]:
        found = {}
        for index, item in enumerate(entries(data, name, self.path)):
            with self.problems.entry(f"{self.path}: {name}[{index}]", kind):
                found[item["id"]] = item
        return found

    def region(self, ref: Any) -> Region:
        """The region that an expression refers to.

        Raises:
            BadField: It is unknown, or no box of this picture.
        """
        item = self.boxes.get(ref["ann_id"])
        if item is None:
            raise BadField("ann_id", f"unknown {ref['ann_id']} in {self.path.name}")
        if item["image_id"] != ref["image_id"]:
            reason = f"{ref['image_id']}, but its object is of image {item['image_id']}"
            raise BadField("image_id", reason)
        return self.annotated(ref["ann_id"])

    def annotated(self, key: int) -> Region:
        """
        Raises:
            BadField: Its box holds no pixel of its picture.
        """
        item = self.boxes[key]
        image = self.images[item["image_id"]]
        box = inside(spanned(item["bbox"]), (image["width"], image["height"]), "bbox")
        return Region(box, self.labels[item["category_id"]])


def _by_picture(refs: list[Any], path: Path, problems: Problems) -> dict[str, list[Any]]:
    pictures: dict[str, list[Any]] = defaultdict(list)
    for index, ref in enumerate(refs):
        with problems.entry(f"{path}: ref {ref.get('ref_id', f'[{index}]')}", "captions"):
            pictures[str(ref["image_id"])].append(ref)
    return pictures


def _all_regions(key: str, referred: Collection[Any], objects: _Objects) -> dict[int, Region]:
    """The objects of a picture by id; a bad one is told here, or by what refers to it."""
    regions: dict[int, Region] = {}
    for ann in objects.of_image[key]:
        if ann in referred:
            with suppress(BadField, KeyError, TypeError, ValueError):
                regions[ann] = objects.annotated(ann)
        else:
            with objects.problems.entry(f"{objects.path}: annotation {ann}", "boxes"):
                regions[ann] = objects.annotated(ann)
    return regions


def _record(key: str, refs: list[Any], path: Path, objects: _Objects, folder: Path) -> Record:
    captions: list[str] = []
    phrases: list[Phrase] = []
    regions = _all_regions(key, {ref.get("ann_id") for ref in refs}, objects)
    places = {ann: place for place, ann in enumerate(regions)}
    for index, ref in enumerate(refs):
        where = f"{path}: ref {ref.get('ref_id', f'[{index}] of image {key}')}"
        with objects.problems.entry(where, "captions"):
            objects.region(ref)
            texts = [sentence["sent"].strip() for sentence in ref["sentences"]]
            for text in texts:
                if text:
                    place = places[ref["ann_id"]]
                    phrases.append(Phrase(len(captions), (0, len(text)), (place,)))
                    captions.append(text)
                else:
                    objects.problems.leave_out(where, "sent", "empty", "captions")
    image = objects.images.get(refs[0]["image_id"], {})
    name = image.get("file_name", f"{key}.jpg")
    return Record(
        key,
        folder / name,
        tuple(captions),
        tuple(regions.values()),
        tuple(phrases),
        size=size_of(image),
    )
