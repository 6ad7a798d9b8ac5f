"""The generated data set ``scenes``: coloured shapes, exact captions, phrases and hard negatives.

It needs no files. Record i of a split is a pure function of (seed, split, i), so access is random
and every worker can make its own part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pyarrow as pa

from intarsia.data.columns import KNOWN
from intarsia.data.records import Records
from intarsia.data.scene_grammar import vocabulary
from intarsia.data.scene_graph import (
    COLOURS,
    DIAMETERS,
    HELD_OUT,
    SHAPES,
    TEXTURES,
    WIDTH,
    Contact,
    Ground,
    Scene,
    Thing,
)
from intarsia.data.scene_render import (
    NOISE_GRAINS,
    NOISE_SIZE,
    extent,
    hidden_share,
    render,
    sprite_box,
    visible_boxes,
)
from intarsia.data.scene_text import Caption, contradict, describe
from intarsia.errors import ConfigError, unknown
from intarsia.types import Phrase, Record, Region

__all__ = ["HELD_OUT", "SPLITS", "SceneSet", "scenes", "vocabulary"]

SPLITS = {"train": 20_000, "val": 1_000, "test": 1_000, "compositional": 1_000}
"""Splits and how many records they have unless told otherwise."""

CAPTIONS = {
    "all": ("relation", "places", "many", "mixed"),
    "places": ("places", "mixed"),
    "plain": ("relation", "many"),
}
"""Which kinds of captions a record has."""

SEEN = tuple((c, s) for c in COLOURS for s in SHAPES if (c, s) not in HELD_OUT)
HOSTS = ("circle", "square")  # shapes roomy enough for a small object inside
CONTACT_SHARE = 0.3
GAP = 2  # pixels between the boxes of objects that do not touch
STICK_OUT = 4  # pixels by which each of two overlapping boxes exceeds the other
PLACING_TRIES = 25


def scenes(split: str = "train", num: int | None = None, *, seed: int = 0) -> Records:
    """The records of a :class:`SceneSet`, drawn as they are asked for."""
    return SceneSet(split, num, seed=seed).records()


class SceneSet:
    """Generated scenes, map-style: (112, 112, 3) uint8 pictures of 2 to 5 objects.

    Each record has four captions (two name absolute places), a region for each object with the
    tight box of what is visible of it, a phrase for each noun phrase, and at most one negative of
    each kind in :data:`intarsia.data.scene_text.CHANGES`. Every scene of ``compositional`` holds
    and every caption there names a pair of :data:`HELD_OUT`, which no other split ever does.

    Args:
        split: one of ``SPLITS``.
        num: how many records; None = as many as the split has.
        seed: another seed makes other scenes.
        captions: one of ``CAPTIONS``; with fewer than all, a record has the two of them that name
            absolute places, or the two that do not, and no negatives of the others.

    Raises:
        ConfigError: the split or the kind of captions is unknown.
    """

    def __init__(
        self,
        split: str = "train",
        num: int | None = None,
        *,
        seed: int = 0,
        captions: str = "all",
    ) -> None:
        if split not in SPLITS:
            raise ConfigError(unknown("split of scenes", split, SPLITS))
        if captions not in CAPTIONS:
            raise ConfigError(unknown("captions of scenes", captions, CAPTIONS))
        self.captions = captions
        self.split = split
        self.num = SPLITS[split] if num is None else num
        self.seed = seed

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> Record:
        return self._record(range(self.num)[index], pictures=True)

    def column(self, name: str) -> pa.Array:
        """``id``, ``captions`` or ``size`` of all, nothing of which is rendered."""
        if name == "id":
            return pa.array([self.id_of(index) for index in range(self.num)])
        records = (self._record(index, pictures=False) for index in range(self.num))
        values = [getattr(record, name) for record in records]
        return pa.array(values, KNOWN[name])

    def take(self, places: Sequence[int], *, pictures: bool = True) -> list[Record]:
        return [self._record(place, pictures=pictures) for place in places]

    def digests(self, places: Sequence[int]) -> None:
        return None

    def _record(self, index: int, *, pictures: bool) -> Record:
        name = self.id_of(index)
        rng = Random(name)
        scene, every = _draw(rng, is_novel=self.split == "compositional")
        kinds = CAPTIONS[self.captions]
        captions = tuple(caption for caption in every if caption.statement.kind in kinds)
        return Record(
            id=name,
            image=render(scene.things, scene.ground) if pictures else b"",
            size=(WIDTH, WIDTH),
            captions=tuple(caption.text for caption in captions),
            regions=tuple(
                Region(box, thing.label)
                for box, thing in zip(scene.boxes, scene.things, strict=True)
            ),
            phrases=tuple(
                Phrase(i, span, (thing,))
                for i, caption in enumerate(captions)
                for thing, span in caption.phrases
            ),
            negatives=contradict(scene, captions, rng),
        )

    def id_of(self, index: int) -> str:
        return f"scenes/{self.split}/{self.seed}/{index}"

    def records(self) -> Records:
        return Records(self)


def _draw(rng: Random, is_novel: bool) -> tuple[Scene, tuple[Caption, ...]]:
    """Draw until the objects fit in and there is enough to say about them."""
    while True:
        scene = _arrange(rng, is_novel)
        captions = describe(scene, rng) if scene else None
        if scene and captions:
            return scene, captions


def _arrange(rng: Random, is_novel: bool) -> Scene | None:
    """A scene, or None if an object found no room."""
    things = _cast(rng, is_novel)
    contact = _bring_together(rng, things) if rng.random() < CONTACT_SHARE else None
    placed: list[Thing] = []
    for index, thing in enumerate(things):
        if contact and index == contact.front:
            found = _onto(rng, thing, placed[contact.back], contact.kind)
        else:
            found = _aside(rng, thing, placed)
        if found is None:
            return None
        placed.append(found)
    return Scene(tuple(placed), visible_boxes(placed, contact), _ground(rng), contact)


def _cast(rng: Random, is_novel: bool) -> list[Thing]:
    """2 to 5 objects without a place, no two alike in both colour and shape."""
    num = rng.choices((2, 3, 4, 5), (0.25, 0.3, 0.25, 0.2))[0]
    looks = rng.sample(SEEN, num)
    if is_novel:
        few = rng.randint(1, 2)
        looks[:few] = rng.sample(HELD_OUT, few)
        rng.shuffle(looks)
    return [_sized(rng, look, rng.choice(("small", "large"))) for look in looks]


def _sized(rng: Random, look: tuple[str, str], size: str) -> Thing:
    return Thing(*look, size, rng.choice(TEXTURES), rng.choice(DIAMETERS[size]))


def _bring_together(rng: Random, things: list[Thing]) -> Contact | None:
    """Choose two objects to touch and move them to the head of the list, back one first."""
    hosts = [i for i, thing in enumerate(things) if thing.shape in HOSTS]
    is_inside = bool(hosts) and rng.random() < 0.5
    things.insert(0, things.pop(rng.choice(hosts) if is_inside else 0))
    back, front = things[:2]
    if back.colour == front.colour:
        return None
    if is_inside:
        things[:2] = _sized(rng, back.look, "large"), _sized(rng, front.look, "small")
    return Contact("inside" if is_inside else "overlapping", front=1, back=0)


def _aside(rng: Random, thing: Thing, others: list[Thing]) -> Thing | None:
    """The thing at a random place where its box is clear of all others."""
    width, height = extent(thing.shape, thing.diameter)
    boxes = [sprite_box(other) for other in others]
    for _ in range(PLACING_TRIES):
        x, y = _between(rng, 1, WIDTH - 1 - width), _between(rng, 1, WIDTH - 1 - height)
        right, bottom = x + width + GAP, y + height + GAP
        for x0, y0, x1, y1 in boxes:
            if x < x1 + GAP and x0 < right and y < y1 + GAP and y0 < bottom:
                break
        else:
            return replace(thing, x=x, y=y)
    return None


def _onto(rng: Random, thing: Thing, host: Thing, kind: str) -> Thing | None:
    """The thing at a random place where it is inside its host, or visibly overlaps it."""
    width, height = extent(thing.shape, thing.diameter)
    x0, y0, x1, y1 = sprite_box(host)
    for _ in range(PLACING_TRIES):
        if kind == "inside":
            x, y = _between(rng, x0, x1 - width), _between(rng, y0, y1 - height)
        else:
            x = _between(rng, max(1, x0 - width), min(x1, WIDTH - 1 - width))
            y = _between(rng, max(1, y0 - height), min(y1, WIDTH - 1 - height))
        moved = replace(thing, x=x, y=y)
        if _touches(kind, moved, host):
            return moved
    return None


def _touches(kind: str, front: Thing, back: Thing) -> bool:
    """Fully inside, or overlapping enough to be seen and too little to hide what is behind."""
    shared = hidden_share(back, front)
    if kind == "inside":
        return shared > 0.999
    stick_out = _sticks_out(front, back) and _sticks_out(back, front)
    return stick_out and 0.15 <= shared <= 0.5 and hidden_share(front, back) <= 0.4


def _sticks_out(thing: Thing, other: Thing) -> bool:
    x0, y0, x1, y1 = sprite_box(thing)
    ox0, oy0, ox1, oy1 = sprite_box(other)
    return max(ox0 - x0, oy0 - y0, x1 - ox1, y1 - oy1) >= STICK_OUT


def _between(rng: Random, low: int, high: int) -> int:
    """An integer from low to high, both included; several times faster than ``randint``."""
    return low + int(rng.random() * (high - low + 1))


def _ground(rng: Random) -> Ground:
    level = _between(rng, 110, 170)
    red, green, blue = (level + _between(rng, -14, 14) for _ in range(3))
    if rng.random() < 0.5:
        return Ground((red, green, blue), None)
    grain = rng.randrange(len(NOISE_GRAINS))
    edge = NOISE_SIZE - WIDTH
    return Ground((red, green, blue), (grain, _between(rng, 0, edge), _between(rng, 0, edge)))
