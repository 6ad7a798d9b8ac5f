"""Who does what to whom, and what is where: triplets of a dependency parse.

Source: ComAlign, "text components" (subject, action, object). What the paper leaves open is
decided in :mod:`intarsia.components.text`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from intarsia.components.text_entities import (
    ADJECTIVES,
    NOUNS,
    Word,
    alone,
    conjuncts,
    counted,
    first_conjunct,
    is_position,
    of_phrases,
    things,
)

Triplet = tuple[Word, tuple[Word, ...], Word]  # subject, words of the action, object
Link = tuple[tuple[Word, ...], list[Word]]  # words of a preposition, its objects

BE = frozenset("be is are was were been being 's 're am".split())
LIGHT_VERBS = frozenset(
    "do does did doing perform performs performed performing take takes took taking make makes made"
    " making".split()
)
HAVE = frozenset("have has had having".split())
WEARING = frozenset("wear wears wearing wore".split())
RELATIVE = frozenset({"WDT", "WP"})
INHERITING = frozenset({"conj", "advcl", "xcomp", "ccomp", "pcomp", "parataxis", "dep"})


def triplets(words: Iterable[Word]) -> Iterator[Triplet]:
    """All relations of a parse; subject and object are entities (heads of phrases)."""
    for word in words:
        if word.denied:
            continue
        if is_verb(word):
            yield from _of_verb(word)
        elif (word.tag in NOUNS or word.noun is not None) and not is_position(word):
            yield from _of_noun(word)


def predicates(words: Iterable[Word]) -> Iterator[tuple[Word, Word]]:
    """(entity, adjective) of copular clauses: "the dog is brown"."""
    for word in words:
        if word.lower in BE and is_verb(word) and not word.denied:
            for first in word.all("acomp"):
                for adjective in (first, *first.all("conj")):
                    if adjective.tag in ADJECTIVES and not adjective.all("prep", "xcomp"):
                        yield from ((subject, adjective) for subject in subjects(word))


def is_verb(word: Word) -> bool:
    return word.tag.startswith("VB") and word.dep not in {"aux", "auxpass", "amod", "compound"}


def subjects(verb: Word) -> list[Word]:
    """The entities that a verb's grammatical subject stands for, its own or an inherited one."""
    if verb.all("expl"):
        return [thing for noun in verb.all("attr") for thing in things(noun)]
    own = verb.all("nsubj", "nsubjpass")
    if own:
        return [thing for noun in own for thing in _argument(noun, verb)]
    if verb.dep == "acl" and _is_worn(verb.head):
        return subjects(verb.head.head)
    if verb.dep in {"acl", "relcl"}:
        return _modified(verb.head, verb)
    if verb.dep in INHERITING and verb.head is not verb:
        return _inherited(verb.head)
    return []


def _is_worn(noun: Word) -> bool:
    """Clothes do not act: in "a man wearing a hat riding a bike" the man rides."""
    return noun.dep == "dobj" and noun.head.lower in WEARING


def _inherited(head: Word) -> list[Word]:
    while head.dep == "prep" and head.head is not head:
        head = head.head
    return subjects(head) if is_verb(head) else things(head)


def _argument(noun: Word, verb: Word) -> list[Word]:
    """Entities of a subject or object; a relative pronoun stands for what its clause is about."""
    if noun.tag in RELATIVE and verb.dep == "relcl":
        return _modified(verb.head, verb)
    return things(noun)


def _modified(noun: Word, modifier: Word) -> list[Word]:
    """Entities that a modifier of ``noun`` is about: all those coordinated before it, as in "men
    and women in hats", unless one of the others has a modifier of its own."""
    listed = conjuncts(first_conjunct(noun))
    chain = [word for word in listed if word.index < modifier.index]
    if any(_has_modifier_after(word) for word in chain if word is not noun):
        chain = [noun]
    return [thing for word in chain for thing in alone(word)]


def _has_modifier_after(noun: Word) -> bool:
    ignored = "of" if counted(noun) is not None else ""
    return any(m.lower != ignored for m in noun.all("prep", "acl", "relcl"))


def _of_verb(verb: Word) -> Iterator[Triplet]:
    who = subjects(verb)
    action = () if verb.lower in BE else (verb, *(p for p in verb.all("prt") if not p.all("pobj")))
    objects = [t for noun in _objects_of(verb) for t in _argument(noun, verb)]
    if action:
        yield from _combined(who, action, objects)
    if is_passive(verb):
        agents = [t for by in verb.all("agent") for noun in by.all("pobj") for t in things(noun)]
        yield from _combined(agents, action, who)
    for link, places in _links(verb):
        yield from _combined(who, _joined(action, link), places)
    if verb.lower in LIGHT_VERBS:
        for noun in verb.all("dobj"):
            for link, places in _links(noun):
                if link[0].lower != "of":
                    yield from _combined(who, _joined(action, link), places)


def _objects_of(verb: Word) -> list[Word]:
    """The direct and indirect objects; also the arms of "has his arms lifted"."""
    held = verb.all("ccomp") if verb.lower in HAVE else []
    return verb.all("dobj", "dative") + [noun for done in held for noun in done.all("nsubj")]


def is_passive(verb: Word) -> bool:
    return bool(verb.all("agent", "auxpass", "nsubjpass"))


def _of_noun(noun: Word) -> Iterator[Triplet]:
    for owner in noun.all("poss"):
        if owner.tag == "WP$":
            yield from _combined(_antecedent(noun), (owner,), alone(noun))
        else:
            yield from _combined(things(owner), owner.all("case"), alone(noun))
    light = noun.dep == "dobj" and noun.head.lower in LIGHT_VERBS
    counts = counted(noun) is not None
    for link, places in _links(noun):
        of = link[0].lower == "of"
        if not (counts and of) and (of or not light):
            yield from _combined(_modified(noun, link[0]), link, places)
    for link in _looking_back(noun):
        yield from _combined(alone(noun), link, _carriers(noun))


def _antecedent(noun: Word) -> list[Word]:
    """Whose a noun is, of a clause with "whose" before it."""
    verb = noun.head
    while verb.dep != "relcl" and verb.head is not verb:
        verb = verb.head
    return _modified(verb.head, verb) if verb.dep == "relcl" else []


def _carriers(noun: Word) -> list[Word]:
    """Whom a noun is with: the star of "a star with a square above it"."""
    beside = first_conjunct(noun).head
    if beside.lower != "with" or first_conjunct(noun).dep != "pobj":
        return []
    return subjects(beside.head) if is_verb(beside.head) else _modified(beside.head, beside)


def _looking_back(noun: Word) -> Iterator[tuple[Word, ...]]:
    """The words between a noun and a pronoun: "above it", "in front of him", "to its left"."""
    for preposition in noun.all("prep"):
        yield from _to_pronoun(preposition, (preposition,))


def _to_pronoun(preposition: Word, link: tuple[Word, ...]) -> Iterator[tuple[Word, ...]]:
    for end in preposition.all("pobj"):
        if end.tag == "PRP":
            yield link
        elif is_position(end):
            if any(owner.tag == "PRP$" for owner in end.all("poss")):
                yield (*link, end)
            for of in of_phrases(end):
                yield from _to_pronoun(of, (*link, end, of))


def _combined(who: Iterable[Word], action: Iterable[Word], whom: list[Word]) -> Iterator[Triplet]:
    words = tuple(action)
    return ((s, words, o) for s in who for o in whom if words and s is not o)


def _joined(verb: tuple[Word, ...], link: tuple[Word, ...]) -> tuple[Word, ...]:
    """A verb and a preposition in the order of the caption; but a preposition before its verb
    stands behind it: "plays in" of "in the park a man plays"."""
    if verb and link[0].index < verb[0].index:
        return verb + link
    return tuple(sorted(verb + link, key=lambda word: word.index))


def _links(word: Word) -> Iterator[Link]:
    """The prepositional phrases of a verb, noun or adverb."""
    for child in word.children:
        if child.denied:
            continue
        if child.dep in {"prep", "dative"} or (child.dep == "prt" and child.all("pobj")):
            yield from _objects(child, (child,))
        elif child.dep in {"advmod", "acomp", "prt"}:
            for link, places in _links(child):
                yield (child, *link), places


def _objects(
    preposition: Word, link: tuple[Word, ...]
) -> Iterator[tuple[tuple[Word, ...], list[Word]]]:
    for child in preposition.children:
        if child.dep == "pobj" and is_position(child):
            inner = [c for c in child.children if c.dep in {"det", "amod", "compound"}]
            for of in child.all("prep"):
                yield from _objects(of, (*link, *inner, child, of))
        elif child.dep == "pobj":
            yield link, things(child)
        elif child.dep == "pcomp":
            yield link, [thing for noun in child.all("nsubj") for thing in things(noun)]
        elif child.dep == "prep":
            yield from _objects(child, (*link, child))
        elif child.dep == "conj":
            if child.all("pobj"):
                yield from _objects(child, (child,))
            else:
                yield from (((child, *inner_link), p) for inner_link, p in _links(child))
