"""COCO captions, instances and panoptic segments, of any year and split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intarsia.data.files import entries, existing_folder, format_of, read_json
from intarsia.data.images import image_size
from intarsia.data.problems import Problems, screened
from intarsia.errors import DataError, unknown
from intarsia.types import Record, Region

PANOPTIC = "panoptic_"


@dataclass(frozen=True, slots=True)
class Category:
    """One row of COCO's table of categories: what a region's label is, and whether it has a shape
    of its own (a thing) or fills the picture (stuff)."""

    name: str
    is_thing: bool = True


def coco(root: Path, split: str, problems: Problems) -> Iterator[Record]:
    """COCO: ``annotations/{captions,instances}_<split>.json``, one of which may be missing.

    Regions are the instances, labelled with their category; crowds are skipped. The id is the
    image id. Without a captions file the records have no captions.

    With ``panoptic_`` before the split the regions are the panoptic segments instead, things, stuff
    and crowds, in the file's order, and there are no captions. Whether a label is a thing says
    :func:`coco_categories`. The masks are optional; a picture whose mask is of another size than
    the file says is a bad record.

    Args:
        split: What the files are named after: train2017, val2014, ...; the pictures lie in
            ``<split>/`` or ``images/<split>/``.

    Raises:
        DataError: Neither file is there, one is of another format, or too many records are bad.
    """
    paths = _annotation_files(root, split)
    folder_name = split.removeprefix(PANOPTIC)
    folder = existing_folder(root, (folder_name, f"images/{folder_name}"))
    names: dict[int, str] = {}
    texts: dict[int, list[str]] = {}
    regions: dict[int, list[Region]] = {}
    for kind, path in paths.items():
        annotations = _Annotations(path, names, problems)
        if kind == "captions":
            texts = _captions(annotations)
        elif kind == "instances":
            regions = _instances(annotations)
        else:
            regions = _segments(annotations)
    candidates = (
        Record(str(key), folder / name, tuple(texts.get(key, ())), tuple(regions.get(key, ())))
        for key, name in names.items()
    )
    yield from screened(candidates, problems, need_captions="captions" in paths)


def coco_categories(root: Path, split: str) -> tuple[Category, ...]:
    """All categories of the instances of ``split``, or of its panoptic segments, by their ids.

    Args:
        split: as of :func:`coco`.

    Raises:
        DataError: There is no such file, or it is of another format.
    """
    paths = _annotation_files(root, split)
    path = paths.get("panoptic") or paths.get("instances")
    if path is None:
        raise DataError(
            f"{paths['captions']} has no categories: there is no instances_{split}.json"
        )
    with format_of(path):
        found = sorted(entries(read_json(path), "categories", path), key=lambda c: int(c["id"]))
        return tuple(Category(c["name"], bool(c.get("isthing", 1))) for c in found)


def _annotation_files(root: Path, split: str) -> dict[str, Path]:
    """The files that a split is read from, by their kind."""
    folder = root / "annotations"
    if split.startswith(PANOPTIC):
        wanted = {"panoptic": folder / f"{split}.json"}
    else:
        wanted = {kind: folder / f"{kind}_{split}.json" for kind in ("captions", "instances")}
    found = {kind: path for kind, path in wanted.items() if path.is_file()}
    if not found:
        missing = " nor ".join(map(str, wanted.values()))
        raise DataError(
            f"{'neither ' if len(wanted) > 1 else 'no '}{missing} is there: "
            + unknown("split of coco", split, _splits(root))
        )
    return found


class _Annotations:
    """One annotation file; its pictures are added to ``names`` (image id -> file name)."""

    def __init__(self, path: Path, names: dict[int, str], problems: Problems) -> None:
        self.path, self.problems = path, problems
        self.data = read_json(path)
        self.images: dict[int, Any] = {}
        with format_of(path):
            for image in entries(self.data, "images", path):
                if image["id"] in self.images:
                    problems.add(f"{path}: image {image['id']}", "id", "is used twice")
                self.images[image["id"]] = image
                names.setdefault(image["id"], image["file_name"])

    def of_known_pictures(self, key: str) -> Iterator[tuple[str, Any]]:
        """The annotations of known pictures, each with a name for messages, made of ``key``."""
        for annotation in entries(self.data, "annotations", self.path):
            where = f"{self.path}: annotation {annotation[key]}"
            if annotation["image_id"] in self.images:
                yield where, annotation
            else:
                reason = f"unknown image {annotation['image_id']}"
                self.problems.add(where, "image_id", reason)

    def labels(self) -> dict[int, str]:
        found = entries(self.data, "categories", self.path)
        return {category["id"]: category["name"] for category in found}

    def region(self, where: str, entry: Any, labels: dict[int, str]) -> list[Region]:
        """The region of an annotation or segment, or none and a problem told."""
        x, y, width, height = entry["bbox"]
        if entry["category_id"] not in labels:
            self.problems.add(where, "category_id", f"unknown {entry['category_id']}")
        elif width <= 0 or height <= 0:
            self.problems.add(where, "bbox", f"{entry['bbox']} holds no pixel")
        else:
            return [Region((x, y, x + width, y + height), labels[entry["category_id"]])]
        return []


def _captions(annotations: _Annotations) -> dict[int, list[str]]:
    texts = defaultdict(list)
    with format_of(annotations.path):
        for _, annotation in annotations.of_known_pictures("id"):
            texts[annotation["image_id"]].append(annotation["caption"] or "")
    return texts


def _instances(annotations: _Annotations) -> dict[int, list[Region]]:
    regions: dict[int, list[Region]] = defaultdict(list)
    with format_of(annotations.path):
        labels = annotations.labels()
        for where, annotation in annotations.of_known_pictures("id"):
            if annotation.get("iscrowd"):
                annotations.problems.skip("crowd region")
            else:
                found = annotations.region(where, annotation, labels)
                regions[annotation["image_id"]] += found
    return regions


def _segments(annotations: _Annotations) -> dict[int, list[Region]]:
    regions: dict[int, list[Region]] = defaultdict(list)
    masks = annotations.path.with_suffix("")
    with format_of(annotations.path):
        labels = annotations.labels()
        for where, annotation in annotations.of_known_pictures("file_name"):
            picture = annotations.images[annotation["image_id"]]
            if odd := _mask_problem(masks / annotation["file_name"], picture):
                annotations.problems.add(where, "mask", odd)
                continue
            for segment in annotation["segments_info"]:
                place = f"{where}, segment {segment['id']}"
                regions[annotation["image_id"]] += annotations.region(place, segment, labels)
    return regions


def _mask_problem(mask: Path, picture: Any) -> str | None:
    size = (picture["width"], picture["height"])
    try:
        found = image_size(mask) if mask.is_file() else size
    except DataError as error:
        return str(error)
    if found == size:
        return None
    return f"{found[0]} x {found[1]} pixels; its picture has {size[0]} x {size[1]}"


def _splits(root: Path) -> set[str]:
    stems = [path.stem for path in (root / "annotations").glob("*_*.json")]
    plain = {s.split("_", 1)[1] for s in stems if s.startswith(("captions_", "instances_"))}
    return plain | {stem for stem in stems if stem.startswith(PANOPTIC)}
