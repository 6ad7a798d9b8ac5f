"""Texts of any encoding that says which it is, JSON, csv, tsv and jsonl."""

from __future__ import annotations

import csv
import json
import logging
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

from intarsia.data.problems import Problems
from intarsia.errors import DataError

logger = logging.getLogger(__name__)

Row = tuple[str, dict[str, Any]]  # where it stands ("file:line") and its cells

MARKS = {  # the longer first: UTF-16's is the beginning of UTF-32's
    BOM_UTF32_LE: "utf-32",
    BOM_UTF32_BE: "utf-32",
    BOM_UTF16_LE: "utf-16",
    BOM_UTF16_BE: "utf-16",
    BOM_UTF8: "utf-8-sig",
}
LONGEST_CELL = 2**31 - 1  # characters
TOLD_FROM = 5 * 10**7  # bytes that take more than two seconds to parse


def read_text(path: Path) -> str:
    """A file's text, with ``\\n`` between lines: UTF-8, or what its byte order mark says.

    Raises:
        DataError: It cannot be read, or is of another encoding.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: not {encoding.upper()} text: {error.reason} ({_seen(error)}); save it "
            "as UTF-8, for example: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW"
        ) from error
    if "\0" in text[:1000]:
        raise DataError(
            f"{path}: not UTF-8 text: it holds zero bytes, as UTF-16 without a byte order mark "
            "does; save it as UTF-8, for example: iconv -f UTF-16LE -t UTF-8 OLD > NEW"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _seen(error: UnicodeDecodeError) -> str:
    return f"byte 0x{error.object[error.start]:02x} at {error.start}"


def read_json(path: Path) -> Any:
    if path.is_file() and (size := path.stat().st_size) > TOLD_FROM:
        logger.info("reading %s (%d MB)", path, size // 10**6)
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

    So does a line of broken quoting, which costs only itself. Where cells are separated by tabs
    such a line is taken as it is written: in a tsv a quotation mark is mostly no quoting.

    Raises:
        DataError: The header lacks one of ``columns``, or names a column twice.
    """
    rows = _cells(list(StringIO(read_text(path))), delimiter)
    header = _header(path, next((cells for _, cells in rows), []), columns)
    for number, cells in rows:
        where = f"{path}:{number}"
        if isinstance(cells, csv.Error):
            problems.leave_out(where, "row", f"broken quoting: {cells}", "rows")
        elif len(cells) != len(header):
            reason = f"has {len(cells)} cells for the {len(header)} columns"
            problems.leave_out(where, "row", reason, "rows")
        else:
            problems.seen(kind="rows")
            yield where, dict(zip(header, cells, strict=True))


def read_jsonl(path: Path, problems: Problems) -> Iterator[Row]:
    """The objects of a file with one a line; other lines go to ``problems``."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            problems.leave_out(where, "row", f"not JSON: {error}", "rows")
            continue
        if isinstance(row, dict):
            problems.seen(kind="rows")
            yield where, row
        else:
            reason = f"must be an object, is {type(row).__name__}"
            problems.leave_out(where, "row", reason, "rows")


def existing_folder(root: Path, names: Collection[str]) -> Path:
    """The first of ``names`` that is a folder in ``root``.

    Raises:
        DataError: None is.
    """
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DataError(f"{root}: no folder of pictures: looked for {', '.join(names)}")


def _header(path: Path, cells: list[str] | csv.Error, columns: Collection[str]) -> list[str]:
    if isinstance(cells, csv.Error):
        raise DataError(f"{path}:1: broken quoting in the header: {cells}")
    if missing := [name for name in columns if name not in cells]:
        raise DataError(f"{path}: no column {missing[0]!r} in the header {cells}")
    if twice := [name for name, count in Counter(cells).items() if name and count > 1]:
        raise DataError(
            f"{path}: column {twice[0]!r} stands twice in the header {cells}: rename one of them; "
            "several captions of a picture are rows of their own"
        )
    return cells


def _cells(lines: Sequence[str], delimiter: str) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """Each row with the number of its first line; after a broken line reading goes on behind it."""
    csv.field_size_limit(LONGEST_CELL)
    start = 0
    while start < len(lines):
        first = start
        reader = csv.reader(islice(lines, first, None), delimiter=delimiter, strict=True)
        try:
            for cells in reader:
                if delimiter == "\t" and any("\n" in c and "\t" in c for c in cells):
                    raise csv.Error("a quotation mark without its end")
                if cells:
                    yield start + 1, cells
                start = first + reader.line_num
        except csv.Error as error:
            literal = lines[start].rstrip("\n").split("\t")
            yield start + 1, literal if delimiter == "\t" else error
            start += 1
