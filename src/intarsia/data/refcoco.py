"""RefCOCO, RefCOCO+ and RefCOCOg: expressions that single out one object of a COCO picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from intarsia.data.boxes import cut
from intarsia.data.files import entries, existing_folder, format_of, read_json
from intarsia.data.problems import Problems, screened
from intarsia.errors import ConfigError, DataError, unknown
from intarsia.types import Phrase, Record, Region


def refcoco(root: Path, split: str, problems: Problems) -> Iterator[Record]:
    """RefCOCO, RefCOCO+ or RefCOCOg: ``refs(BY).json``, ``instances.json`` and ``train2014/``.

    The expressions are published as ``refs(BY).p``, a Python pickle, which can run any code when it
    is read; intarsia reads JSON only. Convert a file that you trust once::

        import json, pickle
        with open("refs(unc).p", "rb") as old, open("refs(unc).json", "w") as new:
            json.dump(pickle.load(old), new)

    A record is a picture, and each expression a caption that is as a whole the phrase of its
    region, which is labelled with the category. The id is the image id. ``train2014/`` may lie in
    ``images/``.

    Args:
        split: train, val, test, testA, testB: what the file knows. Where there are several files,
            with its BY (unc, google or umd) in front: ``umd/val``.

    Raises:
        ConfigError: The split is unknown, or must say which file.
        DataError: A file is missing or of another format, or too many records are bad.
    """
    by, _, part = split.rpartition("/")
    path = _expressions(root, by)
    refs = read_json(path)
    if not isinstance(refs, list):
        raise DataError(f"{path}: must be a list of expressions, is {type(refs).__name__}")
    with format_of(path):
        splits = {ref["split"] for ref in refs}
    if part not in splits:
        raise ConfigError(f"{path}: {unknown('split', part, splits)}")
    folder = existing_folder(root, ("train2014", "images/train2014"))
    objects = _Objects(root / "instances.json", problems)
    chosen = [ref for ref in refs if ref["split"] == part]
    yield from screened(_records(chosen, path, objects, folder), problems)


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
        with format_of(path):
            self.images = {image["id"]: image for image in entries(data, "images", path)}
            self.boxes = {item["id"]: item for item in entries(data, "annotations", path)}
            self.labels = {item["id"]: item["name"] for item in entries(data, "categories", path)}

    def region(self, ref: Any, where: str) -> Region | None:
        """The region that an expression refers to; None, and told to the problems, if unknown."""
        item = self.boxes.get(ref["ann_id"])
        with format_of(self.path):
            if item is None:
                reason = f"unknown {ref['ann_id']} in {self.path.name}"
                self.problems.add(where, "ann_id", reason)
                return None
            if item["image_id"] != ref["image_id"]:
                reason = f"{ref['image_id']}, but its object is of image {item['image_id']}"
                self.problems.add(where, "image_id", reason)
                return None
            x, y, width, height = item["bbox"]
            image = self.images[item["image_id"]]
            size, box = (image["width"], image["height"]), (x, y, x + width, y + height)
            kept = cut(box, size, where, "bbox", self.problems)
            return kept and Region(kept, self.labels[item["category_id"]])


def _records(refs: list[Any], path: Path, objects: _Objects, folder: Path) -> Iterator[Record]:
    pictures: dict[int, list[Any]] = {}
    with format_of(path):
        for ref in refs:
            pictures.setdefault(ref["image_id"], []).append(ref)
        for key, some in pictures.items():
            yield _record(key, some, path, objects, folder)


def _record(key: int, refs: list[Any], path: Path, objects: _Objects, folder: Path) -> Record:
    captions: list[str] = []
    phrases: list[Phrase] = []
    regions: dict[int, Region] = {}
    for ref in refs:
        where = f"{path}: ref {ref['ref_id']}"
        region = objects.region(ref, where)
        if region is None:
            continue
        regions.setdefault(ref["ann_id"], region)
        place = list(regions).index(ref["ann_id"])
        for sentence in ref["sentences"]:
            text = sentence["sent"].strip()
            if text:
                phrases.append(Phrase(len(captions), (0, len(text)), (place,)))
                captions.append(text)
            else:
                objects.problems.add(where, "sent", "empty")
    name = objects.images[key]["file_name"] if key in objects.images else f"{key}.jpg"
    return Record(str(key), folder / name, tuple(captions), tuple(regions.values()), tuple(phrases))
