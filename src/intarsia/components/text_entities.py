"""Which words of a dependency parse name things, and with which words around them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from intarsia.types import Span

if TYPE_CHECKING:
    from spacy.tokens import Doc

NOUNS = frozenset({"NN", "NNS", "NNP", "NNPS"})
ADJECTIVES = frozenset({"JJ", "JJR", "JJS"})
INSIDE_PHRASE = (
    NOUNS | ADJECTIVES | {"VBN", "VBG", "VBD", "RB", "RBR", "RBS", "HYPH", "CC", ",", "_SP"}
)
NEVER_FIRST = frozenset({"CC", ",", "HYPH", "_SP"})
ARGUMENTS = frozenset({"nsubj", "nsubjpass", "dobj", "pobj"})
MODIFIERS = frozenset({"amod", "compound", "nmod", "npadvmod", "quantmod", "advmod", "nummod"})

PRONOUNS = frozenset(
    "one ones another other others something someone somebody anything anyone everyone everything"
    " nothing nobody none noone everybody each way".split()
)
QUANTIFIERS = frozenset(
    "several many few other another more most much such same own various multiple numerous some"
    " all both first second third next last only".split()
)
COLLECTIVES = frozenset(
    "group groups pair couple bunch lot lots number set series row rows piece pieces body bodies"
    " crowd team herd flock pack variety kind type sort line one some all both each".split()
)
PICTURES = frozenset("picture photo photograph image shot view close-up closeup".split())
POSITIONS = frozenset(
    "front side sides middle background foreground distance midst left right inside outside"
    " midair".split()
)
POSITIONS_WITH_OF = frozenset("top back bottom edge end foot base rear center centre".split())
COLOURS = frozenset(
    "red green blue yellow white black brown orange pink purple grey gray tan beige gold golden"
    " silver blond blonde maroon turquoise teal navy violet khaki".split()
)
MATERIALS = frozenset(
    "wood wooden metal leather plastic cement concrete stone brick glass straw wicker rubber denim"
    " cotton wool silk paper cardboard steel marble".split()
)


@dataclass(slots=True, eq=False)
class Word:
    """A token of the parse: Penn tag, CLEAR dependency label and place in the tree.

    ``denied`` is what the caption says is not there; ``noun`` is the noun that an adjective shares
    with others (the "car" of the "red" in "a red and a blue car").
    """

    index: int
    text: str
    span: Span
    tag: str
    dep: str
    head: Word = field(init=False)
    children: list[Word] = field(init=False, default_factory=list)
    lower: str = field(init=False)
    denied: bool = False
    noun: Word | None = None

    def __post_init__(self) -> None:
        self.lower = self.text.lower()

    def all(self, *deps: str) -> list[Word]:
        """The children with one of these dependency labels, in order."""
        return [child for child in self.children if child.dep in deps]


def read(doc: Doc, text: str) -> list[Word]:
    """The words of a parsed text, linked into its trees (a root is its own head).

    ``text`` is what was parsed, in its own letters.
    """
    spans = [(token.idx, token.idx + len(token)) for token in doc]
    words = [
        Word(token.i, text[slice(*span)], span, token.tag_, token.dep_)
        for token, span in zip(doc, spans, strict=True)
    ]
    for word, token in zip(words, doc, strict=True):
        word.head = words[token.head.i]
        if word.head is not word:
            word.head.children.append(word)
    return words


def is_entity(word: Word) -> bool:
    """Whether a word is the head noun of a phrase that names something one can point at."""
    if word.denied or word.lower in PRONOUNS or not re.search("[A-Za-z]", word.text):
        return False
    if word.noun is not None:
        return True
    if word.tag in ADJECTIVES:
        return word.dep in ARGUMENTS and word.lower not in QUANTIFIERS and not is_position(word)
    if word.tag not in NOUNS or first_conjunct(word).dep in MODIFIERS:
        return False
    return counted(word) is None and not is_position(word)


def counted(word: Word) -> Word | None:
    """What a collective noun counts: "people" for the "group" of "a group of people". A caption
    that is "a picture of a dog" speaks of the dog alone."""
    shows = word.lower in PICTURES and word.dep in {"ROOT", "attr"}
    if word.lower not in COLLECTIVES and not shows:
        return None
    inner = [noun for of in of_phrases(word) for noun in of.all("pobj")]
    return inner[0] if inner and inner[0].tag in NOUNS else None


def is_position(word: Word) -> bool:
    """Whether a noun only says where ("in front of", "in the background")."""
    if word.dep != "pobj":
        return False
    return word.lower in POSITIONS or (
        word.lower in POSITIONS_WITH_OF and bool(of_phrases(word)) and not word.all("poss")
    )


def of_phrases(word: Word) -> list[Word]:
    return [child for child in word.all("prep") if child.lower == "of"]


def first_conjunct(word: Word) -> Word:
    while word.dep == "conj" and word.head is not word:
        word = word.head
    return word


def conjuncts(word: Word) -> Iterator[Word]:
    """A word and all that is coordinated with it to its right.

    A list is parsed as an apposition: the "boy" of "a man, a boy and a girl".
    """
    yield word
    for child in word.all("conj", "appos"):
        if child.dep == "conj" or child.all("conj"):
            yield from conjuncts(child)


def things(word: Word) -> list[Word]:
    """The entities that a noun and its coordinates stand for; none for pronouns."""
    return [thing for each in conjuncts(word) for thing in alone(each)]


def alone(word: Word) -> list[Word]:
    """The entities that one noun stands for: itself, or what it counts."""
    inner = counted(word)
    if inner is not None:
        return things(inner)
    return [word] if is_entity(word) else []


def phrase(head: Word, words: list[Word]) -> tuple[Span, Span]:
    """Spans of a noun with its adjectives, and of the noun (with its compounds) alone."""
    end = head.span[1]
    left = list(_inside(head, words))
    while left and left[-1].tag in NEVER_FIRST:
        left.pop()
    start = left[-1].span[0] if left else head.span[0]
    noun = head
    for word in left:
        if not _names_a_kind(word, head):
            break
        noun = word
    return (start, end), (noun.span[0], end)


def _inside(head: Word, words: list[Word]) -> Iterator[Word]:
    """From right to left: adjectives and compounds before ``head``, back to the determiner."""
    for word in reversed(words[: head.index]):
        if word.tag not in INSIDE_PHRASE or word.lower in QUANTIFIERS or not _under(word, head):
            return
        if word.dep in {"det", "poss", "nummod", "predet", "nsubj"}:
            return
        yield word


def _under(word: Word, ancestor: Word) -> bool:
    while word.head is not word and word is not ancestor:
        word = word.head
    return word is ancestor


def _names_a_kind(word: Word, head: Word) -> bool:
    """Whether a word before a noun is part of its name: "traffic light", not "green park"."""
    return (
        word.dep == "compound"
        and word.tag in NOUNS
        and word.lower not in COLOURS
        and word.lower not in MATERIALS
    ) or (word.tag == "HYPH" and word.head is head)
