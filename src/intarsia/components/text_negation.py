"""What a caption denies: "no shirt", "without a leash", "not on a bench" name nothing visible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from intarsia.components.text_entities import NOUNS, Word, counted

NOT = frozenset({"not", "n't", "never"})
NO_DENIAL = frozenset({"only", "just", "merely"})  # after "not"
DEFINITE = frozenset("the this that these those both each every".split())
ALTERNATIVES = frozenset({"or", "nor"})
COMPANY = frozenset({"with"})
PREPOSITIONS = frozenset({"IN", "TO", "RP"})


def deny(words: Sequence[Word]) -> None:
    """Mark the nouns, verbs and prepositions that a caption denies.

    "no" and "without" deny their nouns; "not" denies a verb or preposition and the indefinite nouns
    it governs: who is "not wearing a hat" has none, but "not looking at the camera" speaks of one.
    """
    for word, following in zip_longest(words, words[1:]):
        after = following.lower if following else ""
        if word.lower == "no" and after == "longer":
            _deny_verb(_verb_of(word))
        elif word.lower in {"no", "neither"} and word.head is not word:
            _deny_noun(word.head, all_listed=word.lower == "neither")
        elif word.lower == "without":
            _deny_company(word)
        elif word.lower in NOT and after not in NO_DENIAL:
            _deny_by_not(word, following)


def _deny_by_not(word: Word, following: Word | None) -> None:
    target = word.head
    if following is not None and following.dep == "prep":
        # in "is not on a leash" the verb is denied, in "a dog not on a leash" the preposition
        target = target if target is following.head and _is_verb(target) else following
    elif following is not None and following.dep == "advmod" and following.all("prep"):
        following.denied = True  # "not far from a house": the house is there
        return
    if _is_verb(target):
        _deny_verb(target)
    elif target.tag in NOUNS:
        _deny_noun(target)
    elif target.lower in COMPANY:
        target.denied = True
        _deny_company(target)
    else:
        target.denied = True
        _deny_indefinite(target)


def _verb_of(word: Word) -> Word:
    while not _is_verb(word) and word.head is not word:
        word = word.head
    return word


def _is_verb(word: Word) -> bool:
    return word.tag.startswith("VB") and word.dep not in {"amod", "compound"}


def _deny_company(preposition: Word) -> None:
    for noun in preposition.all("pobj"):
        _deny_noun(noun, all_listed=True)
    for verb in preposition.all("pcomp"):
        _deny_verb(verb)


def _deny_noun(noun: Word, *, all_listed: bool = False) -> None:
    """Deny a noun, what it counts, and what is listed after it with "or"."""
    noun.denied = True
    inner = counted(noun)
    if inner is not None:
        _deny_noun(inner)
    if all_listed or any(c.lower in ALTERNATIVES for c in noun.all("cc")):
        for other in noun.all("conj"):
            _deny_noun(other, all_listed=all_listed)


def _deny_verb(verb: Word) -> None:
    verb.denied = True
    _deny_indefinite(verb)
    inner = verb.all("xcomp", "pcomp")
    if any(c.lower in ALTERNATIVES for c in verb.all("cc")):
        inner += verb.all("conj")
    for other in inner:
        if _is_verb(other):
            _deny_verb(other)


def _deny_indefinite(word: Word) -> None:
    for noun in _governed(word):
        if not noun.all("poss") and not any(c.lower in DEFINITE for c in noun.all("det")):
            _deny_noun(noun)


def _governed(word: Word) -> Iterator[Word]:
    """The nouns of a verb or preposition, also those behind its prepositions."""
    yield from word.all("dobj", "attr", "dative", "pobj")
    for child in word.all("prep", "agent", "advmod", "prt"):
        yield from _governed(child)
