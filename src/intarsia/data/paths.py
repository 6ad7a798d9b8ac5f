"""Files under the names that people and file systems give them."""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from typing import Literal
from unicodedata import normalize

FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")
"""A letter and its accent as one code point, or as two, which macOS and its archives prefer."""


def located(path: Path) -> Path | None:
    """What exists at ``path``, or at the same text in other code points."""
    if os.path.exists(path):
        return path
    if str(path).isascii() or path.parent == path:
        return None
    parent = located(path.parent)
    if parent is None:
        return None
    candidates = (parent / normalize(form, path.name) for form in FORMS)
    return next(filter(os.path.exists, candidates), None)


def plain_name(path: str) -> str:
    """One spelling of a path: ``./0.png`` and ``0.png`` are the same file.

    >>> plain_name("./a//b/../0.png")
    'a/0.png'
    """
    return normalize("NFC", Path(os.path.normpath(path)).as_posix())


def leaves(path: str) -> bool:
    """Whether a relative path leads out of the folder that it is relative to."""
    return Path(os.path.normpath(path)).parts[:1] == ("..",)


def is_hidden(path: PurePath) -> bool:
    """Whether a file or one of its folders begins with a dot: "._0.jpg", ".cache/0.jpg"."""
    return any(part.startswith(".") and part not in (".", "..") for part in path.parts)
