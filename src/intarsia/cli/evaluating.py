"""Verbs that measure: evaluate, compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from intarsia.cli.common import add_data_arguments, data_of, screen
from intarsia.cli.measuring import Test, evaluation_options, evaluation_parser, measure
from intarsia.cli.options import command, parsed
from intarsia.cli.suite import evaluate_suite
from intarsia.cli.texts import (
    add_benchmark_arguments,
    add_negatives_arguments,
    add_swaps_arguments,
    evaluate_benchmark,
    negatives,
    swaps,
)
from intarsia.errors import ConfigError, unknown

if TYPE_CHECKING:
    from intarsia.model import Model


@dataclass(frozen=True)
class Entry:
    """A protocol: its options beside those that all have, and what it does with them."""

    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], None]


def evaluate(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        _overview()
        return
    protocol, *rest = arguments
    if protocol == "suite":
        evaluate_suite(rest)
        return
    options = evaluation_options(protocol_parser(protocol), rest)
    _entries()[protocol].run(options)


def protocol_parser(name: str) -> ArgumentParser:
    """
    Raises:
        ConfigError: There is no such protocol.
    """
    entries = _entries()
    if name not in entries:
        raise ConfigError(unknown("protocol", name, ["suite", *entries]))
    parser = evaluation_parser(name)
    entries[name].add_arguments(parser)
    return parser


def _overview() -> None:
    from intarsia.cli.about import ABOUT

    screen.print("intarsia evaluate PROTOCOL ..., where PROTOCOL is one of\n")
    for name, about in ABOUT.items():
        name = f"[bold]{name:17}[/]"
        screen.print(f"  {name}{about.measures}", highlight=False, soft_wrap=True, markup=True)
    screen.print("\n`intarsia evaluate PROTOCOL --help`: its files, metrics, chance and options.")


def _entries() -> dict[str, Entry]:
    from intarsia.evaluation.compositional import COMPOSITIONAL
    from intarsia.evaluation.harness import evaluate_pointing, evaluate_retrieval
    from intarsia.evaluation.region_retrieval import evaluate_region_retrieval

    test_split = partial(add_data_arguments, split="test")
    on_records: dict[str, tuple[Any, Callable[[ArgumentParser], None], tuple[str, ...]]] = {
        "retrieval": (evaluate_retrieval, _add_retrieval_arguments, ("captions",)),
        "pointing": (evaluate_pointing, _add_pointing_arguments, ("counting",)),
        "region-retrieval": (evaluate_region_retrieval, test_split, ()),
    }
    plain = {
        name: Entry(add, partial(_plain, name, run, settings))
        for name, (run, add, settings) in on_records.items()
    }
    benchmarks = {
        name: Entry(add_benchmark_arguments, partial(evaluate_benchmark, name))
        for name in COMPOSITIONAL
    }
    return {
        **plain,
        "negatives": Entry(add_negatives_arguments, negatives),
        "swaps": Entry(add_swaps_arguments, swaps),
        "boxes": Entry(_add_box_arguments, _boxes),
        "grounding": Entry(_add_grounding_arguments, _grounding),
        "zero-shot": Entry(_add_zero_shot_arguments, _zero_shot),
        "probe": Entry(_add_probe_arguments, _probe),
        **benchmarks,
    }


def _plain(protocol: str, run: Any, names: tuple[str, ...], options: Namespace) -> None:
    """A protocol on the records of any reader, whose settings are options as they are."""
    settings = {name: options[name] for name in names}
    if "captions" in settings:
        settings["captions"] = _num_captions(options)
    data = data_of(options)
    problems = data.problems()
    records = data.read(problems)
    test = Test(protocol, options.data, options.split, records, settings)
    measure(options, test, problems, lambda model: run(model, records, problems, **settings))


def _add_retrieval_arguments(parser: ArgumentParser) -> None:
    add_data_arguments(parser, "test")
    parser.add_argument(
        "--captions",
        type=PositiveInt | Literal["all", "published"],
        default="published",
        help="how many of each picture count, its first ones, or all; part of the protocol's name. "
        "Published are all of coco-karpathy and five of other data sets",
    )


def _num_captions(options: Namespace) -> int | None:
    from intarsia.evaluation.retrieval import published_captions

    if options.captions == "published":
        return published_captions(options.data)
    return None if options.captions == "all" else int(options.captions)


def _add_pointing_arguments(parser: ArgumentParser) -> None:
    add_data_arguments(parser, "test")
    _add_counting_argument(parser)


def _add_counting_argument(parser: ArgumentParser) -> None:
    from intarsia.evaluation.mentions import Counting

    parser.add_argument(
        "--counting",
        type=Counting,
        default="mentions",
        help="every phrase of every caption, as published, or each distinct text of a picture once",
    )


def _add_zero_shot_arguments(parser: ArgumentParser) -> None:
    from intarsia.evaluation.zero_shot import Score

    add_data_arguments(parser, "val")
    parser.add_argument(
        "--sentences",
        type=Path | None,
        default=None,
        help="text file of templates, one a line, with {} for the class; or json of sentences by "
        "class (default: the prompts of box classification)",
    )
    parser.add_argument(
        "--score",
        type=Score,
        default="global",
        help="global vectors as in an ordinary CLIP, or the method's own similarity",
    )


def _zero_shot(options: Namespace) -> None:
    from intarsia.evaluation.zero_shot import class_sentences, evaluate_zero_shot

    data = _class_folder("zero-shot", options)
    problems = data.problems()
    records = data.read(problems)
    sentences = class_sentences(_class_names(data), options.sentences)
    settings = {"sentences": options.sentences, "score": options.score}
    items = [records, list(sentences.items())]
    test = Test("zero-shot", data.root.absolute().name, data.split, items, settings)

    def run(model: Any) -> Any:
        return evaluate_zero_shot(
            model, records, problems, sentences=sentences, score=options.score
        )

    measure(options, test, problems, run)


def _add_probe_arguments(parser: ArgumentParser) -> None:
    add_data_arguments(parser, "val")
    parser.add_argument("--train-split", default="train", help="what to fit on")


def _probe(options: Namespace) -> None:
    from intarsia.evaluation.probe import evaluate_probe

    if options.train_split == options.split:
        raise ConfigError(f"--train-split and --split are both {options.split!r}")
    data = _class_folder("probe", options)
    fitted = replace(data, split=options.train_split)
    problems = data.problems()
    train, asked = fitted.read(problems), data.read(problems)
    settings: dict[str, Any] = {"train_split": options.train_split}
    test = Test("probe", data.root.absolute().name, data.split, [train, asked], settings)

    def run(model: Any) -> Any:
        found = evaluate_probe(model, train, asked, problems, names=_class_names(fitted))
        settings["penalty"] = found.penalty
        return found

    measure(options, test, problems, run)


def _class_folder(protocol: str, options: Namespace) -> Any:
    """The data asked for, with their folder, if they are pictures sorted by class."""
    from intarsia.data.readers import CLASS_FOLDERS, place_of

    data = data_of(options)
    place = place_of(data.name, data.root)
    if data.name not in CLASS_FOLDERS:
        valid = " or ".join(CLASS_FOLDERS)
        raise ConfigError(f"{protocol} needs pictures sorted by class: {valid}, not {data.name!r}")
    return replace(data, root=place)


def _class_names(data: Any) -> tuple[str, ...]:
    from intarsia.data.image_folder import class_names

    return class_names(data.root, data.split.partition("[")[0])


def _add_box_arguments(parser: ArgumentParser) -> None:
    from intarsia.evaluation.boxes import BoxFeatures, ClassText, ProtocolName

    add_data_arguments(parser, "test")
    parser.add_argument(
        "--protocol",
        type=ProtocolName,
        default="instances",
        help="instances: micro; clipself: panoptic boxes, macro, things and stuff apart; "
        "fineclip: the same, together",
    )
    parser.add_argument(
        "--features",
        type=BoxFeatures,
        default="roi",
        help="of a box: pooled from the whole picture's patches, or its crop's global vector",
    )
    parser.add_argument(
        "--text",
        type=ClassText,
        default="method",
        help="of a category's name: what the method compares regions with, the prompt's global "
        "vector, or the mean of the name's tokens",
    )
    parser.add_argument(
        "--input-size", type=int | None, default=None, help="pixels a side, for finer patches"
    )


def _boxes(options: Namespace) -> None:
    from intarsia.evaluation.boxes import square_input
    from intarsia.evaluation.harness import evaluate_boxes

    data, categories = _box_data(options)
    settings = {name: options[name] for name in ("protocol", "features", "text", "input_size")}
    problems = data.problems()
    records = data.read(problems)
    name = f"boxes-{options.protocol}-{options.features}"
    items = [records, list(categories or ())]
    test = Test(name, options.data, options.split, items, settings)

    def require(model: Model) -> None:
        with square_input(model, options.input_size):
            pass

    def run(model: Model) -> Any:
        return evaluate_boxes(model, records, problems, categories=categories, **settings)

    measure(options, test, problems, run, require=require)


def _box_data(options: Namespace) -> tuple[Any, Any]:
    """The data as a box protocol reads them, and their categories if they are not the labels."""
    from intarsia.data.coco import PANOPTIC, coco_categories
    from intarsia.evaluation.boxes import BOX_PROTOCOLS
    from intarsia.runtime import data_root

    data = data_of(options)
    if BOX_PROTOCOLS[options.protocol].source == "panoptic":
        if data.name != "coco":
            raise ConfigError(f"--protocol {options.protocol} reads coco, not {data.name!r}")
        data = replace(data, split=PANOPTIC + data.split)
    if data.name != "coco":
        return data, None
    root, split = data.root or data_root() / "coco", data.split.partition("[")[0]
    return data, coco_categories(root, split)


def _add_grounding_arguments(parser: ArgumentParser) -> None:
    from intarsia.evaluation.grounding import Source, Targets

    add_data_arguments(parser, "test")
    parser.add_argument(
        "--source",
        type=Source,
        default="maps",
        help="of boxes: the method's map of the phrase, proposals ranked by their region vectors, "
        "or proposals ranked by both",
    )
    parser.add_argument(
        "--targets",
        type=Targets,
        default="any",
        help="of a phrase with several boxes any is right, or the one that holds them all",
    )
    _add_counting_argument(parser)
    parser.add_argument(
        "--num-proposals", type=int, default=100, help="at most so many a picture, best first"
    )
    parser.add_argument(
        "--components.detector",
        type=str | None,
        default=None,
        help="of proposals, as of load_detector; the default takes the regions of the records",
    )
    parser.add_argument(
        "--components.options", type=dict[str, Any], default={}, help="of the detector"
    )


def _grounding(options: Namespace) -> None:
    from intarsia.evaluation.grounding import evaluate_grounding

    settings, given = _grounding_settings(options)
    data = data_of(options)
    problems = data.problems()
    records = data.read(problems)
    test = Test("grounding", options.data, options.split, records, given)

    def run(model: Model) -> Any:
        return evaluate_grounding(model, records, problems, **settings)

    measure(options, test, problems, run)


def _grounding_settings(options: Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of the protocol, and the same as plain data."""
    from intarsia.components.detectors import load_detector

    names = ("source", "targets", "counting", "num_proposals")
    settings = {name: options[name] for name in names}
    spec = options.components
    if spec.detector is not None and options.source == "maps":
        raise ConfigError("--components.detector finds proposals: add --source proposals or both")
    detector = None if spec.detector is None else load_detector(spec.detector, **spec.options)
    finds = None if detector is None else detector.fingerprint()
    plain = settings | {"detector": spec.detector, "options": spec.options, "finds": finds}
    return settings | {"detector": detector}, plain


def compare(arguments: list[str]) -> None:
    import json

    from intarsia.evaluation.compare import comparison, comparison_table
    from intarsia.evaluation.result import read_result
    from intarsia.runtime import atomic

    parser = command(
        "compare",
        "Paired differences of two models from their result files: intervals over queries and, of "
        "several results a side, over seeds; p values corrected (Holm) for all metrics.",
    )
    parser.add_argument("--a", type=Path, nargs="+", required=True, help="results, one a seed")
    parser.add_argument("--b", type=Path, nargs="+", required=True, help="results to subtract")
    parser.add_argument("--json", type=Path | None, default=None, help="write the same here")
    options = parsed(parser, arguments, results=["json"])
    if options.json is not None and options.json in [*options.a, *options.b]:
        raise ConfigError(f"--json {options.json} is one of the results: choose another path")
    sides = [[read_result(path) for path in paths] for paths in (options.a, options.b)]
    found = comparison(*sides)
    screen.print(comparison_table(found))
    if options.json:
        with atomic(options.json) as draft:
            draft.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
