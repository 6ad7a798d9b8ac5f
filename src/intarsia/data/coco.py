"""COCO captions, instances and panoptic segments, of any year and split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intarsia.data.annotated import fitted
from intarsia.data.boxes import size_of, spanned
from intarsia.data.files import entries, existing_folder, format_of, read_json
from intarsia.data.images import image_size
from intarsia.data.json_stream import first_field
from intarsia.data.order import WHOLE, Part, id_order, ordered
from intarsia.data.paths import leaves
from intarsia.data.problems import BadField, Kind, Problems, screened
from intarsia.errors import DataError, unknown
from intarsia.types import Record, Region

PANOPTIC = "panoptic_"
KINDS = ("captions", "instances", "panoptic", "image_info", "person_keypoints", "stuff")
"""Annotation files of one split, each of which lists pictures."""


@dataclass(frozen=True, slots=True)
class Category:
    """One row of COCO's table of categories: what a region's label is, and whether it has a shape
    of its own (a thing) or fills the picture (stuff)."""

    name: str
    is_thing: bool = True


def coco(root: Path, split: str, problems: Problems, part: Part = WHOLE) -> Iterator[Record]:
    """COCO: ``annotations/{captions,instances}_<split>.json``, one of which may be missing.

    Regions are the instances, labelled with their category; crowds are skipped. The id is the
    image id, a number, by which records are ordered. Without a captions file the records have
    no captions.

    With ``panoptic_`` before the split the regions are the panoptic segments instead, things, stuff
    and crowds, in the file's order, and there are no captions. Whether a label is a thing says
    :func:`coco_categories`. The masks are optional; a picture whose mask is of another size than
    the file says loses its segments. Boxes of a picture of another size than the file says are
    scaled where it is a copy, and left out where it is not (:mod:`intarsia.data.annotated`).

    A part is the same pictures whatever is read of them: positions count all pictures that any of
    the split's files in ``annotations/`` lists, those of ``KINDS``, before what has no annotation
    is left out. So ``train2017[64:]`` and ``panoptic_train2017[:64]`` share no picture.

    Args:
        split: What the files are named after: train2017, val2014, ...; the pictures lie in
            ``<split>/`` or ``images/<split>/``.

    Raises:
        DataError: Neither file is there, one is of another format, or too much is bad.
    """
    paths = _annotation_files(root, split)
    plain_split = split.removeprefix(PANOPTIC)
    folder = existing_folder(root, (plain_split, f"images/{plain_split}"))
    chosen = None if part == WHOLE else frozenset(part.of(_all_ids(root, plain_split)))
    names: dict[int, str] = {}
    texts: dict[int, list[str]] = {}
    regions: dict[int, list[Region]] = {}
    sizes: dict[int, tuple[int, int] | None] = {}
    for kind, path in paths.items():
        annotations = _Annotations(path, names, chosen, problems)
        if kind == "captions":
            texts = _captions(annotations)
        elif kind == "instances":
            regions = _instances(annotations)
        else:
            regions = _segments(annotations)
        sizes |= annotations.sizes()
    candidates = (
        Record(
            str(key),
            folder / name,
            tuple(texts.get(key, ())),
            tuple(regions.get(key, ())),
            size=sizes[key],
        )
        for key, name in names.items()
    )
    records = ordered(candidates, lambda record: record.id)
    sound = screened(records, problems, need_captions="captions" in paths)
    yield from fitted(sound, problems)


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


def _all_ids(root: Path, split: str) -> list[str]:
    """Every picture of a split, in the order of their ids, whichever file lists it.

    Raises:
        DataError: The files disagree on which picture an id means, so that no part of the split is
            safe.
    """
    names: dict[str, str] = {}
    ids: dict[str, str] = {}
    paths = [root / "annotations" / f"{kind}_{split}.json" for kind in KINDS]
    for path in filter(Path.is_file, paths):
        with format_of(path):
            for image in entries({"images": first_field(path, "images")}, "images", path):
                key, name = str(image["id"]), image["file_name"]
                if names.setdefault(key, name) != name or ids.setdefault(name, key) != key:
                    raise DataError(
                        f"{path}: image {key} is {name!r}, but another file of {split} has "
                        f"{names[key]!r} with this id and {ids.get(name)!r} as the id of that "
                        "picture: parts of such a split would overlap"
                    )
    return sorted(names, key=id_order)


class _Annotations:
    """One annotation file.

    Args:
        names: image id -> file name; the pictures of this file are added.
        chosen: ids of the pictures that are wanted; None = all.
    """

    def __init__(
        self,
        path: Path,
        names: dict[int, str],
        chosen: Collection[str] | None,
        problems: Problems,
    ) -> None:
        self.path, self.problems = path, problems
        self.data = read_json(path)
        self.images: dict[int, Any] = {}
        self._others: set[int] = set()
        for index, image in enumerate(entries(self.data, "images", path)):
            with problems.entry(f"{path}: images[{index}]", "records"):
                if chosen is not None and str(image["id"]) not in chosen:
                    self._others.add(image["id"])
                else:
                    self._add(image, names)

    def _add(self, image: Any, names: dict[int, str]) -> None:
        key, name = image["id"], image["file_name"]
        if leaves(name):
            raise BadField("file_name", f"{name!r} lies outside the folder of pictures")
        if names.setdefault(key, name) != name:
            raise BadField("file_name", f"{name!r} for image {key}, which is {names[key]!r}")
        if key in self.images:
            self.problems.leave_out(f"{self.path}: image {key}", "id", "is used twice", "records")
        self.images[key] = image

    def read(self, kind: Kind, key: str, take: Callable[[str, Any], None]) -> None:
        """Hand the annotations of wanted pictures to ``take``, each with a name for messages.

        Args:
            kind: of what an annotation is.
            key: the field that names it.
        """
        for index, annotation in enumerate(entries(self.data, "annotations", self.path)):
            is_named = isinstance(annotation, dict) and key in annotation
            name = f"annotation {annotation[key]}" if is_named else f"annotations[{index}]"
            where = f"{self.path}: {name}"
            with self.problems.entry(where, kind):
                image = annotation["image_id"]
                if image in self.images:
                    take(where, annotation)
                elif image not in self._others:
                    raise BadField("image_id", f"unknown image {image}")

    def sizes(self) -> dict[int, tuple[int, int] | None]:
        """(width, height) of the pictures that the boxes were drawn in; None where not said."""
        return {key: size_of(image) for key, image in self.images.items()}

    def labels(self) -> dict[int, str]:
        found = entries(self.data, "categories", self.path)
        with format_of(self.path):
            return {category["id"]: category["name"] for category in found}


def _captions(annotations: _Annotations) -> dict[int, list[str]]:
    texts: dict[int, list[str]] = defaultdict(list)

    def take(_: str, annotation: Any) -> None:
        caption = annotation["caption"]
        some = caption if isinstance(caption, list) else [caption or ""]
        if not all(isinstance(text, str) for text in some):
            raise BadField("caption", f"must be text or a list of texts, is {caption!r}")
        texts[annotation["image_id"]] += some

    annotations.read("captions", "id", take)
    return texts


def _instances(annotations: _Annotations) -> dict[int, list[Region]]:
    regions: dict[int, list[Region]] = defaultdict(list)
    labels = annotations.labels()

    def take(_: str, annotation: Any) -> None:
        if annotation.get("iscrowd"):
            annotations.problems.skip("crowd region")
        else:
            regions[annotation["image_id"]].append(_region(annotation, labels))

    annotations.read("boxes", "id", take)
    return regions


def _segments(annotations: _Annotations) -> dict[int, list[Region]]:
    regions: dict[int, list[Region]] = defaultdict(list)
    masks = annotations.path.with_suffix("")
    labels = annotations.labels()

    def take(where: str, annotation: Any) -> None:
        image = annotation["image_id"]
        if odd := _mask_problem(masks / annotation["file_name"], annotations.images[image]):
            raise BadField("mask", odd)
        for index, segment in enumerate(annotation["segments_info"]):
            name = segment.get("id", f"[{index}]") if isinstance(segment, dict) else f"[{index}]"
            with annotations.problems.entry(f"{where}, segment {name}", "boxes"):
                regions[image].append(_region(segment, labels))
        annotations.problems.seen(kind="masks")

    annotations.read("masks", "file_name", take)
    return regions


def _region(entry: Any, labels: dict[int, str]) -> Region:
    if entry["category_id"] not in labels:
        raise BadField("category_id", f"unknown {entry['category_id']}")
    return Region(spanned(entry["bbox"]), labels[entry["category_id"]])


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
