"""The false captions that a model trains against, made once from the captions it trains on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Literal, get_args

import torch
from torch import Tensor

from intarsia.components.english import words_of
from intarsia.components.replacing import Vocabulary, meanings, word_replaced
from intarsia.components.swapping import swapped
from intarsia.components.text import TextComponents, TextParser
from intarsia.data.records import Records, without_pictures
from intarsia.errors import ConfigError, unknown
from intarsia.runtime import atomic, bar
from intarsia.types import Negative, Record

logger = logging.getLogger(__name__)

NegativeKind = Literal[
    "swap_attributes", "swap_phrases", "swap_roles", "shuffle_words", "replace_word"
]
KINDS: tuple[NegativeKind, ...] = get_args(NegativeKind)
MADE_BY = ("english", "swapping", "replacing", "hard_negatives")  # modules
NOTHING = -1  # the place of what is not there


@dataclass(frozen=True)
class HardNegatives:
    """False captions that stand in every batch beside the true ones (NegCLIP, Yuksekgonul et al.,
    ICLR 2023, "When and why vision-language models behave like bags-of-words").

    Args:
        kinds: how they are made: ``swap_attributes``, ``swap_phrases``, ``swap_roles`` and
            ``shuffle_words`` as the protocol ``swaps`` has them, ``replace_word`` (another noun,
            verb, colour, ...); drawn of a caption's where it has more than ``per_pair``.
        per_pair: how many a caption has at most; one with none trains as ever.
        parser: spaCy model.
    """

    kinds: tuple[NegativeKind, ...] = (
        "swap_attributes",
        "swap_phrases",
        "swap_roles",
        "replace_word",
    )
    per_pair: int = 1
    parser: str = "en_core_web_sm"

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise ConfigError(unknown("hard_negatives.kinds", kind, KINDS))
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ConfigError(
                f"hard_negatives.kinds is {list(self.kinds)}: give at least one, each once"
            )
        if not 1 <= self.per_pair <= len(self.kinds):
            raise ConfigError(
                f"hard_negatives.per_pair is {self.per_pair}: choose from 1 to the number of "
                f"kinds, {len(self.kinds)}"
            )


@dataclass(frozen=True)
class FalseCaptions:
    """``texts`` and, for each of T captions, which of them are its negatives: ``places`` (T,P)
    int64, filled up with -1."""

    texts: list[str]
    places: Tensor


def false_captions(
    records: Records, spec: HardNegatives, seed: int, folder: Path | None = None
) -> FalseCaptions:
    """Make the negatives of all captions; what is made of one depends on its record's id and
    captions, the vocabulary of all, ``spec`` and ``seed``.

    Args:
        records: of the captions.
        spec: which.
        seed: of all that is drawn.
        folder: where they are kept for runs to come; None keeps nothing.

    Raises:
        ConfigError: no caption has any.
        MissingExtraError: spaCy or its model is not installed.
    """
    if folder is None:
        return _made(records, spec, seed)
    path = folder / f"negatives-{_key(records, spec, seed)}.json"
    if path.exists():
        texts, places = json.loads(path.read_text(encoding="utf-8"))
        return FalseCaptions(texts, torch.tensor(places))
    found = _made(records, spec, seed)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(path) as draft:
        draft.write_text(json.dumps([found.texts, found.places.tolist()]), encoding="utf-8")
    return found


def _key(records: Records, spec: HardNegatives, seed: int) -> str:
    """Of all that negatives depend on, what makes them with it."""
    digest = hashlib.sha256(f"{asdict(spec)} {seed}".encode())
    digest.update(TextParser(spec.parser).fingerprint().encode())
    for module in MADE_BY:
        digest.update(Path(__file__).with_name(f"{module}.py").read_bytes())
    for record in without_pictures(records):
        digest.update(json.dumps([record.id, record.captions]).encode())
    return digest.hexdigest()[:16]


def _made(records: Records, spec: HardNegatives, seed: int) -> FalseCaptions:
    parsed = _parsed(records.captions, spec)
    vocabulary = Vocabulary(parsed if "replace_word" in spec.kinds else ())
    numbers: dict[str, int] = {}
    places = torch.full((len(parsed), spec.per_pair), NOTHING)
    counts: Counter[str] = Counter()
    row = 0
    with bar(len(parsed), "hard negatives") as advance:
        for record in without_pictures(records):
            own = parsed[row : row + len(record.captions)]
            for negatives in negatives_of(record, own, vocabulary, spec, seed):
                for column, negative in enumerate(negatives):
                    counts[negative.kind] += 1
                    number = numbers.setdefault(negative.text, len(numbers))
                    places[row, column] = number
                row += 1
            advance(len(own))
    have = int((places != NOTHING).any(1).sum())
    if not have:
        raise ConfigError(
            f"none of {len(parsed)} captions has a hard negative of {', '.join(spec.kinds)}: "
            f"choose other hard_negatives.kinds ({', '.join(KINDS)})"
        )
    told = ", ".join(f"{kind} {counts[kind]}" for kind in spec.kinds)
    logger.info("%d of %d captions have a hard negative (%s)", have, len(parsed), told)
    return FalseCaptions(list(numbers), places)


def negatives_of(
    record: Record,
    parsed: Sequence[TextComponents],
    vocabulary: Vocabulary,
    spec: HardNegatives,
    seed: int,
) -> Iterator[list[Negative]]:
    """Up to ``per_pair`` negatives of each caption of a record, none of them one of its captions.

    Args:
        record: with or without its picture.
        parsed: its captions.
        vocabulary: of all captions, for ``replace_word``.
        spec: which.
        seed: of all that is drawn.
    """
    true = {tuple(words_of(caption)) for caption in record.captions}
    said = meanings(record.captions) if "replace_word" in spec.kinds else set()
    for index, parts in enumerate(parsed):
        found = list(swapped(record.id, index, parts, true, seed))
        if "replace_word" in spec.kinds:
            rng = Random(f"{seed} {record.id} {index} replace_word")
            text = word_replaced(parts, vocabulary, said, rng)
            if text is not None and tuple(words_of(text)) not in true:
                found.append(Negative(index, "replace_word", text))
        wanted = [negative for negative in found if negative.kind in spec.kinds]
        rng = Random(f"{seed} {record.id} {index} which")
        yield rng.sample(wanted, min(spec.per_pair, len(wanted)))


def _parsed(captions: Sequence[str], spec: HardNegatives) -> list[TextComponents]:
    found = []
    with bar(len(captions), "reading captions") as advance:
        for parts in TextParser(spec.parser).parse(captions):
            found.append(parts)
            advance(1)
    return found
