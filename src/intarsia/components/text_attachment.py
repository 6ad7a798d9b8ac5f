"""Who does it and where: phrases that a parser hangs on the nearest noun, hung where a reader does.

Clothes, hair and places do not act: in "a boy in a blue shirt running at a park" the boy runs.
"""

from __future__ import annotations

from collections.abc import Sequence

from intarsia.components.nouns import is_living
from intarsia.components.text_entities import (
    ADJECTIVES,
    COLOURS,
    MATERIALS,
    NOUNS,
    Word,
    first_conjunct,
)
from intarsia.components.text_words import (
    AMBIGUOUS_AT_THE_END,
    BODY,
    BY_THE_LIVING,
    CLOTHES,
    CLOTHES_DO,
    DONE_TO_THE_LIVING,
    HOLDERS,
    HOLDING,
    LIFELESS,
    LIVING_DO,
    PERCEIVING,
    PLACES,
    PLACES_DO,
    SEATS,
    VERBS_ING,
    VERBS_S,
)

WHERE = frozenset("in on at".split())
ONE = frozenset("a an one the another".split())


def attach(words: Sequence[Word]) -> None:
    """Move what hangs on the wrong word; twice described nouns become two things."""
    if words and words[0].dep == "ROOT" and words[0].tag == "IN":
        _begin_with_a_place(words[0], words)
    for word in words:
        if word.dep in {"nmod", "compound"} and word.tag in NOUNS:
            _list(word, words)
        elif word.dep in {"conj", "nsubj"} and word.lower in CLOTHES | BODY:
            _wear(word)
        elif word.dep == "conj" and word.head.dep == "pobj" and is_living(word.lower):
            _stand_beside(word)
        elif word.dep == "conj" and word.all("nsubj"):
            _give_subject(word)
    for word in words:
        if word.dep in {"acl", "relcl"} and _needs_the_living(word):
            _climb(word)
        elif word.dep == "conj" and word.lower in VERBS_ING | VERBS_S:
            _to_the_verbs(word)
        elif word.dep == "prep" and word.lower in WHERE:
            _to_the_verb(word)
        elif word.dep == "prep" and word.lower == "with" and _is_not_of_the_place(word):
            _climb(word)
        elif word.lower == "and":
            _share_noun(word, words)


def move(word: Word, head: Word, dep: str) -> None:
    """Hang ``word`` with all below it on ``head``."""
    if word.head is not word:
        word.head.children.remove(word)
    word.head, word.dep = head, dep
    head.children = sorted([*head.children, word], key=lambda child: child.index)


def replace_by(word: Word, other: Word) -> None:
    """Put ``other`` in the place of ``word``, which hangs nowhere then."""
    if other.head is not other:
        other.head.children.remove(other)
        other.head = other
    if word.head is word:
        other.dep = word.dep
        return
    head, dep = word.head, word.dep
    head.children.remove(word)
    word.head = word
    move(other, head, dep)


def _begin_with_a_place(preposition: Word, words: Sequence[Word]) -> None:
    """Let the sentence after a place not describe it: "in front of a house a boy throws"."""
    for verb in words:
        own = [noun for noun in verb.all("nsubj") if noun.tag in NOUNS]
        if verb.dep == "relcl" and own and own[0].index > verb.head.index:
            replace_by(preposition, verb)
            move(preposition, verb, "prep")
            return


def _needs_the_living(verb: Word) -> bool:
    """Whether the noun that a verb hangs on does, or suffers, what only the living do."""
    noun = verb.head.lower
    if verb.dep == "relcl":
        return any(who.lower == "who" for who in verb.all("nsubj")) and noun in LIFELESS
    if verb.tag == "VBG":
        if verb.lower in HOLDING and noun in HOLDERS:
            return False
        if verb.lower in LIVING_DO and verb.head.tag in NOUNS and not is_living(noun):
            return noun not in CLOTHES or verb.lower not in CLOTHES_DO
        does = CLOTHES_DO if noun in CLOTHES | BODY else PLACES_DO
        return noun in LIFELESS and verb.lower not in does and not verb.all("nsubj")
    done = (
        (verb.lower == "surrounded" and noun in SEATS)
        or (verb.lower in DONE_TO_THE_LIVING and noun in LIFELESS)
        or (verb.lower in BY_THE_LIVING and not is_living(noun))
    )
    return done and bool(verb.all("agent"))


def _is_not_of_the_place(preposition: Word) -> bool:
    """Whether a place is said to have what is someone's or farther away: "a creek with a stick in
    its mouth", "a road with men in the background"."""
    if preposition.head.lower not in PLACES | SEATS:
        return False
    below = [
        noun
        for own in preposition.all("pobj")
        for noun in (own, *(n for link in own.all("prep") for n in link.all("pobj")))
    ]
    return any(
        noun.lower == "background" or any(owner.tag == "PRP$" for owner in noun.all("poss"))
        for noun in below
    )


def _climb(word: Word) -> None:
    """Hang a verb or preposition on the living thing that its noun is on, in or with."""
    noun = word.head
    while noun.tag in NOUNS and not is_living(noun.lower):
        link = first_conjunct(noun)
        if link.dep == "dobj" and link.head.tag == "VBG" and noun.lower not in PLACES:
            noun = link.head
        elif link.dep == "pobj" and link.head.head is not link.head:
            noun = link.head.head
        else:
            break
        while noun.dep in {"prep", "advmod"} and noun.head is not noun:
            noun = noun.head
    if noun is word.head or noun.index > word.index:
        return
    if noun.tag in NOUNS:
        move(word, noun, word.dep)
    elif noun.tag.startswith("VB") and word.dep != "relcl":
        move(word, noun, "advcl" if word.dep == "acl" else word.dep)


def _list(noun: Word, words: Sequence[Word]) -> None:
    """Undo the name that is a list: "a dress and black shirt"."""
    head, at = noun.head, noun.index + 1
    if head.index < at + 2 or words[at].lower != "and" or noun.lower in COLOURS | MATERIALS:
        return
    if head.tag not in NOUNS or not _describes(words[at + 1]):
        return
    replace_by(head, noun)
    for child in [child for child in head.children if child.index < at]:
        move(child, noun, child.dep)
    move(head, noun, "conj")
    for child in [child for child in noun.children if at < child.index < head.index]:
        move(child, head, "amod")


def _wear(clothes: Word) -> None:
    """List clothes with clothes: "a person in jeans and a blue sweatshirt"."""
    living = first_conjunct(clothes)
    if living is clothes:
        living = clothes.head.all("nsubj")[0]
    if living.lower in LIFELESS or living.tag not in NOUNS:
        return
    worn = _worn_before(living, clothes)
    if worn:
        move(clothes, worn[-1], "conj")


def _stand_beside(living: Word) -> None:
    """List the living with the living: "a man on a bike and another man"."""
    thing = living.head
    link = thing.head
    if link.lower in WHERE and is_living(link.head.lower) and not is_living(thing.lower):
        ands = [cc for cc in thing.all("cc") if cc.index < living.index]
        for word in (*ands[-1:], living):
            move(word, link.head, word.dep)


def _worn_before(living: Word, clothes: Word) -> list[Word]:
    return [
        noun
        for link in living.all("prep", "acl")
        for noun in link.all("pobj", "dobj")
        if noun.lower in CLOTHES | BODY and noun.index < clothes.index
    ]


def _give_subject(verb: Word) -> None:
    """Undo the clause that begins in the middle of a list: "a boy in shorts and no shirt sits"."""
    living, clothes = verb.head, verb.all("nsubj")[0]
    if clothes.lower not in CLOTHES | BODY or living.tag not in NOUNS:
        return
    ands = [cc for cc in living.all("cc") if cc.index < clothes.index]
    lists = _worn_before(living, clothes)
    if not (ands and lists):
        return
    move(clothes, lists[-1], "conj")
    move(ands[-1], lists[-1], "cc")
    replace_by(living, verb)
    move(living, verb, "nsubj")


def _to_the_verbs(word: Word) -> None:
    """What is done and not what is worn or where: "wearing costumes and dancing"."""
    if word.tag not in NOUNS or word.lower in AMBIGUOUS_AT_THE_END or word.all("det", "amod"):
        return
    tag = "VBG" if word.lower in VERBS_ING else "VBZ"
    verb = first_conjunct(word)
    while verb.tag != tag and verb.head is not verb:
        verb = verb.head
    if verb.tag == tag:
        word.tag = tag
        move(word, verb, "conj")


def _to_the_verb(preposition: Word) -> None:
    """Where something is done to a thing, not which thing: "plays a violin on the street"."""
    noun = preposition.head
    verb = noun.head
    if noun.dep == "pobj" and verb.lower == "with" and not is_living(noun.lower):
        verb = verb.head
    elif noun.dep != "dobj":
        return
    if noun.lower in PLACES or verb.lower in PERCEIVING or not verb.tag.startswith("VB"):
        return
    if any(place.lower in PLACES for place in preposition.all("pobj")):
        move(preposition, verb, "prep")


def _share_noun(conjunction: Word, words: Sequence[Word]) -> None:
    """Let "red" in "a red and a blue car" stand for a car of its own."""
    at = conjunction.index
    first = at
    while first > 0 and _describes(words[first - 1]):
        first -= 1
    after = words[at + 1 : at + 3]
    if first in {0, at} or len(after) < 2 or not _describes(after[1]):
        return
    adjective, noun = words[at - 1], after[0].head
    if any(one.lower not in ONE for one in (words[first - 1], after[0])):
        return
    if noun.tag not in NOUNS or noun.index < at or adjective.noun is not None:
        return
    if adjective.head is noun:
        replace_by(noun, adjective)
        move(noun, adjective, "conj")
    elif noun.head is not adjective:
        return
    adjective.noun = noun
    adjective.span = (words[first].span[0], adjective.span[1])


def _describes(word: Word) -> bool:
    return word.lower in COLOURS or word.tag in ADJECTIVES
