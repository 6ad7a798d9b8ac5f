"""Karpathy's splits of COCO, Flickr8k and Flickr30k: ``dataset_NAME.json``, pictures beside it.

The files are those of ``caption_datasets.zip`` (Karpathy & Fei-Fei 2015). All of a picture's
captions are read: COCO has up to seven.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from intarsia.data.files import entries, existing_folder, read_json
from intarsia.data.order import WHOLE, Part, ordered
from intarsia.data.paths import leaves
from intarsia.data.problems import BadField, Problems, screened
from intarsia.errors import ConfigError, unknown
from intarsia.types import Record

SPLITS = ("train", "val", "test")
COCO_SPLITS = ("train", "restval", "val", "test")
COCO_YEARS = ("train2014", "val2014")
BOTH = "train+restval"

Place = Callable[[Any], tuple[str, Path]]  # an entry -> its record's id, and where its picture is


def flickr8k_karpathy(
    root: Path, split: str, problems: Problems, part: Part = WHOLE
) -> Iterator[Record]:
    """Flickr8k: ``dataset_flickr8k.json`` with ``Images/``, ``Flicker8k_Dataset/`` or ``images/``.

    The id is the file's stem, a text, by which records are ordered.

    Args:
        split: train, val or test.

    Raises:
        ConfigError: The split is unknown.
        DataError: A file is missing or of another format, or too many records are bad.
    """
    path = _file("flickr8k", root, split, SPLITS)
    folder = existing_folder(root, ("Images", "Flicker8k_Dataset", "images"))
    return _records(path, (split,), _in_one(folder), problems, part)


def flickr30k(root: Path, split: str, problems: Problems, part: Part = WHOLE) -> Iterator[Record]:
    """Flickr30k: ``dataset_flickr30k.json`` with ``flickr30k-images/`` or ``images/``.

    The id is the file's stem, a number, by which records are ordered.

    Args:
        split: train, val or test.

    Raises:
        ConfigError, DataError: As for :func:`flickr8k_karpathy`.
    """
    path = _file("flickr30k", root, split, SPLITS)
    folder = existing_folder(root, ("flickr30k-images", "images"))
    return _records(path, (split,), _in_one(folder), problems, part)


def coco_karpathy(
    root: Path, split: str, problems: Problems, part: Part = WHOLE
) -> Iterator[Record]:
    """COCO of 2014: ``dataset_coco.json`` with ``train2014/`` and ``val2014/``, or in ``images/``.

    The id is COCO's image id (``cocoid``), a number, by which records are ordered.

    Args:
        split: train, restval (pictures of val2014 that are mostly trained on, too), val or test,
            5,000 pictures each; ``train+restval`` is what published models train on.

    Raises:
        ConfigError, DataError: As for :func:`flickr8k_karpathy`.
    """
    path = _file("coco-karpathy", root, split, (*COCO_SPLITS, BOTH))
    folders = {year: root / year for year in COCO_YEARS}
    if not any(folder.is_dir() for folder in folders.values()):
        folders = {year: root / "images" / year for year in COCO_YEARS}
        existing_folder(root, [f"images/{year}" for year in COCO_YEARS] + list(COCO_YEARS))

    def place(entry: Any) -> tuple[str, Path]:
        year = entry["filepath"]
        if year not in folders:
            raise BadField("filepath", f"{year!r} is none of {', '.join(COCO_YEARS)}")
        return str(entry["cocoid"]), folders[year] / entry["filename"]

    return _records(path, tuple(split.split("+")), place, problems, part)


def _file(name: str, root: Path, split: str, splits: tuple[str, ...]) -> Path:
    if split not in splits:
        raise ConfigError(unknown(f"split of {name}", split, splits))
    return root / f"dataset_{name.partition('-')[0]}.json"


def _in_one(folder: Path) -> Place:
    return lambda entry: (Path(entry["filename"]).stem, folder / entry["filename"])


def _records(
    path: Path, splits: tuple[str, ...], place: Place, problems: Problems, part: Part
) -> Iterator[Record]:
    candidates = _candidates(path, splits, place, problems)
    yield from screened(ordered(candidates, lambda record: record.id, part), problems)


def _candidates(
    path: Path, splits: tuple[str, ...], place: Place, problems: Problems
) -> Iterator[Record]:
    for index, entry in enumerate(entries(read_json(path), "images", path)):
        with problems.entry(f"{path}: images[{index}]", "records"):
            if entry["split"] in splits:
                if leaves(name := entry["filename"]):
                    raise BadField("filename", f"{name!r} lies outside the folder of pictures")
                captions = tuple(str(said["raw"] or "") for said in entry["sentences"])
                key, image = place(entry)
                record = Record(key, image, captions)
                yield record
