"""What an evaluation of a sweep asks and can answer, told before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from intarsia.data.coco import PANOPTIC, Category
from intarsia.data.image_folder import class_names
from intarsia.data.problems import Problems
from intarsia.data.readers import CLASS_FOLDERS, place_of
from intarsia.data.records import without_pictures
from intarsia.errors import ConfigError, unknown
from intarsia.evaluation import grounding, region_retrieval
from intarsia.evaluation.blind import Lessons
from intarsia.evaluation.boxes import BOX_PROTOCOLS, Ranked, box_outcomes
from intarsia.evaluation.compositional import COMPOSITIONAL
from intarsia.evaluation.pointing import pointing_outcomes
from intarsia.evaluation.retrieval import Ranks, retrieval_outcomes
from intarsia.evaluation.zero_shot import class_outcomes
from intarsia.sweep.file import Sweep
from intarsia.training.run import DataSpec
from intarsia.types import Record

Options = Mapping[str, Any]
Read = Callable[[DataSpec], Sequence[Record]]
NONE = np.zeros(0, int)
MEANS = ("macro", "micro")
SWAPS = ("swap_attributes", "swap_phrases", "swap_roles", "shuffle_words")


def metrics_of(protocol: str, options: Options, read: Read) -> set[str]:
    """All metrics that a protocol may give of the data that its options name, which are read.

    Args:
        protocol: as ``intarsia evaluate`` calls it.
        options: all that it has.
        read: gives the records of a data set; asked for the same one it may give the same records.

    Raises:
        ConfigError, DataError: The data or their split are not there, or of another kind than the
            protocol's.
    """
    if options.get("blind"):
        _read_lessons(options)
    if protocol in COMPOSITIONAL:
        return _of_benchmark(protocol, options)
    *_, records = [read(spec) for spec in data_asked(protocol, options)]
    return set(ON_RECORDS[protocol](options, records))


def data_asked(protocol: str, options: Options) -> Iterator[DataSpec]:
    """The data that a protocol reads, those that it asks about last.

    Raises:
        ConfigError: They are not of the protocol's kind.
    """
    name, split = options["data"], options["split"]
    asked = DataSpec(name, options["root"], split, options["max_bad_fraction"])
    if protocol == "boxes" and BOX_PROTOCOLS[options["protocol"]].source == "panoptic":
        if name != "coco":
            raise ConfigError(f"--protocol {options['protocol']} reads coco, not {name!r}")
        asked = replace(asked, split=PANOPTIC + split)
    if protocol in ("zero-shot", "probe") and name not in CLASS_FOLDERS:
        valid = " or ".join(CLASS_FOLDERS)
        raise ConfigError(f"{protocol} needs pictures sorted by class: {valid}, not {name!r}")
    if "train_split" in options:
        yield replace(asked, split=options["train_split"])
    yield asked


def require_metrics(sweep: Sweep, given: Iterable[str]) -> None:
    """
    Args:
        sweep: whose metrics are to be among ``given``, those of its evaluations.

    Raises:
        ConfigError: One is not.
    """
    known = set(given)
    for metric in sweep.metrics:
        if metric not in known:
            raise ConfigError(unknown("metric of a sweep", metric, known))


def _read_lessons(options: Options) -> None:
    name, _, split = options["blind"].partition(":")
    root = options["blind_root"] or (options["root"] if name == options.get("data") else None)
    Lessons.read(name, split or "train", root)


def _of_benchmark(name: str, options: Options) -> set[str]:
    """What scores of all its cases would give."""
    benchmark = COMPOSITIONAL[name]
    problems = Problems(options["max_bad_fraction"])
    cases = benchmark.read(options["root"], options["images"], problems)
    scores = torch.zeros(len(cases), max(len(case.texts) for case in cases))
    return set(benchmark.outcomes(cases, scores))


def _retrieval(_: Options, __: Sequence[Record]) -> Iterable[str]:
    nobody = torch.zeros(0, dtype=torch.int64)
    outcomes = retrieval_outcomes(Ranks(nobody, nobody, nobody))
    return [*outcomes, "i2t_median_rank", "t2i_median_rank"]


def _region_retrieval(_: Options, __: Sequence[Record]) -> Iterable[str]:
    return [*(f"r{k}" for k in region_retrieval.RECALL_AT), "r1_chance", "median_rank"]


def _pointing(_: Options, __: Sequence[Record]) -> Iterable[str]:
    return pointing_outcomes(NONE, NONE)


def _grounding(options: Options, _: Sequence[Record]) -> Iterable[str]:
    nothing = grounding.Grounded(NONE, NONE, NONE, NONE, NONE)
    return grounding.grounding_outcomes(nothing, options["source"])


def _boxes(options: Options, _: Sequence[Record]) -> Iterable[str]:
    rules = BOX_PROTOCOLS[options["protocol"]]
    return box_outcomes(Ranked(NONE, NONE, NONE), [Category("thing")], rules)


def _negatives(_: Options, records: Sequence[Record]) -> Iterable[str]:
    kinds = {one.kind for record in without_pictures(records) for one in record.negatives}
    return kinds.union(MEANS)


def _swaps(_: Options, __: Sequence[Record]) -> Iterable[str]:
    return (*SWAPS, *MEANS)


def _classes(options: Options, _: Sequence[Record]) -> Iterable[str]:
    split = options.get("train_split", options["split"]).partition("[")[0]
    names = class_names(place_of(options["data"], options["root"]), split)
    return class_outcomes(NONE, NONE, len(names))


ON_RECORDS: dict[str, Callable[[Options, Sequence[Record]], Iterable[str]]] = {
    "retrieval": _retrieval,
    "negatives": _negatives,
    "swaps": _swaps,
    "pointing": _pointing,
    "boxes": _boxes,
    "grounding": _grounding,
    "region-retrieval": _region_retrieval,
    "zero-shot": _classes,
    "probe": _classes,
}
"""Of each protocol on the records of any data set, its metrics by its options and the records."""
