"""Whether results can be written, asked before the work: what takes hours must not be lost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryFile

from intarsia.errors import ConfigError

OURS = {"protocol", "findings"}
"""Keys of results, comparisons and checks of data, which may be written anew."""


def require_file(path: Path) -> None:
    """
    Raises:
        ConfigError: No file can be written at ``path``.
    """
    if path.is_dir():
        raise ConfigError(f"cannot write {path}: it is a folder, name a file in it")
    if path.exists() and not path.is_file():  # a device or a pipe
        if not os.access(path, os.W_OK):
            raise ConfigError(f"cannot write {path}: permission denied")
        return
    _require_place(path, path.absolute().parent)


def require_result(path: Path) -> None:
    """
    Raises:
        ConfigError: No file can be written at ``path``, or what is there is not of our own making.
    """
    require_file(path)
    if path.is_file() and path.stat().st_size and not _is_ours(path):
        raise ConfigError(f"cannot write {path}: it exists and is no result; choose another path")


def _is_ours(path: Path) -> bool:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(found, dict) and not OURS.isdisjoint(found)


def require_folder(path: Path) -> None:
    """
    Raises:
        ConfigError: No files can be written in ``path``, nor it be made.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError(f"cannot write into {path}: it is a file, name a folder")
    _require_place(path, path.absolute())


def require_new(path: Path) -> None:
    """
    Raises:
        ConfigError: ``path`` exists, or cannot be made.
    """
    if path.exists():
        raise ConfigError(f"{path} exists: remove it or choose another path")
    _require_place(path, path.absolute().parent)


def _require_place(path: Path, folder: Path) -> None:
    """The nearest folder that is there takes a file."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        TemporaryFile(dir=there).close()
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {there}: {error.strerror}; choose another place"
        ) from error
