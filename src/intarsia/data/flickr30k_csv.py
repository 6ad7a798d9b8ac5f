"""Flickr30k as Kaggle has it: ``results.csv``, whose cells are separated by bars."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from intarsia.data.files import existing_folder, read_text
from intarsia.data.flickr_entities import entity_ids
from intarsia.data.order import WHOLE, Part, ordered
from intarsia.data.problems import BadField, Problems, screened
from intarsia.errors import DataError
from intarsia.types import Record

HEADER = ["image_name", "comment_number", "comment"]
FOLDERS = ("flickr30k_images", "flickr30k-images", "images")
ALL = "all"
UNBARRED = re.compile(r"(\d+)\s+(\S.*)")
"""A number and a caption without the bar between them, as the row of 2199200615.jpg has them."""


def flickr30k_csv(
    root: Path, split: str, problems: Problems, part: Part = WHOLE
) -> Iterator[Record]:
    """Flickr30k: ``results.csv`` (``image_name| comment_number| comment``) and the pictures in
    ``flickr30k_images/``, ``flickr30k-images/`` or ``images/``.

    The file has no splits: ``all`` is everything, others are lists of ids beside it, ``test.txt``
    as Flickr30k Entities has them. A row whose number and caption lack their bar (the published
    file has one) is read as it is meant, and counted. The id is the file's stem, a number, by which
    records are ordered; captions come by their numbers.

    Raises:
        ConfigError: There is no such list.
        DataError: A file is missing or of another format, or too many records are bad.
    """
    wanted = None if split == ALL else frozenset(entity_ids(root, split))
    folder = existing_folder(root, FOLDERS)
    captions = _captions(root / "results.csv", problems)
    known = {Path(name).stem for name in captions}
    for key in sorted(wanted - known) if wanted else ():
        problems.leave_out(root / f"{split}.txt", f"id {key}", "has no caption", "records")
    candidates = (
        Record(Path(name).stem, folder / name, tuple(text for _, text in sorted(said)))
        for name, said in captions.items()
        if wanted is None or Path(name).stem in wanted
    )
    yield from screened(ordered(candidates, lambda record: record.id, part), problems)


def _captions(path: Path, problems: Problems) -> dict[str, list[tuple[int, str]]]:
    """(number, caption) of each picture."""
    captions: dict[str, list[tuple[int, str]]] = defaultdict(list)
    header, *lines = read_text(path).split("\n")
    if [name.strip() for name in header.split("|")] != HEADER:
        raise DataError(f"{path}: the first line must be {'| '.join(HEADER)}, is {header[:80]!r}")
    for line_number, line in enumerate(lines, start=2):
        if line.strip():
            with problems.entry(f"{path}:{line_number}", "captions"):
                name, number, text = _cells(line, problems)
                captions[name].append((int(number), text))
    return captions


def _cells(line: str, problems: Problems) -> list[str]:
    """
    Raises:
        BadField: They are not three.
    """
    cells = [cell.strip() for cell in line.split("|", 2)]
    if len(cells) == 2 and (meant := UNBARRED.fullmatch(cells[1])):
        problems.skip("bar missing before a caption, which was read all the same")
        return [cells[0], meant[1], meant[2]]
    if len(cells) != len(HEADER) or not cells[1].isdecimal():
        raise BadField("row", f"is no name, number and caption: {line[:80]!r}")
    return cells
