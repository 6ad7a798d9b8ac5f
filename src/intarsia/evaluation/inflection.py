"""A word of a parsed sentence in the place of another, in the form that this has there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from intarsia.components.text_entities import Word
from intarsia.errors import MissingExtraError
from intarsia.types import Span

Role = Literal["subject", "verb", "object"]
TAGS: Mapping[bool, tuple[str, ...]] = {
    False: ("NN", "NNS"),
    True: ("VBZ", "VBG", "VBD", "VBN", "VBP", "VB"),
}
"""Forms of nouns and of verbs by their Penn tags; of verbs those first that look like no other."""
COMMON = {("person", "NNS"): "people", ("fish", "NNS"): "fish"}
"""Of several forms that lemminflect knows, those that captions use."""
TARGETS = frozenset({"dobj", "pobj", "attr", "compound", "nmod"})
"""What a noun may be where it is neither the subject nor a verb."""


def exchanged(words: Sequence[Word], role: Role, old: str, new: str) -> tuple[Span, str] | None:
    """Where ``old`` stands as ``role`` of a parsed sentence, and ``new`` in the form that it has.

    Of several candidates a verb is the one that is tagged so, a subject the first that is no
    target of a verb or preposition, an object the first that is one. A noun that is a target is no
    verb: "walks", not "walk", in "walks down the walk".

    Args:
        words: the sentence.
        old, new: lemmas; of several words a noun's last and a verb's first is inflected.

    Returns:
        None where the sentence has no such word, or the new one no such form.

    Raises:
        MissingExtraError: lemminflect is not installed.
    """
    places = [i for i in range(len(words)) if _stands_at(words, i, role, old)]
    if not places:
        return None
    is_verb, num_more = role == "verb", len(old.split()) - 1
    place = min(places, key=lambda i: (_is_odd(words[i], role), i))
    tag = _tag(words[place], old.split()[_head(is_verb)], is_verb)
    parts = new.split()
    forms = _forms(parts[_head(is_verb)], tag)
    if not forms:
        return None
    parts[_head(is_verb)] = forms[0]
    first, last = (place, place + num_more) if is_verb else (place - num_more, place)
    return (words[first].span[0], words[last].span[1]), " ".join(parts)


def _head(is_verb: bool) -> int:
    """Which of several words is inflected."""
    return 0 if is_verb else -1


def _stands_at(words: Sequence[Word], place: int, role: Role, lemma: str) -> bool:
    """Whether the inflected word of ``lemma`` is there, with its others beside it."""
    is_verb, parts = role == "verb", lemma.split()
    others = parts[1:] if is_verb else parts[:-1]
    start = place + 1 if is_verb else place - len(others)
    beside = [word.text.lower() for word in words[max(start, 0) : max(start, 0) + len(others)]]
    word = words[place]
    if beside != others or (is_verb and word.dep in TARGETS and not word.tag.startswith("VB")):
        return False
    head, text = parts[_head(is_verb)], word.text.lower()
    return text == head or any(text in _forms(head, tag) for tag in TAGS[is_verb])


def _is_odd(word: Word, role: Role) -> bool:
    """Whether a word stands where its role would not be looked for first."""
    if role == "verb":
        return not word.tag.startswith("VB")
    return (word.dep in TARGETS) == (role == "subject")


def _tag(word: Word, lemma: str, is_verb: bool) -> str:
    """The form of ``lemma`` that a word is: as the tagger says, where that may be.

    A noun that is its own plural is one where no article makes it singular: "a flock of sheep".
    """
    text = word.text.lower()
    may_be = [tag for tag in TAGS[is_verb] if text in _forms(lemma, tag)]
    if not is_verb and text in _forms(lemma, "NNS")[:1] and not word.all("det"):
        return "NNS"
    tag = {"NNP": "NN", "NNPS": "NNS"}.get(word.tag, word.tag)
    return tag if tag in may_be or not may_be else may_be[0]


def _forms(lemma: str, tag: str) -> tuple[str, ...]:
    """Of a lemma, the commonest first.

    >>> [_forms(*word) for word in (("begin", "VBD"), ("sheep", "NNS"), ("person", "NNS"))]
    [('began',), ('sheep',), ('people', 'persons', 'person')]
    """
    try:
        from lemminflect import getInflection
    except ImportError as error:
        raise MissingExtraError("lemminflect", "text") from error
    if tag in ("NN", "VB"):
        return (lemma,)
    first = [COMMON[lemma, tag]] if (lemma, tag) in COMMON else []
    return tuple(dict.fromkeys([*first, *getInflection(lemma, tag)]))
