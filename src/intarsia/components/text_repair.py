"""Mistakes that taggers and parsers make in captions, mended.

Captions are full of verbs that are nouns elsewhere ("a woman splashes in water"): about three in a
hundred captions of Flickr8k. They are seen by their contradictions. And captions without a verb
("a cat right of a dog", "a cup higher up than a plate") have prepositions that are other words
elsewhere.
"""

from __future__ import annotations

from intarsia.components.text_entities import NOUNS, Word, of_phrases

FINITE = frozenset({"VBZ", "VBP", "VBD"})
AFTER_VERB = frozenset({"IN", "DT", "TO", "RP", "RB", "PRP$", "CD"})

SIDES = frozenset({"left", "right"})
COMPARATIVES = frozenset({"JJR", "RBR"})


def repair(words: list[Word]) -> None:
    """Turn nouns that can only be verbs into verbs, and what says where into prepositions."""
    for word, following in zip(words, words[1:], strict=False):
        if word.tag in NOUNS and word.all("nsubj"):
            word.tag = "VBZ"
        elif following.tag in AFTER_VERB and _swallows_a_noun(word, words):
            _split(word, words[word.index - 1])
    for word in words:
        link = _compared(word) if word.tag in COMPARATIVES else _beside(word)
        if link is not None:
            _make_preposition(word, link)


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
    _take_place(noun, verb)
    verb.dep, verb.head = "acl", root
    root.children.append(verb)


def _take_place(noun: Word, word: Word) -> None:
    """Put ``noun`` where ``word`` is, below its head or as the root."""
    noun.dep = word.dep
    if word.head is word:
        noun.head = noun
    else:
        noun.head = word.head
        word.head.children[word.head.children.index(word)] = noun


def _beside(word: Word) -> Word | None:
    """The "of" of "right of", where that is no noun as in "on the right of"."""
    if word.lower not in SIDES or word.dep == "pobj" or word.all("det"):
        return None
    return next(iter(of_phrases(word)), None)


def _compared(word: Word) -> Word | None:
    """The "than" of "higher than" and "higher up than"."""
    for each in (word, *word.all("prt", "advmod")):
        for link in each.all("prep"):
            if link.lower == "than" and each.index >= word.index:
                return link
    return None


def _make_preposition(word: Word, link: Word) -> None:
    """Let ``word`` and the preposition ``link`` behind it say where the noun before it is."""
    nouns = [c for c in word.children if c.tag in NOUNS and c.index < word.index]
    if link.head is not word:
        link.head.children.remove(link)
        link.head = word
        word.children.append(link)
    if nouns:
        noun = nouns[-1]
        _take_place(noun, word)
        rest = [child for child in word.children if child not in (noun, link)]
        for child in rest:
            child.head = noun
        noun.children += [*rest, word]
        word.head, word.children = noun, [link]
    word.tag, word.dep = "IN", "prep"
