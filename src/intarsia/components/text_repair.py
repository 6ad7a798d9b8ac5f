"""Two mistakes that taggers make in captions, seen by their contradictions and mended.

Captions are full of verbs that are nouns elsewhere ("a woman splashes in water"): about three in a
hundred captions of Flickr8k.
"""

from __future__ import annotations

from intarsia.components.text_entities import NOUNS, Word

FINITE = frozenset({"VBZ", "VBP", "VBD"})
AFTER_VERB = frozenset({"IN", "DT", "TO", "RP", "RB", "PRP$", "CD"})


def repair(words: list[Word]) -> None:
    """Turn nouns that can only be verbs into verbs, in place."""
    for word, following in zip(words, words[1:], strict=False):
        if word.tag in NOUNS and word.all("nsubj"):
            word.tag = "VBZ"
        elif following.tag in AFTER_VERB and _swallows_a_noun(word, words):
            _split(word, words[word.index - 1])


def _swallows_a_noun(word: Word, words: list[Word]) -> bool:
    """Whether a word and the noun before it, parsed as one name, are that noun and a verb."""
    before = words[word.index - 1]
    if before not in word.all("compound") or before.tag not in NOUNS:
        return False
    if word.tag in FINITE:
        return True
    several = bool(word.all("nummod") or before.all("nummod")) and before.tag == "NNS"
    singular = any(child.lower in {"a", "an"} for child in word.all("det"))
    return (word.tag == "NNS" and singular) or (word.tag == "NN" and several)


def _split(verb: Word, noun: Word) -> None:
    """Give ``noun`` the place of ``verb``, which becomes a verb of the sentence's subject."""
    root = verb
    while root.head is not root:
        root = root.head
    if root is not verb and root.tag not in NOUNS:
        return
    verb.tag = "VBZ"
    left = [child for child in verb.children if child.index < noun.index]
    verb.children = [child for child in verb.children if child.index > noun.index]
    noun.children = sorted([*left, *noun.children], key=lambda child: child.index)
    for child in left:
        child.head = noun
    if root is verb:
        noun.dep = "nsubj"
        verb.children.insert(0, noun)
        return
    parent = verb.head
    noun.dep, noun.head = verb.dep, parent
    parent.children[parent.children.index(verb)] = noun
    verb.dep, verb.head = "acl", root
    root.children.append(verb)
