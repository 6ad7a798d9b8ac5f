"""Every error that intarsia raises on purpose.

A message names the bad value, where it was found and what would have been valid.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class IntarsiaError(ValueError):
    """Base of all errors caused by what the user passed in."""


class ShapeError(IntarsiaError):
    """Two tensors that must fit together do not."""


class DataError(IntarsiaError):
    """A file, record or field of a data set is not what its format promises."""


class BackboneError(IntarsiaError):
    """A backbone cannot be loaded, or lacks what a method needs."""


class ConfigError(IntarsiaError):
    """A setting is unknown, out of range or contradicts another one."""


class TrainingError(IntarsiaError):
    """Training cannot go on (for example a loss that is not finite)."""


class CutTextWarning(UserWarning):
    """Texts are longer than the model's context: their ends do not count."""


class MissingExtraError(IntarsiaError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs the package {package!r}: pip install 'intarsia[{extra}]'")


def unknown(kind: str, name: str, valid: Iterable[str]) -> str:
    """The message for a name that is not one of a set.

    >>> unknown("method", "cilp", ["clip", "filip"])
    "unknown method 'cilp': choose from clip, filip (did you mean clip?)"
    >>> unknown("split", "test", [])
    "unknown split 'test': there is none to choose from"
    """
    names = sorted(valid)
    if not names:
        return f"unknown {kind} {name!r}: there is none to choose from"
    near = nearest(str(name), names)
    hint = f" (did you mean {near}?)" if near else ""
    return f"unknown {kind} {name!r}: choose from {', '.join(names)}{hint}"


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The one of ``valid`` that ``name`` looks most like, whatever its case; None if none does.

    >>> nearest("CILP", ["clip", "registers"]), nearest("x", ["clip"])
    ('clip', None)
    """
    as_written = {one.lower(): one for one in valid}
    found = get_close_matches(name.lower(), as_written, n=1)
    return as_written[found[0]] if found else None
