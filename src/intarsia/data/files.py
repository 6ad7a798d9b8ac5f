"""Texts of any encoding that says which it is, JSON, csv, tsv and jsonl."""

from __future__ import annotations

import csv
import json
import logging
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

from intarsia.data.problems import Problems
from intarsia.errors import DataError, nearest

logger = logging.getLogger(__name__)

Row = tuple[str, dict[str, Any]]  # where it stands ("file:line") and its cells

MARKS = {  # the longer first: UTF-16's is the beginning of UTF-32's
    BOM_UTF32_LE: "utf-32",
    BOM_UTF32_BE: "utf-32",
    BOM_UTF16_LE: "utf-16",
    BOM_UTF16_BE: "utf-16",
    BOM_UTF8: "utf-8-sig",
}
SEPARATORS = ",;|\t"  # of cells
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
    path: Path,
    columns: Collection[str],
    problems: Problems,
    delimiter: str = ",",
    *,
    optional: Collection[str] = (),
) -> Iterator[Row]:
    """The rows of a file with a header; rows of another length than it go to ``problems``.

    So does a line of broken quoting, which costs only itself. Where cells are separated by tabs
    such a line is taken as it is written: in a tsv a quotation mark is mostly no quoting.

    A first line ``sep=;``, as Excel writes it, says what separates the cells. Case and blanks
    around the names of ``columns`` and of ``optional`` ones do not count; where every name but the
    first has a blank before it, so have the cells, and it is none of theirs.

    Raises:
        DataError: The header lacks one of ``columns``, or names a column twice; or it is all that
            there is.
    """
    lines = list(StringIO(read_text(path)))
    if declared := re.fullmatch(rf"sep=([{SEPARATORS}])\n?", lines[0] if lines else ""):
        delimiter, lines[0] = declared[1], "\n"
    head = _Head(path, next((line for line in lines if line.strip()), ""), delimiter)
    rows = _cells(lines, delimiter, head.is_spaced)
    header = head.names(next((cells for _, cells in rows), []), columns, optional)
    number = None
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
    if number is None:
        raise DataError(f"{path}: has no rows: there is nothing below the header {header}")


def read_jsonl(path: Path, problems: Problems) -> Iterator[Row]:
    """The objects of a file with one a line; other lines go to ``problems``.

    Raises:
        DataError: There is no line.
    """
    text = read_text(path)
    if not text.strip():
        raise DataError(f"{path}: has no rows: the file is empty")
    for number, line in enumerate(text.split("\n"), start=1):
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


@dataclass(frozen=True, slots=True)
class _Head:
    """The line of a file that names its columns."""

    path: Path
    line: str
    delimiter: str

    @property
    def is_spaced(self) -> bool:
        _, *others = self.line.split(self.delimiter)
        return bool(others) and all(name.startswith(" ") for name in others)

    def names(
        self, cells: list[str] | csv.Error, columns: Collection[str], optional: Collection[str]
    ) -> list[str]:
        """Of the columns, those that are known as they are asked for.

        >>> _Head(Path(), "", ",").names(["Image", " id ", "Note"], ["image"], ["id"])
        ['image', 'id', 'Note']
        """
        if isinstance(cells, csv.Error):
            advice = self._advice(next(iter(columns)))
            raise DataError(f"{self.path}:1: broken quoting in the header: {cells}{advice}")
        found = [cell.strip() for cell in cells]
        known = {name.casefold(): name for name in (*columns, *optional) if name not in found}
        found = [known.get(name.casefold(), name) for name in found]
        if missing := [name for name in columns if name not in found]:
            told = f"no column {missing[0]!r} in the header {cells}"
            raise DataError(f"{self.path}: {told}{self._advice(missing[0])}")
        if twice := [name for name, count in Counter(found).items() if name and count > 1]:
            raise DataError(
                f"{self.path}: column {twice[0]!r} stands twice in the header {cells}: rename one "
                "of them; several captions of a picture are rows of their own"
            )
        return found

    def _advice(self, missing: str) -> str:
        """What is likely the matter with a header that lacks a column."""
        for mark in SEPARATORS.replace(self.delimiter, ""):
            if mark in self.line and missing in _plain_names(self.line, mark):
                cure = "name it .tsv" if mark == "\t" else f"put the line sep={mark} above it"
                return f": its cells are separated by {mark!r}, not {self.delimiter!r}: {cure}"
        near = nearest(missing, _plain_names(self.line, self.delimiter))
        return f": rename {near!r}, if this is it" if near else ""


def _plain_names(line: str, separator: str) -> list[str]:
    return [name.strip(" \"'\n").casefold() for name in line.split(separator)]


def _cells(
    lines: Sequence[str], delimiter: str, is_spaced: bool
) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """Each row with the number of its first line; after a broken line reading goes on behind it."""
    csv.field_size_limit(LONGEST_CELL)
    start = 0
    while start < len(lines):
        first = start
        some = islice(lines, first, None)
        reader = csv.reader(some, delimiter=delimiter, strict=True, skipinitialspace=is_spaced)
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
