"""What language alone gives: a benchmark answered without looking at the pictures.

Where a false caption is clumsy or says odd things, the likelier of the two texts is the true one,
and a high score says little about seeing. The judge here is small and needs nothing but captions:
an interpolated Kneser-Ney n-gram model (Kneser & Ney 1995; Chen & Goodman 1999), whose score is the
mean log-probability of a text's words and of its end. Mean, not sum, so that a longer text is not
worse for its length. It is a lower bound: a large language model gets more out of the same texts.
Report it beside the model's score; a fair benchmark leaves it at chance. What taught the judge must
not hold the answers: :class:`Lessons` leaves out every picture that shares a caption with them.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from intarsia.components.english import words_of
from intarsia.data.readers import read
from intarsia.data.records import without_pictures
from intarsia.errors import ConfigError, DataError
from intarsia.evaluation.harness import Evaluation
from intarsia.evaluation.metrics import summarise
from intarsia.evaluation.negatives import hard_negative_outcomes
from intarsia.runtime import progress
from intarsia.types import Record

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
EQUAL = 1e-6  # what sums in another order differ by
GAP = 0.1  # nats a word: what counts as about equally likely
TEXT_ONLY = "text only"  # what the judge is called among models
Gram = tuple[str, ...]
Place = tuple[int, int]  # record, and negative in it


class NgramModel:
    """Probabilities of words after the ``order`` - 1 words before them, fitted on ``texts``.

    A word that is not in ``texts`` counts as one unknown word.

    Args:
        texts: captions of the TRAINING split; not those that the benchmark was made of.
        order: longest n-gram.
        discount: taken off each count and given to the shorter context.

    Raises:
        ConfigError: ``order`` or ``discount`` is out of range.
        DataError: No text has a word.
    """

    def __init__(self, texts: Iterable[str], *, order: int = 3, discount: float = 0.75) -> None:
        if order < 1 or not 0 < discount < 1:
            raise ConfigError(
                f"order {order} and discount {discount}: order must be at least 1 and discount "
                "between 0 and 1"
            )
        self.order, self.discount = order, discount
        sentences = [words for words in map(words_of, texts) if words]
        if not sentences:
            raise DataError("none of the texts to fit a language model on has a word")
        self.vocabulary = {word for words in sentences for word in words} | {END, UNKNOWN}
        self.counts = _kneser_ney_counts(sentences, order)
        self.totals: Counter[Gram] = Counter()
        self.types: Counter[Gram] = Counter()
        for gram, count in self.counts.items():
            self.totals[gram[:-1]] += count
            self.types[gram[:-1]] += 1

    def probability(self, word: str, context: Sequence[str]) -> float:
        """Of ``word`` after the last words of ``context``; over the vocabulary they sum to 1."""
        context = tuple(context[-(self.order - 1) :]) if self.order > 1 else ()
        value = 1 / len(self.vocabulary)
        for start in range(len(context), -1, -1):
            history = context[start:]
            total = self.totals[history]
            if total:
                own = max(self.counts[*history, word] - self.discount, 0.0)
                value = (own + self.discount * self.types[history] * value) / total
        return value

    def score(self, text: str) -> float:
        """Mean log-probability of the words and of the end.

        >>> model = NgramModel(["a dog runs", "a dog sleeps", "the cat runs"])
        >>> model.score("A dog runs.") > model.score("Dog a runs.") > model.score("runs dog a")
        True
        """
        words = [word if word in self.vocabulary else UNKNOWN for word in words_of(text)]
        padded = [START] * (self.order - 1) + words + [END]
        first = self.order - 1
        logs = [
            math.log(self.probability(padded[i], padded[:i])) for i in range(first, len(padded))
        ]
        return sum(logs) / len(logs)


@dataclass(frozen=True, slots=True)
class TaughtOn:
    """What a language model has read: captions, but not those of ``left_out`` pictures."""

    data: str
    split: str
    captions: int
    left_out: int

    def __str__(self) -> str:
        """
        >>> str(TaughtOn("flickr8k", "train", 29_710, 58))
        '29,710 captions of flickr8k train, without 58 pictures that share one with the question'
        """
        pictures = f"{self.left_out:,} picture{'s' if self.left_out != 1 else ''}"
        without = f", without {pictures} that share one with the question"
        return f"{self.captions:,} captions of {self.data} {self.split}" + (
            without if self.left_out else ""
        )


@dataclass(frozen=True, slots=True)
class Blind:
    """What a language model scores on a benchmark, and what it was taught on."""

    taught_on: TaughtOn
    evaluation: Evaluation

    def report(self) -> dict[str, Any]:
        """What a result file tells of it."""
        metrics = self.evaluation.metrics
        return {
            "taught_on": asdict(self.taught_on),
            "n": max(metric.n for metric in metrics.values()),
            "metrics": {name: asdict(metric) for name, metric in metrics.items()},
        }


@dataclass(frozen=True)
class Lessons:
    """Captions to teach a language model with, picture by picture, and where they are from."""

    data: str
    split: str
    pictures: tuple[tuple[str, ...], ...]

    @classmethod
    def read(cls, data: str, split: str, root: Path | None = None) -> Lessons:
        """The captions of a data set, as of :func:`intarsia.data.readers.read`."""
        return cls(data, split, tuple(record.captions for record in read(data, root, split)))

    def __str__(self) -> str:
        return f"captions of {self.data} {self.split}"

    @cached_property
    def key(self) -> str:
        """A hash of all that is taught."""
        return hashlib.sha256(f"{self} {self.pictures}".encode()).hexdigest()[:16]

    @cached_property
    def _words(self) -> list[set[Gram]]:
        return [{tuple(words_of(text)) for text in captions} for captions in self.pictures]

    def teach(self, asked: Iterable[str]) -> tuple[NgramModel, TaughtOn]:
        """A language model that has not read what it will be asked.

        Args:
            asked: the true captions of a benchmark; a picture that has one of them, word for word,
                is left out with all its captions.

        Raises:
            DataError: No picture is left.
        """
        answers = {tuple(words_of(text)) for text in asked}
        kept = [
            captions
            for captions, words in zip(self.pictures, self._words, strict=True)
            if words.isdisjoint(answers)
        ]
        texts = [text for captions in kept for text in captions]
        if not texts:
            raise DataError(
                f"{self} cannot teach the blind judge: all {len(self.pictures):,} pictures share "
                "a caption with what it is asked; name another data set or split"
            )
        left_out = len(self.pictures) - len(kept)
        return NgramModel(texts), TaughtOn(self.data, self.split, len(texts), left_out)


def blind_scores(texts: Sequence[str], model: NgramModel) -> Tensor:
    """:meth:`NgramModel.score` of each text, (T,) float64; equal texts are scored once."""
    distinct = list(dict.fromkeys(texts))
    known = {text: model.score(text) for text in progress(distinct, "texts alone")}
    return torch.tensor([known[text] for text in texts], dtype=torch.float64)


def blind_negatives(records: Sequence[Record], model: NgramModel) -> Evaluation:
    """The protocol ``negatives`` without pictures: is the true caption the likelier one?"""
    told = without_pictures(records)
    cases = [(i, record, n) for i, record in enumerate(told) for n in record.negatives]
    if not cases:
        raise DataError(f"none of {len(records)} records has a negative")
    true = blind_scores([record.captions[n.caption] for _, record, n in cases], model)
    false = blind_scores([n.text for _, _, n in cases], model)
    owner = torch.tensor([i for i, _, _ in cases]).numpy()
    outcomes = hard_negative_outcomes(true, false, [n.kind for _, _, n in cases], owner)
    return Evaluation(summarise(outcomes), outcomes)


def balanced(records: Sequence[Record], model: NgramModel, seed: int = 0) -> list[Record]:
    """The records with those negatives that ``model`` cannot tell from their true captions.

    Of each kind, negatives that are less likely than their captions are kept for as many that are
    likelier by about as much, so that the blind score is 50 (the idea of SugarCrepe's adversarial
    refinement). Negatives as likely as their captions are dropped.

    Raises:
        DataError: ``model`` tells all negatives: none is left.
    """
    places: dict[tuple[str, int], dict[bool, list[Place]]] = {}
    for i, record in enumerate(records):
        for j, negative in enumerate(record.negatives):
            gap = model.score(record.captions[negative.caption]) - model.score(negative.text)
            if abs(gap) > EQUAL:
                sides = places.setdefault(
                    (negative.kind, math.floor(abs(gap) / GAP)), {True: [], False: []}
                )
                sides[gap > 0].append((i, j))
    rng = Random(seed)
    kept: set[Place] = set()
    for sides in places.values():
        size = min(len(side) for side in sides.values())
        kept.update(place for side in sides.values() for place in rng.sample(side, size))
    if not kept:
        raise DataError(
            f"no negative of {len(records):,} records is left: language alone tells each of them"
        )
    return [
        replace(
            record, negatives=tuple(n for j, n in enumerate(record.negatives) if (i, j) in kept)
        )
        for i, record in enumerate(records)
    ]


def _kneser_ney_counts(sentences: Sequence[Sequence[str]], order: int) -> Counter[Gram]:
    """Counts of the longest n-grams; of shorter ones, how many different words come before."""
    counts: Counter[Gram] = Counter()
    for words in sentences:
        padded = [START] * (order - 1) + list(words) + [END]
        counts.update(tuple(padded[i : i + order]) for i in range(len(padded) - order + 1))
    longer = list(counts)
    for _ in range(order - 1):
        shorter = Counter(gram[1:] for gram in longer)
        counts.update(shorter)
        longer = list(shorter)
    return counts
