"""Pictures sorted into folders, one a class: the layout of ImageNet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from intarsia.data.files import read_json, read_text
from intarsia.data.order import WHOLE, Part, id_order
from intarsia.data.paths import is_hidden
from intarsia.data.problems import Problems, screened
from intarsia.errors import ConfigError, DataError, unknown
from intarsia.types import Record

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".tif", ".tiff"})
NAME_FILES = ("classes.json", "classes.txt")


def image_folder(
    root: Path, split: str, problems: Problems, part: Part = WHOLE
) -> Iterator[Record]:
    """``SPLIT/CLASS/PICTURE``: a record a picture, whose one caption is the name of its class.

    Pictures may lie deeper in their class's folder; hidden and other files are skipped and counted,
    a class without a picture is a bad record. The id is the path below ``SPLIT``, a text, by which
    records are ordered, folder by folder; so a part by position is one of the classes, while
    ``[:90%]`` has some of each.

    Args:
        split: name of a folder in ``root``.

    Raises:
        ConfigError: There is no such folder.
        DataError: As for :func:`class_names`, or too many records are bad.
    """
    names = _names(root, split)
    records = _records(root / split, names, problems)
    yield from screened(part.of(records, lambda record: record.id), problems)


def class_names(root: Path, split: str) -> tuple[str, ...]:
    """The names of the classes of ``split``, which are its folders, in their alphabetic order.

    A folder is named in ``classes.json`` in ``root``, an object of names by folder, or in
    ``classes.txt``, a line "FOLDER NAME OF THE CLASS" each. Without such a file the folder's own
    name is taken. Names of folders that are not there are not looked at.

    Raises:
        ConfigError: There is no such folder.
        DataError: A folder has no name, two folders have the same, or there are no folders.
    """
    return tuple(_names(root, split).values())


def _names(root: Path, split: str) -> dict[str, str]:
    """Name by folder."""
    if split not in _folders(root):
        raise ConfigError(f"{root}: {unknown('split of an image folder', split, _folders(root))}")
    folders = _folders(root / split)
    if not folders:
        raise DataError(f"{root / split}: no folder of a class is in it")
    given = next((root / name for name in NAME_FILES if (root / name).is_file()), None)
    if given is None:
        return {folder: folder for folder in folders}
    names = _from_json(given) if given.suffix == ".json" else _from_text(given)
    if missing := [folder for folder in folders if not names.get(folder)]:
        raise DataError(
            f"{given}: no name for {len(missing)} of the {len(folders)} classes of {split}, the "
            f"first {missing[0]!r}"
        )
    return _distinct({folder: names[folder] for folder in folders}, given)


def _folders(root: Path) -> list[str]:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    return sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _from_json(path: Path) -> dict[str, str]:
    data = read_json(path)
    if not isinstance(data, dict) or not all(isinstance(name, str) for name in data.values()):
        raise DataError(f'{path}: must be an object of names by folder, as {{"n02123": "cat"}}')
    return {folder: name.strip() for folder, name in data.items()}


def _from_text(path: Path) -> dict[str, str]:
    names = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        folder, _, name = line.strip().partition(" ")
        if folder and not name:
            raise DataError(f"{path}:{number}: {line!r} is not a folder and the name of its class")
        names[folder] = name.strip()
    return names


def _distinct(names: dict[str, str], path: Path) -> dict[str, str]:
    first: dict[str, str] = {}
    for folder, name in names.items():
        if first.setdefault(name, folder) != folder:
            raise DataError(
                f"{path}: {first[name]!r} and {folder!r} are both named {name!r}: classes of one "
                "name cannot be told apart"
            )
    return names


def _records(root: Path, names: dict[str, str], problems: Problems) -> Iterator[Record]:
    for folder in sorted(names):
        pictures = sorted(_pictures(root, folder, problems), key=id_order)
        if not pictures:
            problems.leave_out(root / folder, "class", "no picture in it", "records")
        for picture in pictures:
            yield Record(picture, root / picture, (names[folder],))


def _pictures(root: Path, folder: str, problems: Problems) -> Iterator[str]:
    for path in (root / folder).rglob("*"):
        if is_hidden(path.relative_to(root / folder)):
            if path.is_file():
                problems.skip("hidden file")
        elif path.suffix.lower() in SUFFIXES:
            yield path.relative_to(root).as_posix()
        elif path.is_file():
            problems.skip("file that is no picture")
