"""What the data at hand allow: a task for every protocol and data set, a reason for the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from intarsia.components.text import TextParser
from intarsia.data.coco import PANOPTIC, coco_categories
from intarsia.data.image_folder import class_names
from intarsia.data.problems import Problems
from intarsia.data.readers import CLASS_FOLDERS, GENERATED, OWN_FILES
from intarsia.data.records import Records, without_pictures
from intarsia.errors import ConfigError, DataError, IntarsiaError
from intarsia.evaluation.blind import TEXT_ONLY, Lessons, NgramModel, blind_negatives
from intarsia.evaluation.boxes import ProtocolName
from intarsia.evaluation.compositional import COMPOSITIONAL
from intarsia.evaluation.grounding import evaluate_grounding
from intarsia.evaluation.harness import (
    PROTOCOLS,
    Evaluation,
    evaluate_boxes,
    evaluate_negatives,
    evaluate_retrieval,
)
from intarsia.evaluation.mentions import mentions
from intarsia.evaluation.probe import evaluate_probe
from intarsia.evaluation.region_retrieval import evaluate_region_retrieval
from intarsia.evaluation.retrieval import published_captions
from intarsia.evaluation.swaps import swaps
from intarsia.evaluation.zero_shot import class_sentences, evaluate_zero_shot
from intarsia.identity import data_key
from intarsia.model import Model
from intarsia.suite.inspect_classes import inspect_boxes, inspect_probe, inspect_zero_shot
from intarsia.suite.inspect_places import (
    inspect_grounding,
    inspect_pointing,
    inspect_region_retrieval,
)
from intarsia.suite.inspect_texts import inspect_cases, inspect_negatives, inspect_retrieval
from intarsia.suite.questions import Inspection
from intarsia.suite.sources import SPLITS, Source, labelled
from intarsia.types import Record

TEACHER = "flickr8k"
"""Whose captions teach the text-only judge, if it is in the root."""
PICTURES = {
    "aro": ("visual_genome/images", "visual_genome"),
    "sugarcrepe": ("coco/val2017", "coco/images/val2017"),
    "fg-ovd": ("coco", "coco/images"),
}
"""Where the pictures of a benchmark may lie, besides its own folder ``images``."""

Items = Sequence[Any]  # records, or the cases of a benchmark
Blind = Callable[[Any, NgramModel], Evaluation]


def as_they_are(items: Any) -> Items:
    found: Items = items
    return found


@dataclass(frozen=True, eq=False)
class Task:
    """One protocol on one data set.

    ``evaluate`` is given what ``prepare`` makes of the records or cases ``given``; ``inspection``
    finds single failures in it, where the answers can be shown; ``blind`` answers without pictures,
    where the answers are texts; ``besides`` is what else the answers depend on, as categories.
    """

    protocol: str
    data: str
    split: str
    given: Items
    evaluate: Callable[[Model, Any, Problems], Evaluation]
    inspection: Inspection | None = None
    prepare: Callable[[Any], Items] = as_they_are
    blind: Blind | None = None
    besides: Items = ()

    def __str__(self) -> str:
        return f"{self.protocol} on {self.data} {self.split}"

    @cached_property
    def items(self) -> Items:
        return self.prepare(self.given)

    @cached_property
    def key(self) -> str:
        """Of all that is asked: equal keys, equal questions."""
        return data_key([self.protocol, self.given, *self.besides])


@dataclass(frozen=True)
class Skip:
    """What is not done, and why."""

    protocol: str
    data: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """``lessons`` teach the judge of the tasks that can be answered blindly."""

    tasks: list[Task]
    skipped: list[Skip]
    lessons: Lessons | None = None
    max_bad_fraction: float = 0.01


@dataclass(frozen=True)
class OnRecords:
    """A protocol on records: which of them it can use, and what is missing if it can use none."""

    uses: Callable[[Record], bool]
    lacks: str
    evaluate: Callable[[Model, Any, Problems], Evaluation]
    inspection: Inspection | None = None
    prepare: Callable[[Records], Sequence[Record]] = as_they_are
    blind: Blind | None = None


def _swapped(records: Records) -> list[Record]:
    return swaps(records, TextParser())


ON_RECORDS = {
    "retrieval": OnRecords(
        lambda record: bool(record.captions), "captions", PROTOCOLS["retrieval"]
    ),
    "negatives": OnRecords(
        lambda record: bool(record.negatives),
        "negatives",
        PROTOCOLS["negatives"],
        inspect_negatives,
        blind=blind_negatives,
    ),
    "swaps": OnRecords(
        lambda record: bool(record.captions),
        "captions",
        evaluate_negatives,
        inspect_negatives,
        _swapped,
        blind_negatives,
    ),
    "pointing": OnRecords(
        lambda record: bool(record.phrases and mentions(record)),
        "phrases with boxes",
        PROTOCOLS["pointing"],
        inspect_pointing,
    ),
    "grounding": OnRecords(
        lambda record: bool(mentions(record)),
        "phrases or labels with boxes",
        evaluate_grounding,
        inspect_grounding,
    ),
    "region-retrieval": OnRecords(
        lambda record: bool(mentions(record)),
        "phrases or labels with boxes",
        evaluate_region_retrieval,
        inspect_region_retrieval,
    ),
    "boxes-instances-roi": OnRecords(
        lambda record: any(region.label for region in record.regions),
        "labelled boxes",
        PROTOCOLS["boxes"],
        inspect_boxes("instances", None),
    ),
}


def make_plan(
    root: Path,
    data: Sequence[str] | None = None,
    blind: str | None = None,
    *,
    max_bad_fraction: float = 0.01,
) -> Plan:
    """What can be evaluated.

    Args:
        root: folder of all data sets.
        data: which ones (see :class:`Source`); None = those in ``root``.
        blind: data set whose captions teach the text-only judge, its split being ``train`` where
            none is named; None = ``TEACHER``, if it is in ``root``.
        max_bad_fraction: largest share of unreadable records of a data set.

    Raises:
        ConfigError: a data set of ``data`` or ``blind`` is unknown or lacks its path, or is named
            twice.
        DataError: the captions of ``blind`` cannot be read, or nothing can be asked of one of
            ``data``.
    """
    known = [name for name in (*SPLITS, *COMPOSITIONAL) if name not in OWN_FILES]
    names = known if data is None else data
    tasks: list[Task] = []
    skipped: list[Skip] = []
    sources = [Source.parse(name, root) for name in names]
    for asked, source in zip(names, labelled(sources), strict=True):
        source = replace(source, max_bad_fraction=max_bad_fraction)
        if source.name in COMPOSITIONAL:
            found = _benchmark(source, root)
        elif source.name in CLASS_FOLDERS:
            found = _on_classes(source)
        else:
            found = _on_records(source)
        items = list(found)
        if data is not None and not any(isinstance(item, Task) for item in items):
            reasons = "; ".join(dict.fromkeys(i.reason for i in items if isinstance(i, Skip)))
            raise DataError(f"nothing can be asked of {asked}: {reasons}")
        tasks += [item for item in items if isinstance(item, Task)]
        skipped += [item for item in items if isinstance(item, Skip)]
    _require_different(tasks)
    teacher = None
    if any(task.blind for task in tasks):
        try:
            teacher = _lessons(root, blind)
        except IntarsiaError as error:
            if blind is not None:
                raise
            skipped.append(Skip(TEXT_ONLY, TEACHER, str(error)))
    return Plan(tasks, skipped, teacher, max_bad_fraction)


def _require_different(tasks: Sequence[Task]) -> None:
    names = [str(task) for task in tasks]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"{twice} is asked for twice: name each data set and split once")


def _lessons(root: Path, blind: str | None) -> Lessons | None:
    if blind is None and not (root / TEACHER).is_dir():
        return None
    source = Source.parse(blind or TEACHER, root, "train")
    return Lessons.read(source.name, source.splits[0], source.path)


def _benchmark(source: Source, root: Path) -> Iterator[Task | Skip]:
    """A compositional benchmark with files of its own."""
    places = [source.path / "images", *(root / name for name in PICTURES.get(source.name, ()))]
    images = next((place for place in places if place.is_dir()), None)
    benchmark = COMPOSITIONAL[source.name]
    if not source.path.is_dir():
        yield Skip(source.name, source.name, f"there is no folder {source.path}")
    elif images is None:
        reason = f"no folder of pictures: looked for {', '.join(map(str, places))}"
        yield Skip(source.name, source.name, reason)
    else:
        try:
            cases = benchmark.read(source.path, images, source.problems())
        except IntarsiaError as error:
            yield Skip(source.name, source.name, str(error))
            return
        yield Task(
            source.name,
            source.label,
            "test",
            cases,
            benchmark.evaluate,
            inspect_cases,
            blind=benchmark.blind,
        )


def _on_classes(source: Source) -> Iterator[Task | Skip]:
    """Classes of whole pictures: with their names, and learned from the folder ``train``."""
    split, data = source.splits[0], source.label
    try:
        names, records = _classes(source, split)
        sentences = class_sentences(names)
    except IntarsiaError as error:
        yield Skip("zero-shot, probe", source.name, str(error))
        return
    evaluate = partial(evaluate_zero_shot, sentences=sentences)
    inspection, besides = inspect_zero_shot(sentences), list(sentences.items())
    yield Task("zero-shot", data, split, records, evaluate, inspection, besides=besides)
    try:
        known, train = _classes(source, "train")
    except IntarsiaError as error:
        yield Skip("probe", f"{data} {split}", str(error))
        return

    def probe(model: Model, both: Sequence[Records], problems: Problems) -> Evaluation:
        fitted, asked = both
        return evaluate_probe(model, fitted, asked, problems, names=known)

    both = [train, records]
    yield Task("probe", data, split, both, probe, inspect_probe(known), besides=known)


def _classes(source: Source, split: str) -> tuple[tuple[str, ...], Records]:
    """The names of the classes of a split, or of a part of it, and its records."""
    records = source.read(split)
    return class_names(source.path, split.partition("[")[0]), records


def _on_records(source: Source) -> Iterator[Task | Skip]:
    """Every protocol that can use what the records of a data set hold."""
    try:
        split, records = _first_there(source)
    except IntarsiaError as error:
        yield Skip("all", source.name, str(error))
        return
    for name, protocol in ON_RECORDS.items():
        if not any(map(protocol.uses, without_pictures(records))):
            reason = f"none of {len(records)} records has {protocol.lacks}"
            yield Skip(name, f"{source.label} {split}", reason)
        elif source.name == "coco" and name == "boxes-instances-roi":
            yield _coco_boxes("instances", source, split, records)
        else:
            evaluate, inspection = protocol.evaluate, protocol.inspection
            if name == "retrieval":
                captions = published_captions(source.name)
                evaluate = partial(evaluate_retrieval, captions=captions)
                inspection = inspect_retrieval(captions)
            yield Task(
                name,
                source.label,
                split,
                records,
                evaluate,
                inspection,
                protocol.prepare,
                protocol.blind,
            )
    if source.name == "coco":
        yield from _panoptic(source, split)


def _first_there(source: Source) -> tuple[str, Records]:
    """The first split that can be read, and its records.

    Raises:
        IntarsiaError: of the first split, if none can be.
    """
    if source.name not in (*GENERATED, *OWN_FILES) and not source.path.exists():
        raise DataError(f"there is no folder {source.path}")
    errors = []
    for split in source.splits:
        try:
            return split, source.read(split)
        except IntarsiaError as error:
            errors.append(error)
    raise errors[0]


def _panoptic(source: Source, split: str) -> Iterator[Task | Skip]:
    protocols: tuple[ProtocolName, ...] = ("clipself", "fineclip")
    try:
        records = source.read(PANOPTIC + split)
    except IntarsiaError as error:
        yield Skip("boxes-clipself-roi, boxes-fineclip-roi", f"coco {split}", str(error))
        return
    for protocol in protocols:
        yield _coco_boxes(protocol, source, split, records)


def _coco_boxes(protocol: ProtocolName, source: Source, split: str, records: Records) -> Task:
    prefix = "" if protocol == "instances" else PANOPTIC
    categories = coco_categories(source.path, prefix + split.partition("[")[0])
    return Task(
        f"boxes-{protocol}-roi",
        source.label,
        split,
        records,
        partial(evaluate_boxes, protocol=protocol, categories=categories),
        inspect_boxes(protocol, categories),
        besides=categories,
    )
