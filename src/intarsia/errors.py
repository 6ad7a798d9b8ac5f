"""Every error that intarsia raises on purpose.

A message names the bad value, where it was found and what would have been valid.
"""

from __future__ import annotations

from collections.abc import Iterable


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
    "unknown method 'cilp': choose from clip, filip"
    """
    return f"unknown {kind} {name!r}: choose from {', '.join(sorted(valid))}"
