"""Verbs that measure: evaluate, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from intarsia.cli.common import add_data_arguments, command, data_of, parsed, screen
from intarsia.cli.measuring import Test, evaluation_options, evaluation_parser, measure
from intarsia.cli.suite import evaluate_suite
from intarsia.cli.texts import evaluate_benchmark, negatives, swaps
from intarsia.errors import ConfigError, unknown


def evaluate(arguments: list[str]) -> None:
    from intarsia.evaluation.compositional import COMPOSITIONAL
    from intarsia.evaluation.grounding import evaluate_grounding
    from intarsia.evaluation.harness import PROTOCOLS
    from intarsia.evaluation.region_retrieval import evaluate_region_retrieval

    on_texts = {"negatives": negatives, "swaps": swaps}
    on_records = {name: run for name, run in PROTOCOLS.items() if name not in on_texts} | {
        "grounding": evaluate_grounding,
        "region-retrieval": evaluate_region_retrieval,
    }
    on_classes = {"zero-shot": _zero_shot, "probe": _probe}
    names = ["suite", *on_texts, *on_records, *on_classes, *COMPOSITIONAL]
    if not arguments or arguments[0] not in names:
        if arguments and arguments[0] not in ("-h", "--help"):
            raise ConfigError(unknown("protocol", arguments[0], names))
        screen.print(f"intarsia evaluate PROTOCOL ..., where PROTOCOL is one of {', '.join(names)}")
        return
    protocol, *rest = arguments
    if protocol == "suite":
        evaluate_suite(rest)
    elif protocol in COMPOSITIONAL:
        evaluate_benchmark(protocol, rest)
    elif protocol in on_texts:
        on_texts[protocol](rest)
    elif protocol in on_classes:
        on_classes[protocol](rest)
    else:
        _protocol(protocol, on_records[protocol], rest)


def _protocol(protocol: str, run: Any, arguments: list[str]) -> None:
    """A protocol on the records of any reader."""
    from intarsia.evaluation.pointing import VIEWS

    parser = evaluation_parser(protocol, run.__doc__ or "", VIEWS.get(protocol, ""))
    add_data_arguments(parser, "test")
    if protocol == "boxes":
        _add_box_arguments(parser)
    if protocol == "grounding":
        _add_grounding_arguments(parser)
    options = evaluation_options(parser, arguments)
    data, name = data_of(options), protocol
    settings: dict[str, Any] = {}
    given: dict[str, Any] = {}
    if protocol == "boxes":
        data, settings = _box_data(options, data)
        name = f"boxes-{options.protocol}-{options.features}"
        given = {key: settings[key] for key in settings.keys() - {"categories"}}
    if protocol == "grounding":
        settings, given = _grounding_settings(options)
    problems = data.problems()
    records = data.read(problems)
    items = [*records, *settings.get("categories", ())]
    test = Test(name, options.data, options.split, items, given)
    measure(options, test, problems, lambda model: run(model, records, problems, **settings))


def _zero_shot(arguments: list[str]) -> None:
    from intarsia.evaluation.zero_shot import Score, class_sentences, evaluate_zero_shot

    parser = evaluation_parser("zero-shot", evaluate_zero_shot.__doc__ or "", CLASS_LAYOUT)
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
    options = evaluation_options(parser, arguments)
    data = _class_folder("zero-shot", options)
    problems = data.problems()
    records = data.read(problems)
    sentences = class_sentences(_class_names(data), options.sentences)
    settings = {"sentences": options.sentences, "score": options.score}
    items = [*records, *sentences.items()]
    test = Test("zero-shot", data.root.absolute().name, data.split, items, settings)

    def run(model: Any) -> Any:
        return evaluate_zero_shot(
            model, records, problems, sentences=sentences, score=options.score
        )

    measure(options, test, problems, run)


def _probe(arguments: list[str]) -> None:
    from dataclasses import replace

    from intarsia.evaluation.probe import evaluate_probe

    parser = evaluation_parser("probe", evaluate_probe.__doc__ or "", CLASS_LAYOUT)
    add_data_arguments(parser, "val")
    parser.add_argument("--train-split", default="train", help="what to fit on")
    options = evaluation_options(parser, arguments)
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


CLASS_LAYOUT = (
    "--data image_folder reads --root/SPLIT/CLASS/PICTURE; a class is named by its folder, or in "
    "classes.json or classes.txt in --root."
)


def _class_folder(protocol: str, options: Namespace) -> Any:
    """The data asked for, with their folder, if they are pictures sorted by class."""
    from dataclasses import replace

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


def _box_data(options: Namespace, data: Any) -> tuple[Any, dict[str, Any]]:
    """The data as a box protocol reads them, and its settings."""
    from dataclasses import replace

    from intarsia.data.coco import PANOPTIC, coco_categories
    from intarsia.evaluation.boxes import BOX_PROTOCOLS
    from intarsia.runtime import data_root

    names = ("protocol", "features", "text", "input_size")
    settings = {name: options[name] for name in names}
    if BOX_PROTOCOLS[options.protocol].source == "panoptic":
        if data.name != "coco":
            raise ConfigError(f"--protocol {options.protocol} reads coco, not {data.name!r}")
        data = replace(data, split=PANOPTIC + data.split)
    if data.name == "coco":
        root, split = data.root or data_root() / "coco", data.split.partition("[")[0]
        settings["categories"] = coco_categories(root, split)
    return data, settings


def _add_grounding_arguments(parser: ArgumentParser) -> None:
    from intarsia.evaluation.grounding import Source, Targets

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


def _grounding_settings(options: Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of the protocol, and the same as plain data."""
    from intarsia.components.detectors import load_detector

    names = ("source", "targets", "num_proposals")
    settings = {name: options[name] for name in names}
    spec = options.components
    if spec.detector is not None and options.source == "maps":
        raise ConfigError("--components.detector finds proposals: add --source proposals or both")
    detector = None if spec.detector is None else load_detector(spec.detector, **spec.options)
    plain = settings | {"detector": spec.detector, "options": spec.options}
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
    options = parsed(parser, arguments, "json")
    sides = [[read_result(path) for path in paths] for paths in (options.a, options.b)]
    found = comparison(*sides)
    screen.print(comparison_table(found))
    if options.json:
        with atomic(options.json) as draft:
            draft.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
