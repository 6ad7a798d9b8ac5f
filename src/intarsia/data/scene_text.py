"""True captions of a generated scene, and false ones that differ from them by one change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations
from random import Random
from typing import Literal, NamedTuple, TypeVar

from intarsia.data.scene_grammar import TEMPLATES, WORDINGS, Slot, Template
from intarsia.data.scene_graph import COLOURS, DIRECTIONS, HELD_OUT, SHAPES, Known, Scene, Thing
from intarsia.types import Negative, Span

MAX_WORDS = 28
TRIES = 8

T = TypeVar("T")
Attribute = Literal["colour", "size", "texture"]


class Mention(NamedTuple):
    """How a caption names one object; a size or texture of None is left unsaid."""

    thing: int
    colour: str
    shape: str
    size: str | None
    texture: str | None
    texture_first: bool

    @property
    def look(self) -> tuple[str, str]:
        return self.colour, self.shape

    @property
    def text(self) -> str:
        kind = (self.texture, self.colour) if self.texture_first else (self.colour, self.texture)
        return " ".join(filter(None, (self.size, *kind, self.shape)))

    def fits(self, thing: Thing) -> bool:
        """Whether size and texture are as said, given that the look is."""
        return self.size in (None, thing.size) and self.texture in (None, thing.texture)


class Fact(NamedTuple):
    """A relation or place, said of the mentions with these indices in these words."""

    name: str
    mentions: tuple[int, ...]
    words: str


class Statement(NamedTuple):
    """A caption before it is words: a template with what fills its slots."""

    kind: str
    template: Template
    mentions: tuple[Mention, ...]
    facts: tuple[Fact, ...]

    def realise(self) -> Caption:
        text, phrases, facts = "", [], iter(self.facts)
        for piece in self.template.pieces:
            if isinstance(piece, str):
                text += piece
            elif piece.style == "name":
                mention = self.mentions[piece.objects[0]]
                phrase = mention.text
                text += "an " if phrase[0] in "aeiou" else "a "
                phrases.append((mention.thing, (len(text), len(text) + len(phrase))))
                text += phrase
            else:
                text += next(facts).words
        return Caption(self, text, tuple(phrases))

    def with_mention(self, index: int, mention: Mention) -> Statement:
        mentions = list(self.mentions)
        mentions[index] = mention
        return self._replace(mentions=tuple(mentions))

    def is_false(self, scene: Scene) -> bool:
        """Whether no choice of objects makes it true, with a margin.

        The look of an object, always named, singles out at most one of the scene.
        """
        found = []
        for mention in self.mentions:
            thing = scene.by_look.get(mention.look)
            if thing is None or not mention.fits(scene.things[thing]):
                return True
            found.append(thing)
        return any(scene.refutes(f.name, *(found[m] for m in f.mentions)) for f in self.facts)


class Caption(NamedTuple):
    """A statement in words; ``phrases`` are its noun phrases: (thing, span without article)."""

    statement: Statement
    text: str
    phrases: tuple[tuple[int, Span], ...]


def describe(scene: Scene, rng: Random) -> tuple[Caption, ...] | None:
    """Four different captions, two of them with absolute places; None if the scene lacks the facts.

    Where a scene has objects with a held-out look, every caption names one of them.
    """
    kinds = ("relation", "places", "many" if len(scene.things) > 2 else "relation", "mixed")
    captions: dict[str, Caption] = {}
    for kind in _shuffled(rng, kinds):
        attempts = (_compose(scene, rng, kind) for _ in range(TRIES))
        spoken = (statement.realise() for statement in attempts if statement)
        good = (c for c in spoken if c.text not in captions and len(c.text.split()) <= MAX_WORDS)
        caption = next(good, None)
        if caption is None:
            return None
        captions[caption.text] = caption
    return tuple(captions.values())


def _compose(scene: Scene, rng: Random, kind: str) -> Statement | None:
    template = rng.choice(TEMPLATES[kind])
    bound: dict[int, int] = {}  # object of the template -> thing of the scene
    facts = []
    for slot in template.facts:
        options = _options(scene, slot, bound)
        if not options:
            return None
        name, things = rng.choice(options)
        bound.update(zip(slot.objects, things, strict=True))
        facts.append(Fact(name, slot.objects, rng.choice(WORDINGS[slot.style][name])))
    free = [i for i in range(len(scene.things)) if i not in bound.values()]
    unbound = [i for i in range(template.num_objects) if i not in bound]
    if len(unbound) > len(free):
        return None
    bound.update(zip(unbound, _shuffled(rng, free), strict=False))
    if scene.novel and scene.novel.isdisjoint(bound.values()):
        return None
    mentions = (_mention(bound[i], scene.things[bound[i]], rng) for i in range(len(bound)))
    return Statement(kind, template, tuple(mentions), tuple(facts))


def _options(scene: Scene, slot: Slot, bound: dict[int, int]) -> list[Known]:
    """The facts of the scene that fit a slot, given which things are already spoken of."""
    facts = scene.places if slot.style == "at" else scene.relations
    if not bound:
        return facts
    taken = set(bound.values())
    return [
        (name, things)
        for name, things in facts
        if all(
            bound[i] == thing if i in bound else thing not in taken
            for i, thing in zip(slot.objects, things, strict=True)
        )
    ]


def _mention(index: int, thing: Thing, rng: Random) -> Mention:
    says_size = rng.random() < (0.5 if thing.size == "small" else 0.35)
    says_texture = rng.random() < (0.6 if thing.texture == "striped" else 0.15)
    return Mention(
        index,
        thing.colour,
        thing.shape,
        thing.size if says_size else None,
        thing.texture if says_texture else None,
        thing.texture == "solid" or rng.random() < 0.6,
    )


def contradict(scene: Scene, captions: Sequence[Caption], rng: Random) -> tuple[Negative, ...]:
    """At most one false caption of each kind, each made from a randomly chosen suitable caption."""
    negatives = []
    for kind, change in CHANGES.items():
        for index in _shuffled(rng, range(len(captions))):
            variants = change(captions[index].statement, scene, rng)
            wrong = next((v for v in variants if _is_usable(v, scene)), None)
            if wrong:
                negatives.append(Negative(index, kind, wrong.realise().text))
                break
    return tuple(negatives)


def _is_usable(statement: Statement, scene: Scene) -> bool:
    looks = {mention.look for mention in statement.mentions}
    is_seen = scene.novel or looks.isdisjoint(HELD_OUT)
    return bool(is_seen and len(looks) == len(statement.mentions) and statement.is_false(scene))


def _swap_attributes(statement: Statement, scene: Scene, rng: Random) -> Iterator[Statement]:
    """Exchange the colours of two mentions, else their sizes or textures."""
    attributes: tuple[Attribute, ...] = ("colour", "size", "texture")
    for i, j in _shuffled(rng, combinations(range(len(statement.mentions)), 2)):
        for name in _shuffled(rng, attributes):
            a, b = statement.mentions[i], statement.mentions[j]
            mine, theirs = getattr(a, name), getattr(b, name)
            if mine and theirs and mine != theirs:
                swapped = statement.with_mention(i, _changed(a, name, theirs))
                yield swapped.with_mention(j, _changed(b, name, mine))


def _swap_roles(statement: Statement, scene: Scene, rng: Random) -> Iterator[Statement]:
    if statement.kind == "relation":
        yield statement._replace(mentions=statement.mentions[::-1])


def _swap_places(statement: Statement, scene: Scene, rng: Random) -> Iterator[Statement]:
    if statement.kind == "places" and len(statement.facts) == 2:
        a, b = statement.facts
        swapped = b._replace(mentions=a.mentions), a._replace(mentions=b.mentions)
        yield statement._replace(facts=swapped)


def _replace_shape(index: int) -> Callable[[Statement, Scene, Random], Iterator[Statement]]:
    def change(statement: Statement, scene: Scene, rng: Random) -> Iterator[Statement]:
        if statement.kind == "relation":
            mention = statement.mentions[index]
            for shape in _shuffled(rng, SHAPES):
                if shape != mention.shape:
                    yield statement.with_mention(index, mention._replace(shape=shape))

    return change


def _replace_relation(statement: Statement, scene: Scene, rng: Random) -> Iterator[Statement]:
    if statement.kind == "relation":
        (fact,), (slot,) = statement.facts, statement.template.facts
        for name in _shuffled(rng, DIRECTIONS):
            if name != fact.name:
                words = rng.choice(WORDINGS[slot.style][name])
                yield statement._replace(facts=(fact._replace(name=name, words=words),))


def _replace_colour(statement: Statement, scene: Scene, rng: Random) -> Iterator[Statement]:
    """One colour becomes one that the scene does not have."""
    absent = [c for c in COLOURS if all(c != thing.colour for thing in scene.things)]
    index = rng.randrange(len(statement.mentions))
    mention = statement.mentions[index]
    for colour in _shuffled(rng, absent):
        yield statement.with_mention(index, mention._replace(colour=colour))


def _changed(mention: Mention, name: Attribute, value: str) -> Mention:
    match name:
        case "colour":
            return mention._replace(colour=value)
        case "size":
            return mention._replace(size=value)
        case "texture":
            return mention._replace(texture=value)


def _shuffled(rng: Random, items: Iterable[T]) -> list[T]:
    """A shuffled copy; several times faster than ``shuffle`` or ``sample``."""
    return sorted(items, key=lambda _: rng.random())


CHANGES: dict[str, Callable[[Statement, Scene, Random], Iterator[Statement]]] = {
    "attribute_swap": _swap_attributes,
    "role_swap": _swap_roles,
    "place_swap": _swap_places,
    "replace_subject": _replace_shape(0),
    "replace_relation": _replace_relation,
    "replace_object": _replace_shape(1),
    "replace_attribute": _replace_colour,
}
