"""Mistakes that taggers and parsers make in captions, mended.

Captions are full of verbs that are nouns elsewhere ("a woman splashes in water"): about three in a
hundred captions of Flickr8k. They are seen by their contradictions. And captions without a verb
("a cat right of a dog", "a cup higher up than a plate") have prepositions that are other words
elsewhere.
"""

from __future__ import annotations

from itertools import zip_longest

from intarsia.components.text_attachment import move, replace_by
from intarsia.components.text_entities import ADJECTIVES, COLOURS, NOUNS, Word, of_phrases
from intarsia.components.text_words import AMBIGUOUS_AT_THE_END, VERBS, VERBS_ING, VERBS_S

FINITE = frozenset({"VBZ", "VBP", "VBD"})
VERBAL = FINITE | {"VB", "VBN"}
SPREAD = frozenset("covered filled lined topped capped striped".split())
MATTER = frozenset(
    "snow ice grass water tree mud sand moss flower graffiti leaf rock dirt vine ivy cloud".split()
)
CLAUSES = frozenset({"advcl", "ccomp", "relcl", "parataxis"})
AFTER_VERB = frozenset({"IN", "DT", "TO", "RP", "RB", "PRP$", "CD"})

SIDES = frozenset({"left", "right"})
COMPARATIVES = frozenset({"JJR", "RBR"})


def repair(words: list[Word]) -> None:
    """Turn nouns that can only be verbs into verbs, and what says where into prepositions."""
    for word, following in zip(words, words[1:], strict=False):
        if word.tag in VERBAL and word.dep in {"pobj", "dobj"} and word.all("det", "amod", "poss"):
            word.tag = "NN"
        elif word.lower in SPREAD and word.tag in FINITE:
            _make_adjective(word, words)
        elif word.tag in NOUNS and word.all("nsubj"):
            word.tag = "VBZ"
        elif following.tag in AFTER_VERB and _swallows_a_noun(word, words):
            _make_verb(word, words)
    for word, after in zip_longest(words, words[1:]):
        if word.tag in NOUNS and _agrees(word, after, words):
            _make_verb(word, words)
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


def _agrees(word: Word, following: Word | None, words: list[Word]) -> bool:
    """Whether a word that is mostly a verb, taken for the last of a name, agrees with what would be
    its subject: "a girl in a pink skirt watches", "a boy and girl hug"."""
    name = _swallowed(word, words)
    if name is None or (following is not None and following.tag in NOUNS | ADJECTIVES):
        return False
    is_last = following is None or following.tag in {".", ","}
    if is_last and word.lower in AMBIGUOUS_AT_THE_END:
        return False
    subject = _subject_of(word)
    if subject is None:
        return False
    noun = name if subject is word else subject
    if word.lower in VERBS_ING:
        return name.tag not in NOUNS or bool(word.all("det"))
    several = noun.tag in {"NNS", "NNPS"} or bool(subject.all("conj"))
    return word.lower in (VERBS if several else VERBS_S)


def _swallowed(word: Word, words: list[Word]) -> Word | None:
    """What stands right before ``word`` as the first part of its name: a noun, or a colour that is
    worn ("a boy in red walks")."""
    before = words[word.index - 1] if word.index else word
    if before.head is not word:
        return None
    if before.dep == "compound" and before.tag in NOUNS:
        return before
    worn = before.index > 0 and words[before.index - 1].lower in {"in", "wearing"}
    return before if worn and before.lower in COLOURS else None


def _subject_of(word: Word) -> Word | None:
    """The noun at the top of the clause that a word is part of; None where that has a verb."""
    top = word
    while top.head is not top and top.dep not in CLAUSES:
        top = top.head
        if top.tag in FINITE:
            return None
    return top if top is word or top.tag in NOUNS else None


def _make_adjective(word: Word, words: list[Word]) -> None:
    """Undo the sentence made of a description: "skiing on snow covered slopes"."""
    matter, things = words[word.index - 1], word.all("dobj")
    if not word.index or matter.lower not in MATTER | COLOURS:
        return
    if not things or things[0].all("det"):
        return
    thing, subjects = things[0], word.all("nsubj")
    for child in [child for child in matter.children if child.index < matter.index]:
        move(child, thing, child.dep)
    if matter.head is not word:
        replace_by(matter, thing)
    others = [noun for noun in subjects if noun is not matter]
    top = others[0] if others else thing
    if others or matter.head is word:
        replace_by(word, top)
    for child in [child for child in word.children if child is not matter]:
        move(child, top, child.dep)
    word.tag, thing.tag = "VBN", thing.tag if thing.tag in NOUNS else "NN"
    move(matter, thing, "npadvmod")
    move(word, thing, "amod")


def _make_verb(verb: Word, words: list[Word]) -> None:
    """Give the noun before ``verb`` its place, and make it the verb of its clause."""
    noun, top = words[verb.index - 1], _subject_of(verb)
    if top is None:
        return
    verb.tag = "VBG" if verb.lower in VERBS_ING else "VBZ"
    for child in [child for child in verb.children if child.index < noun.index]:
        move(child, noun, child.dep)
    verb.children.remove(noun)
    noun.head = noun
    noun.tag = noun.tag if noun.tag in NOUNS else "NN"
    if top is verb:
        move(noun, verb, "nsubj")
        return
    head, dep = verb.head, verb.dep
    head.children.remove(verb)
    verb.head = verb
    move(noun, head, dep)
    above = noun
    while above is not top:
        above = above.head
        for child in [c for c in above.children if c.index > verb.index and c.dep != "conj"]:
            dep = {"acl": "advcl"}.get(child.dep, child.dep)
            move(child, verb, "dobj" if _follows(child, verb, words) else dep)
    replace_by(top, verb)
    move(top, verb, "nsubj")


def _follows(child: Word, verb: Word, words: list[Word]) -> bool:
    """Whether an apposition is rather the object of ``verb``: no comma stands between."""
    between = words[verb.index + 1 : child.index]
    return child.dep == "appos" and not any(word.tag == "," for word in between)


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
        replace_by(word, noun)
        rest = [child for child in word.children if child not in (noun, link)]
        for child in rest:
            child.head = noun
        noun.children += [*rest, word]
        word.head, word.children = noun, [link]
    word.tag, word.dep = "IN", "prep"
