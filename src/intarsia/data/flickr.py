"""Flickr8k as Kaggle and the official lists have it (Karpathy's: :mod:`intarsia.data.karpathy`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from intarsia.data.files import existing_folder, read_csv, read_text
from intarsia.data.order import WHOLE, Part, ordered
from intarsia.data.problems import Problems, screened
from intarsia.errors import ConfigError, unknown
from intarsia.types import Record

FLICKR8K_LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "dev": "Flickr_8k.devImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}


def flickr8k(root: Path, split: str, problems: Problems, part: Part = WHOLE) -> Iterator[Record]:
    """Flickr8k: ``Images/``, ``captions.txt`` and the official lists ``Flickr_8k.*Images.txt``.

    The id is the file's stem, a text, by which records are ordered (as in the official lists); a
    record's captions keep the order of the file.

    Args:
        split: train, dev (also called val) or test.

    Raises:
        ConfigError: The split is unknown.
        DataError: A file is missing or of another format, or too many records are bad.
    """
    if split not in FLICKR8K_LISTS:
        raise ConfigError(unknown("split of flickr8k", split, FLICKR8K_LISTS))
    folder = existing_folder(root, ("Images",))
    names = _listed(root / FLICKR8K_LISTS[split])
    lists = (root / name for name in sorted(set(FLICKR8K_LISTS.values())))
    known = {name for path in lists if path.is_file() for name in _listed(path)}
    captions: dict[str, list[str]] = defaultdict(list)
    for where, row in read_csv(root / "captions.txt", ("image", "caption"), problems):
        captions[row["image"]].append(row["caption"])
        if row["image"] not in known and not (folder / row["image"]).is_file():
            reason = f"caption of the unknown image {row['image']!r}"
            problems.leave_out(where, "image", reason, "captions")
    candidates = (Record(Path(n).stem, folder / n, tuple(captions[n])) for n in names)
    yield from screened(ordered(candidates, lambda record: record.id, part), problems)


def _listed(path: Path) -> list[str]:
    return read_text(path).split()
