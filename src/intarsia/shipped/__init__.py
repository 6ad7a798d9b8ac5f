"""Trained models inside the package, for who has none: what they are named, where they lie."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
SHIPPED = ("mini",)
"""``mini``: photos and English sentences, MobileNetV2 beside MiniLM. Each folder has a card,
README.md."""


def shipped(source: str | Path) -> Path:
    """The folder of a shipped model where ``source`` is its name, else ``source`` as a path; a
    folder of that name in the working directory comes first."""
    own = Path(source)
    if str(source) in SHIPPED and not own.exists():
        return FOLDER / own
    return own
