"""The wordings that captions of generated scenes are made of, and the vocabulary they span.

A template is plain text with slots: ``{0}`` names object 0 ("a small red circle"), ``{at:0}`` says
where it is, ``{rel:0,1}`` relates it to object 1, ``{its:0,1}`` does so after object 1 was named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from intarsia.data.scene_graph import COLOURS, DIAMETERS, SHAPES, TEXTURES


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a template names objects: ``style`` is ``name``, ``at``, ``rel`` or ``its``."""

    style: str
    objects: tuple[int, ...]


@dataclass(frozen=True)
class Template:
    pieces: tuple[str | Slot, ...]

    @cached_property
    def facts(self) -> list[Slot]:
        return [p for p in self.pieces if isinstance(p, Slot) and p.style != "name"]

    @cached_property
    def num_objects(self) -> int:
        return 1 + max(i for p in self.pieces if isinstance(p, Slot) for i in p.objects)


def parse(text: str) -> Template:
    """Split a template into literal text and slots.

    >>> parse("{0} {at:0}").pieces
    (Slot(style='name', objects=(0,)), ' ', Slot(style='at', objects=(0,)))
    """
    pieces: list[str | Slot] = []
    for literal, slot in re.findall(r"([^{]*)(?:\{([^}]*)\})?", text):
        pieces += [literal] if literal else []
        if slot:
            style, _, objects = slot.rpartition(":")
            pieces.append(Slot(style or "name", tuple(map(int, objects.split(",")))))
    return Template(tuple(pieces))


def _parse_all(*texts: str) -> tuple[Template, ...]:
    return tuple(map(parse, texts))


TEMPLATES = {
    "relation": _parse_all(
        "{0} {rel:0,1} {1}",
        "{0} {rel:0,1} {1}",
        "{0} is {rel:0,1} {1}",
        "there is {0} {rel:0,1} {1}",
        "a picture of {0} {rel:0,1} {1}",
        "{rel:0,1} {1} there is {0}",
        "{1} with {0} {its:0,1}",
        "there is {1} with {0} {its:0,1}",
    ),
    "places": _parse_all(
        "{0} {at:0} and {1} {at:1}",
        "{0} {at:0}, {1} {at:1}",
        "there is {0} {at:0} and {1} {at:1}",
        "{0} is {at:0} and {1} is {at:1}",
        "{at:0} there is {0} and {at:1} there is {1}",
        "{0} can be seen {at:0}, with {1} {at:1}",
        "{0} {at:0}",
        "there is {0} {at:0}",
    ),
    "mixed": _parse_all(
        "{0} {at:0}, {rel:0,1} {1}",
        "{0} is {at:0}, {rel:0,1} {1}",
        "there is {0} {at:0}, {rel:0,1} {1}",
        "{at:0} there is {0}, {rel:0,1} {1}",
        "{1} with {0} {its:0,1}, and {2} {at:2}",
        "{0} {rel:0,1} {1}, and {2} {at:2}",
    ),
    "many": _parse_all(
        "{0}, {1} and {2}",
        "a picture of {0}, {1} and {2}",
        "{0}, {1}, {2} and {3}",
        "{0} {rel:0,1} {1} and {rel:0,2} {2}",
        "{0} is {rel:0,1} {1} and {rel:0,2} {2}",
        "{0} {rel:0,1} {1} and {2} {rel:2,3} {3}",
        "there is {0} {rel:0,1} {1}, and also {2}",
    ),
}

WORDINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "rel": {
        "left": ("to the left of", "left of", "on the left of"),
        "right": ("to the right of", "right of", "on the right of"),
        "above": ("above", "higher up than"),
        "below": ("below", "under", "beneath", "lower down than"),
        "inside": ("inside", "within", "enclosed by"),
        "overlapping": ("overlapping", "partly overlapping"),
    },
    "its": {
        "left": ("to its left", "on its left"),
        "right": ("to its right", "on its right"),
        "above": ("above it",),
        "below": ("below it", "underneath it", "beneath it"),
        "inside": ("inside it", "within it"),
        "overlapping": ("overlapping it",),
    },
    "at": {
        "top left": ("in the top left corner", "in the upper left corner", "at the top left"),
        "top centre": ("at the top in the middle", "at the top centre"),
        "top right": ("in the top right corner", "in the upper right corner", "at the top right"),
        "centre left": ("halfway down the left side", "in the middle of the left side"),
        "centre": ("in the centre", "in the middle", "in the middle of the picture"),
        "centre right": ("halfway down the right side", "in the middle of the right side"),
        "bottom left": (
            "in the bottom left corner",
            "in the lower left corner",
            "at the bottom left",
        ),
        "bottom centre": ("at the bottom in the middle", "at the bottom centre"),
        "bottom right": (
            "in the bottom right corner",
            "in the lower right corner",
            "at the bottom right",
        ),
        "left": ("on the left", "on the left side", "on the left side of the picture"),
        "right": ("on the right", "on the right side", "on the right side of the picture"),
        "top": ("at the top", "towards the top", "at the top of the picture"),
        "bottom": ("at the bottom", "towards the bottom", "at the bottom of the picture"),
    },
}


def vocabulary() -> tuple[str, ...]:
    """Every token a caption or negative can hold: lower-case words and punctuation, sorted."""
    literals = [
        piece
        for templates in TEMPLATES.values()
        for template in templates
        for piece in template.pieces
        if isinstance(piece, str)
    ]
    wordings = [text for table in WORDINGS.values() for texts in table.values() for text in texts]
    adjectives = [*COLOURS, *DIAMETERS, *TEXTURES]
    text = " ".join(["a an", *literals, *wordings, *adjectives, *SHAPES])
    return tuple(sorted(set(re.findall(r"\w+|[^\w\s]", text))))
