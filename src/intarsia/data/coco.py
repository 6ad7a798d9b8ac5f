"""COCO captions and instances, of any year and split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from intarsia.data.files import entries, existing_folder, format_of, read_json
from intarsia.data.problems import Problems, screened
from intarsia.errors import DataError, unknown
from intarsia.types import Record, Region


def coco(root: Path, split: str, problems: Problems) -> Iterator[Record]:
    """COCO: ``annotations/{captions,instances}_<split>.json``, one of which may be missing.

    Regions are the instances, labelled with their category; crowds are skipped. The id is the
    image id. Without a captions file the records have no captions.

    Args:
        split: What the files are named after: train2017, val2014, ...; the pictures lie in
            ``<split>/`` or ``images/<split>/``.

    Raises:
        DataError: Neither file is there, one is of another format, or too many records are bad.
    """
    captions = root / "annotations" / f"captions_{split}.json"
    instances = root / "annotations" / f"instances_{split}.json"
    paths = [path for path in (captions, instances) if path.is_file()]
    if not paths:
        raise DataError(
            f"neither {captions} nor {instances} is there: "
            + unknown("split of coco", split, _splits(root))
        )
    folder = existing_folder(root, (split, f"images/{split}"))
    names: dict[int, str] = {}
    texts: dict[int, list[str]] = {}
    regions: dict[int, list[Region]] = {}
    if captions in paths:
        texts = _captions(_Annotations(captions, names, problems))
    if instances in paths:
        regions = _regions(_Annotations(instances, names, problems))
    candidates = (
        Record(str(key), folder / name, tuple(texts.get(key, ())), tuple(regions.get(key, ())))
        for key, name in names.items()
    )
    yield from screened(candidates, problems, need_captions=captions in paths)


class _Annotations:
    """One annotation file; its pictures are added to ``names`` (image id -> file name)."""

    def __init__(self, path: Path, names: dict[int, str], problems: Problems) -> None:
        self.path, self.problems = path, problems
        self.data = read_json(path)
        self.images: set[int] = set()
        with format_of(path):
            for image in entries(self.data, "images", path):
                if image["id"] in self.images:
                    problems.add(f"{path}: image {image['id']}", "id", "is used twice")
                self.images.add(image["id"])
                names.setdefault(image["id"], image["file_name"])

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """The annotations of known pictures, each with a name for messages."""
        for annotation in entries(self.data, "annotations", self.path):
            where = f"{self.path}: annotation {annotation['id']}"
            if annotation["image_id"] in self.images:
                yield where, annotation
            else:
                reason = f"unknown image {annotation['image_id']}"
                self.problems.add(where, "image_id", reason)


def _captions(annotations: _Annotations) -> dict[int, list[str]]:
    texts = defaultdict(list)
    with format_of(annotations.path):
        for _, annotation in annotations:
            texts[annotation["image_id"]].append(annotation["caption"] or "")
    return texts


def _regions(annotations: _Annotations) -> dict[int, list[Region]]:
    regions = defaultdict(list)
    problems = annotations.problems
    with format_of(annotations.path):
        found = entries(annotations.data, "categories", annotations.path)
        labels = {category["id"]: category["name"] for category in found}
        for where, annotation in annotations:
            x, y, width, height = annotation["bbox"]
            if annotation.get("iscrowd"):
                problems.skip("crowd region")
            elif annotation["category_id"] not in labels:
                problems.add(where, "category_id", f"unknown {annotation['category_id']}")
            elif width <= 0 or height <= 0:
                problems.add(where, "bbox", f"{annotation['bbox']} holds no pixel")
            else:
                region = Region((x, y, x + width, y + height), labels[annotation["category_id"]])
                regions[annotation["image_id"]].append(region)
    return regions


def _splits(root: Path) -> set[str]:
    paths = (root / "annotations").glob("*_*.json")
    kinds = (path.stem.split("_", 1) for path in paths)
    return {split for kind, split in kinds if kind in ("captions", "instances")}
