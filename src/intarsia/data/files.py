"""Annotation files (csv, tsv, json, jsonl), and the reader of one's own table of captions."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

from intarsia.data.problems import Problems, screened
from intarsia.errors import DataError, unknown
from intarsia.types import Record

Row = tuple[str, dict[str, Any]]  # where it stands ("file:line") and its cells

DELIMITERS = {".csv": ",", ".tsv": "\t"}


def table_file(path: Path, problems: Problems) -> Iterator[Record]:
    """Records of a csv, tsv or jsonl file with ``image``, ``caption`` and perhaps ``id``.

    The rows of one image become one record, in the order of the file. Image paths are relative to
    the file's folder, which only absolute paths may leave. The id is the image path unless given.

    Raises:
        DataError: The file is missing, unreadable or lacks a column, or too many rows are bad.
    """
    if path.suffix in DELIMITERS:
        rows = read_csv(path, ("image", "caption"), problems, DELIMITERS[path.suffix])
    elif path.suffix == ".jsonl":
        rows = read_jsonl(path, problems)
    else:
        raise DataError(f"{path}: {unknown('suffix', path.suffix, [*DELIMITERS, '.jsonl'])}")
    yield from screened(_gather(rows, path.parent, problems), problems)


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON: {error}") from error


def entries(container: Any, name: str, path: Path) -> list[Any]:
    """The list ``container[name]`` of a JSON file.

    Raises:
        DataError: There is none.
    """
    found = container.get(name) if isinstance(container, dict) else None
    if not isinstance(found, list):
        raise DataError(f"{path}: field {name!r} must be a list, is {type(found).__name__}")
    return found


@contextmanager
def format_of(path: Path) -> Iterator[None]:
    """Turns a missing field, or one of another type, into a DataError about ``path``."""
    try:
        yield
    except KeyError as error:
        raise DataError(f"{path}: an entry lacks the field {error}") from error
    except (TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: an entry is of another format: {error}") from error


def read_csv(
    path: Path, columns: Collection[str], problems: Problems, delimiter: str = ","
) -> Iterator[Row]:
    """The rows of a file with a header; rows of another length than it go to ``problems``.

    Raises:
        DataError: The header lacks one of ``columns``, or the quoting is broken.
    """
    reader = csv.DictReader(StringIO(read_text(path)), delimiter=delimiter, strict=True)
    try:
        if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
            raise DataError(f"{path}: no column {missing[0]!r} in the header {reader.fieldnames}")
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if None in row or None in row.values():
                problems.add(where, "row", f"has not the {len(reader.fieldnames or ())} columns")
            else:
                yield where, row
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: broken quoting: {error}") from error


def read_jsonl(path: Path, problems: Problems) -> Iterator[Row]:
    """The objects of a file with one a line; other lines go to ``problems``."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            problems.add(where, "row", f"not JSON: {error}")
            continue
        if isinstance(row, dict):
            yield where, row
        else:
            problems.add(where, "row", f"must be an object, is {type(row).__name__}")


def existing_folder(root: Path, names: Collection[str]) -> Path:
    """The first of ``names`` that is a folder in ``root``.

    Raises:
        DataError: None is.
    """
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DataError(f"{root}: no folder of pictures: looked for {', '.join(names)}")


def _gather(rows: Iterable[Row], folder: Path, problems: Problems) -> Iterator[Record]:
    ids: dict[str, str] = {}
    captions: dict[str, list[str]] = {}
    for where, row in rows:
        image, caption = row.get("image"), row.get("caption")
        if not isinstance(image, str) or not image:
            problems.add(where, "image", f"must be a path, is {image!r}")
        elif not isinstance(caption, str):
            problems.add(where, "caption", f"must be text, is {caption!r}")
        elif _leaves(image):
            problems.add(where, "image", f"{image!r} lies outside {folder}")
        elif ids.setdefault(image, str(row.get("id", image))) != str(row.get("id", ids[image])):
            problems.add(where, "id", f"{row['id']!r} for the image with id {ids[image]!r}")
        else:
            captions.setdefault(image, []).append(caption)
    for image, texts in captions.items():
        yield Record(ids[image], folder / image, tuple(texts))


def _leaves(image: str) -> bool:
    return Path(os.path.normpath(image)).parts[:1] == ("..",)
