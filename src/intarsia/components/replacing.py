"""Hard negatives by one false word: a noun, an adjective or a verb in the place of another.

The words come from the captions themselves, each as often as they have it, so that a false word is
no rarer than a true one. What takes a word's place fits there and is not true as well:

* a noun for a noun of the same number, behind the same article, a living one for a living one;
* a verb for a verb of the same form before the same preposition ("sitting on", "lying on");
* a colour for a colour, a material for a material, or one of two opposites for the other ("small",
  "big"); other adjectives seldom exclude one another and stay.

Never a word that one of the picture's captions holds, in any form or under another name ("man",
"guy"), nor one that is true of most things ("person"). Which words say the same is a short list, so
some false captions are true after all: report the blind score beside the accuracy and look at some.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import accumulate
from random import Random

from intarsia.components.english import is_animate, is_plural, replaced, words_of
from intarsia.components.swapping import determiner
from intarsia.components.text import TextComponents
from intarsia.components.text_entities import (
    COLOURS,
    MATERIALS,
    PICTURES,
    POSITIONS,
    POSITIONS_WITH_OF,
)
from intarsia.errors import MissingExtraError
from intarsia.types import Span

Kind = tuple[str, ...]
"""Words of one kind can stand for one another."""
Place = tuple[Span, str, Kind]

TRIES = 20
GENERIC = frozenset(
    "person people adult human individual someone child kid youth animal pet thing object item"
    " scene area place male female player".split()
)
SAME = tuple(
    frozenset(words.split())
    for words in (
        "man guy gentleman dude male father dad husband person adult",
        "woman lady female mother mom wife person adult",
        "boy kid child son toddler teenager youth",
        "girl kid child daughter toddler teenager youth",
        "baby infant toddler child",
        "person people human adult",
        "rider cyclist biker motorcyclist jockey",
        "player athlete man woman",
        "dog puppy pup hound",
        "cat kitten",
        "horse pony",
        "bike bicycle cycle",
        "motorcycle motorbike bike",
        "car vehicle automobile",
        "truck vehicle van",
        "couch sofa",
        "street road",
        "path trail road",
        "picture photo photograph image",
        "ocean sea water",
        "lake pond water",
        "river stream water",
        "pool water",
        "beach sand shore",
        "field grass lawn",
        "forest wood tree",
        "hill mountain slope",
        "cliff rock mountain",
        "rock stone boulder",
        "coat jacket",
        "shirt top t-shirt jersey",
        "hat cap helmet",
        "cap helmet",
        "ball football basketball baseball",
        "building house",
        "bench seat",
        "stick branch",
        "grey gray silver",
        "gold golden yellow",
        "blond blonde yellow",
        "tan beige khaki brown",
        "purple violet",
        "red maroon",
        "blue navy teal turquoise",
        "green teal turquoise",
        "wood wooden",
        "concrete cement stone",
        "cotton wool silk denim",
        "run jog race sprint",
        "walk stroll hike",
        "look watch stare gaze face",
        "hold carry grab",
        "sit rest seat",
        "lie lay rest",
        "jump leap hop",
        "talk speak",
        "climb scale",
        "ride drive",
        "throw toss",
    )
)
"""Words of which several may be said of one thing, in their plain form."""
OPPOSITES = tuple(
    (frozenset(one.split()), frozenset(other.split()))
    for one, other in (
        ("big large huge", "small little tiny"),
        ("young", "old elderly"),
        ("male", "female"),
        ("wet", "dry"),
        ("empty", "full crowded"),
        ("long", "short"),
        ("tall", "short"),
        ("dark", "bright"),
        ("open", "closed"),
        ("dirty", "clean"),
        ("thin", "fat thick"),
    )
)
PREPOSITIONS = frozenset(
    "across towards besides as 's during including past is was has does facing".split()
)
NO_THINGS = COLOURS | PICTURES | POSITIONS | POSITIONS_WITH_OF
ENDINGS = ("ing", "ed", "s")


class Vocabulary:
    """The words of captions that can stand for one another, and how often each is said.

    Args:
        parsed: the captions.
    """

    def __init__(self, parsed: Iterable[TextComponents]) -> None:
        counts: dict[Kind, Counter[str]] = {}
        for parts in parsed:
            for _, word, kind in places(parts):
                counts.setdefault(kind, Counter())[word] += 1
        self._words: dict[Kind, tuple[list[str], list[int]]] = {}
        for kind, found in counts.items():
            words = sorted(found)
            self._words[kind] = words, list(accumulate(found[word] for word in words))

    def draw(self, word: str, kind: Kind, said: set[str], rng: Random) -> str | None:
        """A word for the place of ``word`` that is false where all of ``said`` (:func:`meanings`)
        is true; None where none is found in some tries."""
        known = self._words.get(_opposite(word, kind))
        if known is None:
            return None
        words, weights = known
        drawn = rng.choices(words, cum_weights=weights, k=TRIES)
        may = (other for other in drawn if other not in GENERIC and stem(other) not in said)
        return next(may, None)


def word_replaced(
    parts: TextComponents, vocabulary: Vocabulary, said: set[str], rng: Random
) -> str | None:
    """The caption with another word in one place; None where no place has one.

    Args:
        parts: of the caption.
        vocabulary: of all captions.
        said: the meanings of all captions of the picture.
        rng: draws.

    >>> from intarsia.components.text import Entity
    >>> dog = TextComponents("A dog.", (Entity((2, 5), (2, 5)),))
    >>> cat = TextComponents("A cat.", (Entity((2, 5), (2, 5)),))
    >>> word_replaced(dog, Vocabulary([dog, cat]), meanings(["A dog."]), Random(0))
    'A cat.'
    """
    found = list(places(parts))
    rng.shuffle(found)
    for span, word, kind in found:
        other = vocabulary.draw(word, kind, said, rng)
        if other is not None:
            return replaced(parts.text, {span: other})
    return None


def meanings(captions: Iterable[str]) -> set[str]:
    """The stems of all words that captions hold, and of those that say the same."""
    said = {stem(word) for caption in captions for word in words_of(caption)}
    return said.union(*(words for words in _same_stems() if not said.isdisjoint(words)))


@cache
def stem(word: str) -> str:
    """What the forms of a word have in common; not itself a word.

    >>> [stem(word) for word in ("rides", "riding", "rode", "sitting", "children", "puppies")]
    ['rid', 'rid', 'rid', 'sit', 'child', 'puppy']

    Raises:
        MissingExtraError: lemminflect is not installed.
    """
    word = _plain(word)
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) > 2:
            word = word.removesuffix(ending)
            break
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return word.removesuffix("e")


def _plain(word: str) -> str:
    """The lemma of a noun or verb that lemminflect knows in this form."""
    try:
        from lemminflect import getLemma
    except ImportError as error:
        raise MissingExtraError("lemminflect", "text") from error
    lemmas = (lemma for kind in ("NOUN", "VERB") for lemma in getLemma(word, kind, False))
    return next((lemma for lemma in lemmas if lemma != word), word)


@cache
def _same_stems() -> tuple[frozenset[str], ...]:
    return tuple(frozenset(map(stem, words)) for words in SAME)


def places(parts: TextComponents) -> Iterator[Place]:
    """Where a word of the caption may be replaced, the word in lower case, and its kind."""
    for entity in parts.entities:
        noun = _word(parts, entity.noun)
        if noun is None or noun in NO_THINGS:
            continue
        alive = "alive" if is_animate(noun) else "lifeless"
        number = "several" if is_plural(noun) else determiner(parts.text, entity)
        yield entity.noun, noun, ("noun", alive, number)
        start, end = entity.span[0], entity.noun[0]
        described = parts.text[start:end]
        span = start, start + len(described.rstrip())
        adjective = _word(parts, span) if described.strip() else None
        if adjective is not None and (kind := _adjective(adjective)) is not None:
            yield span, adjective, kind
    seen: set[Span] = set()
    for relation in parts.relations:
        first, _, rest = relation.action.lower().partition(" ")
        span = relation.span[0], relation.span[0] + len(first)
        ending = next((one for one in ENDINGS if first.endswith(one)), None)
        if ending is None or first in PREPOSITIONS or span in seen or _word(parts, span) != first:
            continue
        seen.add(span)
        yield span, first, ("verb", ending, rest)


def _adjective(word: str) -> Kind | None:
    """The kind of adjectives that exclude one another."""
    if word in COLOURS:
        return ("colour",)
    if word in MATERIALS:
        return ("material",)
    for number, both in enumerate(OPPOSITES):
        for side, words in enumerate(both):
            if word in words:
                return "opposite", str(number), str(side)
    return None


def _opposite(word: str, kind: Kind) -> Kind:
    """The kind of what takes a word's place."""
    if kind[0] != "opposite":
        return kind
    return "opposite", kind[1], str(1 - int(kind[2]))


def _word(parts: TextComponents, span: Span) -> str | None:
    """What stands there in lower case, if it is one plain word."""
    text = parts.text[slice(*span)].lower()
    return text if text.isascii() and text.isalpha() and len(text) > 1 else None
