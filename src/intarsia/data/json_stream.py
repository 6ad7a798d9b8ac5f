"""Parts of JSON files that are too large to be held as a whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from intarsia.errors import DataError
from intarsia.runtime import bar

CHARACTERS = 1 << 20  # read at a time
BETWEEN = re.compile(r"[\s,]*")


def elements(path: Path) -> Iterator[Any]:
    """The elements of the list in a JSON file, one at a time.

    Raises:
        DataError: It holds no list, or is cut off.
    """
    decode = json.JSONDecoder().raw_decode
    size = path.stat().st_size
    with path.open(encoding="utf-8-sig") as file, bar(size, f"bytes of {path.name}") as advance:
        text = file.read(CHARACTERS).lstrip()
        advance(len(text))
        if not text.startswith("["):
            raise DataError(f"{path}: must be a list of pictures, begins with {text[:20]!r}")
        place = 1
        while True:
            place = _after(BETWEEN, text, place)
            if text.startswith("]", place):
                return
            try:
                element, place = decode(text, place)
            except json.JSONDecodeError as error:
                if not (more := file.read(CHARACTERS)):
                    raise DataError(f"{path}: not JSON, or cut off: {error}") from error
                text, place = text[place:] + more, 0
                advance(len(more))
                continue
            yield element


def first_field(path: Path, name: str) -> Any:
    """``container[name]`` of a JSON object, read no further than to its end; None if it has none.

    Raises:
        DataError: It is no object, or is cut off.
    """
    with path.open(encoding="utf-8-sig") as file:
        text = ""
        while more := file.read(max(CHARACTERS, len(text))):
            text += more
            try:
                return _field(text, name)
            except json.JSONDecodeError as error:
                reason = error
    raise DataError(f"{path}: not a JSON object, or cut off: {reason if text else 'is empty'}")


def _field(text: str, name: str) -> Any:
    """As :func:`first_field`, of the beginning of a file.

    >>> _field('{"info": {"images": 1}, "images": [2, 3], "annotations": [4', "images")
    [2, 3]

    Raises:
        json.JSONDecodeError: The field, or the end, is not within it.
    """
    decode = json.JSONDecoder().raw_decode
    place = _expected("{", text, 0)
    while not text.startswith("}", place):
        key, place = decode(text, place)
        place = _expected(":", text, place)
        value, place = decode(text, place)
        place = _after(BETWEEN, text, place)
        if place == len(text):
            break  # a number may go on
        if key == name:
            return value
    if place == len(text):
        raise json.JSONDecodeError("the end is missing", text, place)
    return None


def _expected(mark: str, text: str, place: int) -> int:
    """Where what follows ``mark`` begins."""
    place = _after(BETWEEN, text, place)
    if not text.startswith(mark, place):
        raise json.JSONDecodeError(f"{mark!r} expected", text, place)
    return _after(BETWEEN, text, place + 1)


def _after(pattern: re.Pattern[str], text: str, place: int) -> int:
    match = pattern.match(text, place)
    return place if match is None else match.end()
