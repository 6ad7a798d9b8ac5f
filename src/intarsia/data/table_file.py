"""One's own pictures and captions: a csv, tsv or jsonl file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from intarsia.data.files import Row, read_csv, read_jsonl
from intarsia.data.order import WHOLE, Part, ordered
from intarsia.data.paths import leaves, plain_name
from intarsia.data.problems import BadField, Problems, screened
from intarsia.errors import DataError, unknown
from intarsia.types import Record

DELIMITERS = {".csv": ",", ".tsv": "\t"}


def table_file(path: Path, problems: Problems, part: Part = WHOLE) -> Iterator[Record]:
    """Records of a csv, tsv or jsonl file with ``image``, ``caption`` and perhaps ``id``.

    The rows of one image become one record, its captions in the order of the file; in jsonl a
    caption may be a list of captions. Records come in the order of their ids. Image paths
    are relative to the file's folder, which only absolute paths may leave. The id is the image path
    unless given.

    Raises:
        DataError: The file is missing, unreadable, a folder or without rows, lacks a column, or too
            many rows are bad.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        raise DataError(f"{path}: is a folder: {_files_in(path)}")
    if suffix in DELIMITERS:
        required, separator = ("image", "caption"), DELIMITERS[suffix]
        rows = read_csv(path, required, problems, separator, optional=("id",))
    elif suffix == ".jsonl":
        rows = read_jsonl(path, problems)
    else:
        raise DataError(f"{path}: {unknown('suffix', path.suffix, [*DELIMITERS, '.jsonl'])}")
    records = _gather(rows, path.parent, problems)
    yield from screened(ordered(records, lambda record: record.id, part), problems)


def _files_in(folder: Path) -> str:
    """Which file was likely meant instead of its folder, as advice."""
    suffixes = [*DELIMITERS, ".jsonl"]
    found = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in suffixes)
    if found:
        return f"name a file in it, as {folder / found[0]}"
    return f"name a file ({', '.join(suffixes)}); pictures sorted by class are --data image_folder"


def _gather(rows: Iterable[Row], folder: Path, problems: Problems) -> Iterator[Record]:
    ids: dict[str, str] = {}
    paths: dict[str, Path] = {}
    captions: dict[str, list[str]] = {}
    for where, row in rows:
        try:
            image, texts = _image(row, folder), _texts(row)
            name = plain_name(image)
            key = _id(row, ids.get(name, name))
            if ids.setdefault(name, key) != key:
                raise BadField("id", f"{key!r} for the image with id {ids[name]!r}")
        except BadField as error:
            problems.add(where, error.field, error.reason, "rows")
            continue
        paths.setdefault(name, folder / image)
        captions.setdefault(name, []).extend(texts)
    for name, own in captions.items():
        yield Record(ids[name], paths[name], tuple(own))


def _image(row: dict[str, Any], folder: Path) -> str:
    image = _field(row, "image")
    if not isinstance(image, str) or not image:
        raise BadField("image", f"must be a path, is {image!r}")
    if leaves(image):
        raise BadField("image", f"{image!r} lies outside {folder}")
    return image


def _texts(row: dict[str, Any]) -> list[str]:
    caption = _field(row, "caption")
    texts: list[Any] = caption if isinstance(caption, list) else [caption]
    if not all(isinstance(text, str) for text in texts):
        raise BadField("caption", f"must be text or a list of texts, is {caption!r}")
    return texts


def _field(row: dict[str, Any], name: str) -> Any:
    if name not in row:
        raise BadField(name, f"is missing; the row has {', '.join(row) or 'no fields'}")
    return row[name]


def _id(row: dict[str, Any], default: str) -> str:
    """The id that a row gives; ``default`` where it gives none."""
    key = row.get("id")
    if key is None or key == "":
        return default
    if not isinstance(key, str | int) or isinstance(key, bool):
        raise BadField("id", f"must be text or a whole number, is {key!r}")
    return str(key)
