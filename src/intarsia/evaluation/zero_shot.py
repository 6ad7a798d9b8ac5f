"""Zero-shot classification of whole pictures by sentences about their classes.

It shows whether local training has cost a model its global strength: compare with the model that
the training started from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from intarsia.data.files import read_json, read_text
from intarsia.data.problems import Problems
from intarsia.data.records import at, without_pictures
from intarsia.errors import DataError
from intarsia.evaluation.boxes import TEXTS_AT_ONCE, label_ranks
from intarsia.evaluation.harness import Evaluation, encoded_pictures
from intarsia.evaluation.mentions import numbered
from intarsia.evaluation.metrics import Array, Outcomes, summarise
from intarsia.evaluation.prompts import prompts, spoken
from intarsia.evaluation.vectors import all_texts, together
from intarsia.methods.base import normalised
from intarsia.model import Model
from intarsia.runtime import chunks, progress
from intarsia.types import Record

Score = Literal["global", "method"]
Sentences = Mapping[str, Sequence[str]]  # of each class, by its name
TOP = (1, 5)
IMAGES_AT_ONCE = 64


def evaluate_zero_shot(
    model: Model,
    records: Sequence[Record],
    problems: Problems,
    *,
    sentences: Sentences,
    score: Score = "global",
) -> Evaluation:
    """Top-1 and top-5 of the classes of whole pictures, among all classes, without training.

    Args:
        model: what compares pictures and sentences.
        records: pictures whose one caption is the name of their class.
        problems: collects unreadable pictures.
        sentences: of every class, by its name (:func:`class_sentences`).
        score: ``global`` compares the backbone's global vector with the normalised mean of the
            normalised global vectors of a class's sentences, as an ordinary CLIP does; ``method``
            takes the mean, over the sentences, of the method's own image-to-text similarity.

    Raises:
        DataError: a caption is no class, too many pictures are bad, or a score is NaN.
    """
    names = list(sentences)
    class_labels(records, names)
    scored = global_scores if score == "global" else method_scores
    good, scores = scored(model, records, problems, sentences)
    labels = class_labels(good, names)
    outcomes = class_outcomes(label_ranks(scores, labels), labels, len(names))
    return Evaluation(summarise(outcomes), outcomes, "" if score == "global" else score)


def class_sentences(names: Sequence[str], path: Path | None = None) -> dict[str, list[str]]:
    """The sentences that stand for each class, by its name.

    Args:
        names: of the classes.
        path: a text file of templates, one a line, with ``{}`` in the place of the name; or a json
            object of lists of sentences by name, which may hold more names. None = the prompts of
            box classification (:mod:`intarsia.evaluation.prompts`).

    Raises:
        DataError: the file is of another format, a class has no sentence, or two have the same.
    """
    if path is None:
        found = {name: [text for text, _ in prompts(name)] for name in names}
    elif path.suffix == ".json":
        found = _described(path, names)
    else:
        templates = _templates(path)
        found = {name: [t.replace("{}", spoken(name)) for t in templates] for name in names}
    first: dict[tuple[str, ...], str] = {}
    for name, texts in found.items():
        if first.setdefault(tuple(texts), name) != name:
            raise DataError(
                f"the classes {first[tuple(texts)]!r} and {name!r} have the same sentences, as "
                f"{texts[0]!r}: they cannot be told apart"
            )
    return found


def _described(path: Path, names: Sequence[str]) -> dict[str, list[str]]:
    data = read_json(path)
    found = {name: data.get(name) for name in names} if isinstance(data, dict) else {}
    for name, texts in found.items():
        if not (isinstance(texts, list) and texts and all(isinstance(t, str) for t in texts)):
            raise DataError(f"{path}: the class {name!r} needs a list of sentences, has {texts!r}")
    if not found:
        raise DataError(f"{path}: must be an object of lists of sentences by class")
    return {name: texts for name, texts in found.items() if texts is not None}


def _templates(path: Path) -> list[str]:
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{path}: no template in it")
    for line in lines:
        if line.count("{}") != 1:
            raise DataError(f"{path}: the template {line!r} needs one {{}} for the class's name")
    return lines


def class_labels(records: Sequence[Record], names: Sequence[str]) -> Array:
    """The place among ``names`` of each record's one caption, (I,).

    Raises:
        DataError: it is none of them.
    """
    numbers = {name: number for number, name in enumerate(names)}
    labels = []
    for record in without_pictures(records):
        if len(record.captions) != 1 or record.captions[0] not in numbers:
            raise DataError(
                f"the captions {record.captions} of {record.id} are not one of the {len(names)} "
                f"classes ({', '.join(names[:3])}, ...)"
            )
        labels.append(numbers[record.captions[0]])
    return np.array(labels, dtype=np.int64)


def global_scores(
    model: Model, records: Sequence[Record], problems: Problems, sentences: Sentences
) -> tuple[Sequence[Record], Tensor]:
    """The readable records, and (I,C) cosines of their pictures with each class.

    Raises:
        DataError: no picture can be read, or too many cannot.
    """
    good, vectors = global_vectors(model, records, problems)
    return good, vectors @ _class_vectors(model, sentences).mT


def method_scores(
    model: Model, records: Sequence[Record], problems: Problems, sentences: Sentences
) -> tuple[Sequence[Record], Tensor]:
    """The readable records, and (I,C) mean similarities of their pictures with each class."""
    good, image = encoded_pictures(model, records, problems, lambda record: True)
    texts, owner, counts = _flat(sentences)
    image, text = together(image, all_texts(model, texts))

    def blocks() -> Iterator[Tensor]:
        for start in progress(range(0, len(good), IMAGES_AT_ONCE), f"scores, by {IMAGES_AT_ONCE}"):
            i2t, _ = model.similarity(image.rows(slice(start, start + IMAGES_AT_ONCE)), text)
            yield torch.zeros(len(i2t), len(counts)).index_add_(1, owner, i2t.cpu()) / counts

    return good, torch.cat(list(blocks()))


@torch.inference_mode()
def global_vectors(
    model: Model, records: Sequence[Record], problems: Problems
) -> tuple[Sequence[Record], Tensor]:
    """The readable records and their pictures' global vectors, (I,D) normalised, on the CPU.

    Raises:
        DataError: no picture can be read, or too many cannot.
    """
    good: list[int] = []
    parts = []
    pictures = ((place, image) for place, _, image in numbered(records, problems))
    for some in chunks(pictures, model.backbone.images_at_once):
        good += [place for place, _ in some]
        features = model.image_features([image for _, image in some])
        parts.append(normalised(features.require("image_global")).cpu())
    problems.check()
    if not parts:
        raise DataError(f"none of {len(records)} pictures can be read")
    return at(records, good), torch.cat(parts)


def class_outcomes(ranks: Array, labels: Array, num_classes: int) -> dict[str, Outcomes]:
    """``top1`` and, where there are more than 5 classes, ``top5`` of the pictures, and
    ``macro_top1``, the mean over classes of the share inside each."""
    hits = {k: Outcomes.of_hits(ranks < k) for k in TOP if k < num_classes}
    outcomes = {f"top{k}": outcome for k, outcome in hits.items()}
    return outcomes | {"macro_top1": replace(hits[1], strata=labels)}


def _flat(sentences: Sentences) -> tuple[list[str], Tensor, Tensor]:
    """All sentences in order, the class of each (T,), and how many a class has (C,)."""
    texts = [text for some in sentences.values() for text in some]
    counts = torch.tensor([len(some) for some in sentences.values()])
    return texts, torch.arange(len(counts)).repeat_interleave(counts), counts


@torch.inference_mode()
def _class_vectors(model: Model, sentences: Sentences) -> Tensor:
    """(C,D) normalised, on the CPU."""
    texts, owner, _ = _flat(sentences)
    total = torch.zeros(len(sentences), model.backbone.dims.embed)
    for start in progress(range(0, len(texts), TEXTS_AT_ONCE), f"sentences, by {TEXTS_AT_ONCE}"):
        some = slice(start, start + TEXTS_AT_ONCE)
        vectors = normalised(model.text_features(texts[some]).require("text_global"))
        total.index_add_(0, owner[some], vectors.cpu())
    return normalised(total)
