"""Boxes that somebody has found before: COCO, Visual Genome and Flickr30k Entities files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from PIL import Image

from intarsia.components.detections import THRESHOLD
from intarsia.data.annotated import is_scaled, scaled
from intarsia.data.boxes import size_of
from intarsia.data.files import entries, format_of, read_json, read_text
from intarsia.data.images import load_image
from intarsia.errors import ConfigError, DataError
from intarsia.types import Record, Region


class Known(NamedTuple):
    """The boxes of a picture, and its (width, height) in the file, where that says so."""

    regions: list[Region]
    size: tuple[int, int] | None = None


Lookup = Callable[[str], Known | None]  # a record id or file name -> its boxes, if known


def picture_of(record: Record) -> Image.Image:
    """A record's decoded picture that knows its record's id and file name, as a BoxFile needs it.

    They stand in ``info``, which survives copies and pickling.
    """
    image = load_image(record.image)
    image.info["record"] = record.id
    if isinstance(record.image, Path):
        image.info["file"] = record.image.name
    return image


class BoxFile:
    """A detector that reads instead of looking: pictures are known by record id or file name.

    Pictures come from :func:`picture_of`, or straight from ``PIL.Image.open``. Boxes are scaled to
    a picture that is a scaled copy of the one in the file (COCO and Entities say its size).

    Args:
        path: The format is told by the content. COCO results (a list of ``image_id``,
            ``category_id``, ``bbox``, ``score``); COCO instances; Visual Genome's
            ``objects.json``; or the folder ``Annotations`` of Flickr30k Entities, whose labels are
            the numbers of the coreference chains. All but the first have score 1.
        categories: The instances file that names categories and pictures of COCO results.
        threshold: Boxes with a lower score are left out.

    Raises:
        ConfigError: COCO results without ``categories``.
        DataError: A file is missing or of another format.
    """

    looks_up_names = True

    def __init__(
        self, path: str, *, categories: str | None = None, threshold: float = THRESHOLD
    ) -> None:
        self._path, self._threshold = Path(path), threshold
        self._files = [self._path, *([Path(categories)] if categories else [])]
        self._find = _lookup(self._path, Path(categories) if categories else None)

    def __call__(
        self, images: Sequence[Image.Image], texts: Sequence[Sequence[str]] | None = None
    ) -> list[list[Region]]:
        """The regions of each picture, best first; ``texts`` are not looked at.

        Raises:
            DataError: The file does not know a picture, or it is not the one of the file.
        """
        return [self._one(image) for image in images]

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self._threshold).encode())
        for path in self._files:
            for file in sorted(path.glob("*.xml")) if path.is_dir() else [path]:
                digest.update(file.name.encode() if path.is_dir() else b"")
                digest.update(file.read_bytes())
        return digest.hexdigest()[:16]

    def _one(self, image: Image.Image) -> list[Region]:
        opened = Path(getattr(image, "filename", "")).name
        names = [image.info.get("record"), image.info.get("file"), opened]
        known = [name for name in names if name]
        for name in known:
            if (found := self._find(name)) is not None:
                regions = _scaled(found, image.size, f"{self._path}: {name}")
                sure = [region for region in regions if region.score >= self._threshold]
                return sorted(sure, key=lambda region: -region.score)
        raise DataError(
            f"{self._path}: no boxes of the picture {' or '.join(map(repr, known))}"
            if known
            else f"{self._path}: a picture has no name to look up: open it with picture_of(record)"
        )


def _scaled(found: Known, size: tuple[int, int], where: str) -> list[Region]:
    """
    Raises:
        DataError: A picture of ``size`` is no copy of that in the file.
    """
    if found.size is None or found.size == size:
        return found.regions
    if not is_scaled(found.size, size):
        told = f"boxes of a picture of {found.size[0]} x {found.size[1]} pixels"
        raise DataError(
            f"{where}: {told}; this one has {size[0]} x {size[1]}, which is not a scaled copy"
        )
    old = found.size
    return [replace(region, box=scaled(region.box, old, size)) for region in found.regions]


def _lookup(path: Path, categories: Path | None) -> Lookup:
    if path.is_dir():
        return _flickr30k_entities(path)
    data = read_json(path)
    if isinstance(data, dict):
        return _coco(path, data, entries(data, "annotations", path))
    if isinstance(data, list) and data and isinstance(data[0], dict) and "objects" in data[0]:
        return _visual_genome(path, data)
    if not isinstance(data, list):
        raise DataError(
            f"{path}: neither COCO (results or instances) nor Visual Genome's objects.json"
        )
    if categories is None:
        raise ConfigError(
            f"{path} holds COCO results, which number their categories: pass "
            "categories=INSTANCES_JSON, which names them"
        )
    return _coco(path, read_json(categories), data, instances=categories)


def _coco(path: Path, data: Any, annotations: list[Any], instances: Path | None = None) -> Lookup:
    """Boxes ``annotations`` of the pictures and categories of the instances file ``data``."""
    named = instances or path
    with format_of(named):
        labels = {item["id"]: str(item["name"]) for item in entries(data, "categories", named)}
        pictures = {item["id"]: item for item in entries(data, "images", named)}
        names = {key: item["file_name"] for key, item in pictures.items()}
    regions: dict[int, list[Region]] = {key: [] for key in names}
    with format_of(path):
        for item in annotations:
            image, category = item["image_id"], item["category_id"]
            if image not in regions or category not in labels:
                raise DataError(f"{path}: {named} has no image {image} or no category {category}")
            if not item.get("iscrowd"):
                x, y, width, height = item["bbox"]
                box = (x, y, x + width, y + height)
                regions[image].append(Region(box, labels[category], item.get("score", 1.0)))
    known = {key: Known(found, size_of(pictures[key])) for key, found in regions.items()}
    by_name = {Path(name).name: known[key] for key, name in names.items()}
    return ({str(key): found for key, found in known.items()} | by_name).get


def _visual_genome(path: Path, data: list[Any]) -> Lookup:
    regions: dict[str, Known] = {}
    with format_of(path):
        for image in data:
            found = [
                Region((o["x"], o["y"], o["x"] + o["w"], o["y"] + o["h"]), ", ".join(o["names"]))
                for o in image["objects"]
            ]
            key = image["image_id"] if "image_id" in image else image["id"]  # of version 1.0
            regions[str(key)] = regions[f"{key}.jpg"] = Known(found)
    return regions.get


def _flickr30k_entities(folder: Path) -> Lookup:
    """A file ``STEM.xml`` a picture, read when asked for."""
    if not any(folder.glob("*.xml")):
        raise DataError(f"{folder}: no .xml file of Flickr30k Entities in this folder")

    def find(name: str) -> Known | None:
        path = folder / f"{name.removesuffix('.jpg')}.xml"
        return _entities(path) if path.is_file() else None

    return find


def _entities(path: Path) -> Known:
    """Pixels are counted from 1 and both ends belong to the box."""
    try:
        root = ElementTree.fromstring(read_text(path))
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: not XML: {error}") from error
    regions = []
    with format_of(path):
        sides = [root.findtext(f"size/{name}") for name in ("width", "height")]
        size = (int(sides[0]), int(sides[1])) if sides[0] and sides[1] else None
        for item in root.iter("object"):
            for corners in item.iter("bndbox"):
                x0, y0, x1, y1 = (
                    float(corners.findtext(name, "missing"))
                    for name in ("xmin", "ymin", "xmax", "ymax")
                )
                box = (x0 - 1, y0 - 1, x1, y1)
                regions += [Region(box, name.text or "") for name in item.iter("name")]
    return Known(regions, size)
