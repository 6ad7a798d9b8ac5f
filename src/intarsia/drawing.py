"""Texts of users in drawings: shown as they are written, whatever is in them."""

from __future__ import annotations

import unicodedata
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VERBATIM: dict[str, Any] = {"parse_math": False, "usetex": False}
"""Options of every text of a user: matplotlib reads mathematics between two dollar signs, and TeX
everywhere where that is switched on."""


def printable(text: str, most: int = 300) -> str:
    """One line of at most ``most`` characters that any font and any file can take.

    >>> printable("a  sign\\nof $5 \\x00", 12), printable("a sign of $5", 8)
    ('a sign of $…', 'a sign …')
    """
    line = " ".join(text.split())
    if len(line) > most:
        line = line[: most - 1] + "…"
    return "".join("\N{REPLACEMENT CHARACTER}" if _is_control(c) else c for c in line)


def _is_control(character: str) -> bool:
    """A control character, or half of one that has no bytes (what is left of a broken encoding)."""
    return unicodedata.category(character) in ("Cc", "Cs")


def save(figure: Figure, target: Any, **options: Any) -> None:
    """``figure.savefig``; characters that the font lacks are empty boxes, without a word."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing")
        figure.savefig(target, **options)
