"""What a generated scene holds, and which statements about it are clearly true or clearly false.

Between the two lies a margin (a circle only just left of a square): such statements are neither
asserted by a caption nor used as a false one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import permutations

from intarsia.types import Box

Known = tuple[str, tuple[int, ...]]  # a relation or place, and the objects it is true of

WIDTH = 112  # pixels, of the square picture

COLOURS = {
    "red": (214, 28, 36),
    "orange": (250, 128, 10),
    "yellow": (252, 226, 40),
    "green": (24, 140, 52),
    "blue": (28, 72, 220),
    "purple": (122, 28, 160),
    "pink": (255, 132, 200),
    "black": (14, 14, 16),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "ring")
DIAMETERS = {"small": (22, 24), "large": (38, 40, 42)}  # pixels
TEXTURES = ("solid", "striped")

HELD_OUT = (
    ("red", "star"),
    ("orange", "cross"),
    ("yellow", "heart"),
    ("green", "triangle"),
    ("blue", "ring"),
    ("purple", "square"),
)
"""Pairs of colour and shape that only the split ``compositional`` shows or names."""

DIRECTIONS = {"left": (1, 0), "right": (-1, 0), "above": (0, 1), "below": (0, -1)}
"""Unit vector from the subject to the object of a relation."""

PLACES: dict[str, tuple[int | None, int | None]] = {
    "top left": (0, 0),
    "top centre": (1, 0),
    "top right": (2, 0),
    "centre left": (0, 1),
    "centre": (1, 1),
    "centre right": (2, 1),
    "bottom left": (0, 2),
    "bottom centre": (1, 2),
    "bottom right": (2, 2),
    "left": (0, None),
    "right": (2, None),
    "top": (None, 0),
    "bottom": (None, 2),
}
"""Third of the width and third of the height that a place stands for; None = anywhere."""

CLEARLY_APART = 0.12 * WIDTH
DOMINANCE = 1.5
PLACE_MARGIN = 0.05 * WIDTH


@dataclass(frozen=True, slots=True)
class Thing:
    """One object: how it looks, and the top left corner (x, y) of its sprite in pixels."""

    colour: str
    shape: str
    size: str
    texture: str
    diameter: int
    x: int = 0
    y: int = 0

    @property
    def look(self) -> tuple[str, str]:
        """What tells it from the other objects of its scene."""
        return self.colour, self.shape

    @property
    def label(self) -> str:
        texture = "striped " if self.texture == "striped" else ""
        return f"{self.size} {self.colour} {texture}{self.shape}"


@dataclass(frozen=True, slots=True)
class Contact:
    """The one pair of objects whose boxes meet: ``inside`` (front in back) or ``overlapping``."""

    kind: str
    front: int
    back: int


@dataclass(frozen=True, slots=True)
class Ground:
    """The muted background: its colour and, unless plain, where in which noise it was cut."""

    colour: tuple[int, int, int]
    noise: tuple[int, int, int] | None


@dataclass(frozen=True)
class Scene:
    """Objects from back to front, with the boxes of what is visible of them."""

    things: tuple[Thing, ...]
    boxes: tuple[Box, ...]
    ground: Ground
    contact: Contact | None = None

    @cached_property
    def centres(self) -> list[tuple[float, float]]:
        return [((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in self.boxes]

    @cached_property
    def by_look(self) -> dict[tuple[str, str], int]:
        return {thing.look: index for index, thing in enumerate(self.things)}

    @cached_property
    def novel(self) -> frozenset[int]:
        """The objects with a held-out look."""
        return frozenset(i for look, i in self.by_look.items() if look in HELD_OUT)

    @cached_property
    def relations(self) -> list[Known]:
        """Everything clearly true of two objects, as (relation, (subject, object))."""
        pairs = permutations(range(len(self.things)), 2)
        return [(name, pair) for pair in pairs if (name := self._relation(*pair))]

    @cached_property
    def places(self) -> list[Known]:
        """Everywhere an object clearly is, as (place, (object,))."""
        return [
            (name, (i,))
            for i, (x, y) in enumerate(self.centres)
            for name in _names_of(_third(x), _third(y))
        ]

    def refutes(self, name: str, subject: int, other: int | None = None) -> bool:
        """Whether ``subject`` is clearly not at this place, or not so related to ``other``."""
        if other is None:
            return any(map(_outside, PLACES[name], self.centres[subject]))
        contact = self._contact_of(subject, other)
        if name == "inside":
            return self._relation(subject, other) != "inside"
        if name == "overlapping":
            return contact is None
        dx, dy = self._offset(subject, other)
        ux, uy = DIRECTIONS[name]
        is_inside = contact is not None and contact.kind == "inside"
        return is_inside or dx * ux + dy * uy <= 0

    def _relation(self, subject: int, other: int) -> str | None:
        if contact := self._contact_of(subject, other):
            is_converse = contact.kind == "inside" and subject == contact.back
            return None if is_converse else contact.kind
        dx, dy = self._offset(subject, other)
        if abs(dx) >= max(CLEARLY_APART, DOMINANCE * abs(dy)):
            return "left" if dx > 0 else "right"
        if abs(dy) >= max(CLEARLY_APART, DOMINANCE * abs(dx)):
            return "above" if dy > 0 else "below"
        return None

    def _contact_of(self, a: int, b: int) -> Contact | None:
        contact = self.contact
        return contact if contact and {a, b} == {contact.front, contact.back} else None

    def _offset(self, subject: int, other: int) -> tuple[float, float]:
        (ax, ay), (bx, by) = self.centres[subject], self.centres[other]
        return bx - ax, by - ay


@cache
def _names_of(column: int | None, row: int | None) -> list[str]:
    return [name for name, (c, r) in PLACES.items() if c in (None, column) and r in (None, row)]


def _third(position: float) -> int | None:
    """The third that the position is clearly in."""
    third, offset = divmod(position, WIDTH / 3)
    is_clear = (third == 0 or offset >= PLACE_MARGIN) and (
        third == 2 or offset <= WIDTH / 3 - PLACE_MARGIN
    )
    return int(third) if is_clear else None


def _outside(third: int | None, position: float) -> bool:
    """Beyond the middle for an outer third, clearly in an outer third for the middle one."""
    if third is None:
        return False
    if third == 1:
        return abs(position - WIDTH / 2) >= WIDTH / 6 + PLACE_MARGIN
    return position >= WIDTH / 2 if third == 0 else position <= WIDTH / 2
