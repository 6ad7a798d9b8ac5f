"""The code that a user has written beside the package: a method, a term, what they import."""

from __future__ import annotations

import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).parent
INSTALLED = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))


def own_code(classes: Iterable[type]) -> list[str]:
    """Hashes of the files that some classes, and those they inherit from, are written in, and of
    the files that these import, apart from the package and what is installed.

    A class of a notebook or a prompt counts by its own source.
    """
    bases = [base for cls in classes for base in cls.__mro__]
    texts = {_source(base) for base in bases if base.__module__ == "__main__"}
    waiting = [sys.modules[base.__module__] for base in bases if base.__module__ in sys.modules]
    files: set[Path] = set()
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        file = _own_file(module)
        if file is None or module.__name__ in seen:
            continue
        seen.add(module.__name__)
        files.add(file)
        waiting += _used(module)
    contents = [file.read_bytes() for file in sorted(files)]
    contents += [text.encode() for text in sorted(texts)]
    return [hashlib.sha256(content).hexdigest() for content in contents]


def _used(module: ModuleType) -> Iterator[ModuleType]:
    """The modules that a module's names come from."""
    for value in vars(module).values():
        found = value if isinstance(value, ModuleType) else None
        name = getattr(value, "__module__", None)
        found = found or (sys.modules.get(name) if isinstance(name, str) else None)
        if found is not None and found is not module:
            yield found


def _own_file(module: ModuleType) -> Path | None:
    """The module's file, unless it belongs to the package or is installed."""
    place = getattr(module, "__file__", None)
    if place is None or module.__name__ == "__main__" or not place.endswith(".py"):
        return None
    file = Path(place).resolve()
    elsewhere = (PACKAGE, *(folder.resolve() for folder in INSTALLED))
    return None if any(file.is_relative_to(folder) for folder in elsewhere) else file


def _source(cls: type) -> str:
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):
        return ""
