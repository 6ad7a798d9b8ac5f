"""As much English as it takes to put one word in the place of another: number and articles."""

from __future__ import annotations

import re
from collections.abc import Mapping

from intarsia.types import Span

VOWELS = "aeiou"
PLURALS = {
    "man": "men",
    "woman": "women",
    "child": "children",
    "person": "people",
    "foot": "feet",
    "wife": "wives",
    "wolf": "wolves",
    "mouse": "mice",
    "goose": "geese",
    "tooth": "teeth",
    "knife": "knives",
    "leaf": "leaves",
    "shelf": "shelves",
    "calf": "calves",
}
ANIMATE = frozenset(
    """
    adult athlete baby batter biker boy bride brother catcher chef child climber clown coach couple
    cowboy crowd cyclist dad dancer daughter doctor driver family father female fisherman friend
    gentleman girl goalie grandfather grandmother groom guy hiker human husband individual infant
    jockey kid lady lifeguard male man mom mother motorcyclist musician officer parent passenger
    pedestrian performer person pitcher player policeman racer referee rider runner sailor singer
    sister skateboarder skater skier snowboarder soldier son spectator student surfer swimmer
    teacher team teen teenager toddler tourist waiter waitress wife woman worker wrestler youth
    animal bear bee bird bull bulldog butterfly calf camel cat chicken collie cow dachshund deer dog
    dolphin donkey duck elephant fish fox frog giraffe goat goose greyhound horse hound kitten lab
    labrador lamb lion lizard monkey mouse owl panda parrot penguin pet pig pigeon pony poodle pup
    puppy rabbit retriever rooster seagull shark sheep shepherd snake squirrel swan terrier tiger
    turtle wolf zebra
    """.split()
)
NO_PLURAL = ("ss", "us", "is")
SOUNDS_LIKE_CONSONANT = re.compile(r"(?:uni(?!n)|use|usu|one|once|eu|u\b|u-)", re.IGNORECASE)
SILENT_H = re.compile(r"(?:hour|honest|honou?r|heir)", re.IGNORECASE)
ARTICLE = re.compile(r"\b(an?)(?=\s+$)", re.IGNORECASE)


def is_plural(noun: str) -> bool:
    """Whether a noun looks like several.

    >>> [is_plural(noun) for noun in ("dogs", "grass", "traffic lights", "men", "bus")]
    [True, False, True, True, False]
    """
    last = noun.lower().split()[-1]
    return last in PLURALS.values() or (last.endswith("s") and not last.endswith(NO_PLURAL))


def is_animate(noun: str) -> bool:
    """Whether a noun names people or animals that captions are full of.

    >>> [is_animate(noun) for noun in ("Boys", "soccer player", "women", "puppies", "benches")]
    [True, True, True, True, False]
    """
    last = noun.lower().split()[-1]
    singular = {last} | {one for one, many in PLURALS.items() if many == last}
    singular |= {last.removesuffix("s"), last.removesuffix("es"), last.removesuffix("ies") + "y"}
    return not singular.isdisjoint(ANIMATE)


def replaced(text: str, changes: Mapping[Span, str]) -> str:
    """``text`` with other words in these spans, which must not overlap.

    An article before a span is mended where the new words need the other one; a capital at the
    start of the text stays there.

    >>> replaced("An old car and a red bus.", {(3, 6): "red", (17, 20): "old"})
    'A red car and an old bus.'
    >>> replaced("Dogs chase cats", {(0, 4): "cats", (11, 15): "Dogs"})
    'Cats chase dogs'
    """
    first = text[:1]
    lowered = first.lower() + text[1:]
    done, last = "", 0
    for (start, end), words in sorted(changes.items()):
        words = _uncapitalised(words, text)
        before = lowered[last:start]
        if _needs_an(lowered[start:end]) != _needs_an(words):
            before = ARTICLE.sub("an" if _needs_an(words) else "a", before)
        done += before + words
        last = end
    done += lowered[last:]
    return done[:1].upper() + done[1:] if first.isupper() else done


def words_of(text: str) -> list[str]:
    """The words in lower case, without punctuation.

    >>> words_of("A dog's ball, on the lawn.")
    ['a', "dog's", 'ball', 'on', 'the', 'lawn']
    """
    return re.findall(r"[a-z0-9]+(?:['-][a-z0-9]+)*", text.lower())


def _uncapitalised(words: str, text: str) -> str:
    """Words that began the text with a capital lose it elsewhere."""
    return words[:1].lower() + words[1:] if text.startswith(words) else words


def _needs_an(words: str) -> bool:
    if SILENT_H.match(words):
        return True
    return words[:1].lower() in VOWELS and not SOUNDS_LIKE_CONSONANT.match(words)
