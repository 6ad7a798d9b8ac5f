"""Hard negatives from any captions: the same words, bound to one another in another way.

===================  ======================================================================
``swap_attributes``  two things exchange their adjectives: "a red car and a blue house"
``swap_phrases``     two things that no relation joins exchange their places, with adjectives
``swap_roles``       subject and object of a relation exchange their places
``shuffle_words``    all words in random order; the only kind that is not grammatical
===================  ======================================================================

A false caption must be false and read like a true one. So nothing is exchanged that a reader would
not miss: the same adjectives or nouns, things that are listed together ("a dog and a cat"), the
sides of relations that hold both ways ("next to", "with"); nor what would break the grammar: one
thing and several, "a dog" and "water"; nor, for lack of sense, the living and the lifeless ("a
swing rides a child"), whose colours alone may be exchanged. Articles are mended. What is left may
still be unlikely ("a palace guards a boy"): report the blind score beside it, or keep what language
alone cannot tell (``intarsia.evaluation.blind``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Set
from dataclasses import replace
from itertools import combinations
from random import Random

from intarsia.components.english import is_animate, is_plural, replaced, words_of
from intarsia.components.text import Entity, TextComponents, TextParser
from intarsia.components.text_entities import COLOURS
from intarsia.runtime import progress
from intarsia.types import Negative, Record, Span

BOTH_WAYS = re.compile(
    r"(?:^|\b)(?:next to|near|nearby|beside|besides|by|with|along|alongside|close to|adjacent to"
    r"|across from|opposite|around|between|among|amongst|amid|against|touching|touches|facing|faces"
    r"|hugging|hugs|hug|kissing|kisses|kiss|embracing|meeting|meets|fighting|fights|of|'s|like|as"
    r"|and|to each other)$"
)
LISTED = re.compile(r"[\s,]*(?:\b(?:and|or|with|&)\b)?[\s,]*")
DETERMINER = re.compile(r"(?:^|\s)([\w']+)\s+$")
DETERMINERS = frozenset(
    "a an the this that these those his her its their one another some each every".split()
)
Pair = tuple[int, int]


def swaps(records: Iterable[Record], parser: TextParser, seed: int = 0) -> list[Record]:
    """The records with at most one negative of each kind a caption; their own are dropped.

    What is made of a caption depends on its record's id, its place, its text and ``seed`` alone.

    Raises:
        MissingExtraError: spaCy or its model is not installed.
    """
    records = list(records)
    parsed = parser.parse(caption for record in records for caption in record.captions)
    return [
        replace(record, negatives=tuple(_of(record, parsed, seed)))
        for record in progress(records, "swapping words")
    ]


def _of(record: Record, parsed: Iterator[TextComponents], seed: int) -> Iterator[Negative]:
    true = {tuple(words_of(caption)) for caption in record.captions}
    for index, _ in enumerate(record.captions):
        yield from swapped(record.id, index, next(parsed), true, seed)


def swapped(
    name: str, index: int, parts: TextComponents, true: Set[tuple[str, ...]], seed: int
) -> Iterator[Negative]:
    """The negatives of one caption, at most one of each kind.

    Args:
        name: the id of its record.
        index: which of the record's captions it is.
        parts: of which it is made.
        true: the words of all captions of the record, none of which is made again.
        seed: of the choice among several.
    """
    for kind, candidates in _candidates(parts).items():
        rng = Random(f"{seed} {name} {index} {kind}")
        texts = [t for t in dict.fromkeys(candidates) if tuple(words_of(t)) not in true]
        if texts:
            yield Negative(index, kind, rng.choice(texts))
    shuffled = _shuffled(parts.text, Random(f"{seed} {name} {index}"))
    if tuple(words_of(shuffled)) not in true:
        yield Negative(index, "shuffle_words", shuffled)


def _candidates(parts: TextComponents) -> dict[str, list[str]]:
    """Every false caption of each kind."""
    related = {frozenset((r.subject, r.object)) for r in parts.relations}
    found: dict[str, list[str]] = {"swap_attributes": [], "swap_phrases": [], "swap_roles": []}
    for pair in combinations(range(len(parts.entities)), 2):
        first, second = (parts.entities[i] for i in pair)
        if any(COLOURS.issuperset(_words(parts, entity.noun)) for entity in (first, second)):
            continue  # an adjective that the parser took for a thing
        same_noun = _words(parts, first.noun) == _words(parts, second.noun)
        missed = not _is_reversible(parts, pair)
        if missed or not same_noun:
            found["swap_attributes"] += _attributes_swapped(parts, first, second)
        if missed and _interchangeable(parts, first, second):
            kind = "swap_roles" if frozenset(pair) in related else "swap_phrases"
            found[kind].append(_exchanged(parts.text, first.span, second.span))
    return found


def _attributes_swapped(parts: TextComponents, first: Entity, second: Entity) -> list[str]:
    one, other = _adjectives(parts.text, first), _adjectives(parts.text, second)
    if one is None or other is None:
        return []
    described = words_of(parts.text[slice(*one)]), words_of(parts.text[slice(*other)])
    only_colours = all(COLOURS.issuperset(words) for words in described)
    if set(described[0]) & set(described[1]) or not (only_colours or _alike(parts, first, second)):
        return []
    return [_exchanged(parts.text, one, other)]


def _alike(parts: TextComponents, first: Entity, second: Entity) -> bool:
    """Whether two things are both alive or both lifeless."""
    one, other = (is_animate(parts.text[slice(*entity.noun)]) for entity in (first, second))
    return one == other


def _adjectives(text: str, entity: Entity) -> Span | None:
    """What stands before the noun; None where it is nothing."""
    start, end = entity.span[0], entity.noun[0]
    end = start + len(text[start:end].rstrip())
    return (start, end) if start < end else None


def _interchangeable(parts: TextComponents, first: Entity, second: Entity) -> bool:
    """Whether two phrases fit into each other's place and the reader would see a difference."""
    one, other = _words(parts, first.span), _words(parts, second.span)
    nouns = _words(parts, first.noun), _words(parts, second.noun)
    if set(one) & set(other) or not _alike(parts, first, second):
        return False
    several = [is_plural(" ".join(noun)) for noun in nouns]
    if several[0] != several[1]:
        return False
    determiners = [determiner(parts.text, entity) for entity in (first, second)]
    return several[0] or determiners[0] == determiners[1]


def determiner(text: str, entity: Entity) -> str:
    """The determiner before a phrase ("a" for "an"), or nothing."""
    match = DETERMINER.search(text[: entity.span[0]])
    word = match[1].lower() if match else ""
    return {"an": "a"}.get(word, word) if word in DETERMINERS else ""


def _is_reversible(parts: TextComponents, pair: Pair) -> bool:
    """Whether the caption says the same of both: they are listed, or related both ways."""
    first, second = sorted((parts.entities[i] for i in pair), key=lambda entity: entity.span)
    between = parts.text[first.span[1] : second.span[0]]
    without = " ".join(w for w in between.split() if w.lower() not in DETERMINERS)
    if LISTED.fullmatch(without):
        return True
    actions = [r.action.lower() for r in parts.relations if {r.subject, r.object} == set(pair)]
    if any(BOTH_WAYS.search(action) for action in actions):
        return True
    roles = [_roles(parts, index) for index in pair]
    return roles[0] == roles[1]


def _roles(parts: TextComponents, index: int) -> set[tuple[str, str, int]]:
    """What an entity does to whom and what is done to it by whom."""
    does = {("does", r.action, r.object) for r in parts.relations if r.subject == index}
    return does | {("is", r.action, r.subject) for r in parts.relations if r.object == index}


def _exchanged(text: str, one: Span, other: Span) -> str:
    return replaced(text, {one: text[slice(*other)], other: text[slice(*one)]})


def _shuffled(caption: str, rng: Random) -> str:
    """The words in another order; the full stop and the first capital stay in their places."""
    body = caption.rstrip(" .!?")
    words = body.split()
    order = list(words)
    if words:
        order[0] = order[0][:1].lower() + order[0][1:]
    rng.shuffle(order)
    text = " ".join(order)
    if body[:1].isupper():
        text = text[:1].upper() + text[1:]
    return text + caption[len(body) :]


def _words(parts: TextComponents, span: Span) -> tuple[str, ...]:
    return tuple(words_of(parts.text[slice(*span)]))
