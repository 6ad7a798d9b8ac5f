"""Protocols that tell true captions from false ones, with what language alone gives beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace

from intarsia.cli.common import add_bad_fraction_argument, add_data_arguments, data_of
from intarsia.cli.measuring import Blind, Test, measure
from intarsia.errors import ConfigError

if TYPE_CHECKING:
    from intarsia.data.problems import Problems
    from intarsia.evaluation.blind import NgramModel, TaughtOn
    from intarsia.evaluation.harness import Evaluation
    from intarsia.types import Record

    Taught = tuple[NgramModel, TaughtOn]


def add_negatives_arguments(parser: ArgumentParser) -> None:
    _add_caption_arguments(parser)
    parser.add_argument(
        "--match",
        type=Literal["similarity", "regions"],
        default="similarity",
        help="captions with pictures by the method's similarity, or phrases with given regions",
    )


def negatives(options: Namespace) -> None:
    """Hard negatives that the records bring."""
    from intarsia.evaluation.harness import evaluate_negatives
    from intarsia.evaluation.region_matching import evaluate_region_negatives

    records, problems = _read(options)
    taught = _taught(options, records)
    if options.match == "similarity":
        _judge(options, "negatives", evaluate_negatives, records, problems, taught)
    else:
        records = [record for record in records if record.regions] or records
        run, name = evaluate_region_negatives, "negatives-regions"
        _judge(options, name, run, records, problems, taught, match="regions")


def add_swaps_arguments(parser: ArgumentParser) -> None:
    _add_caption_arguments(parser)
    parser.add_argument(
        "--balanced",
        action="store_true",
        help="only captions that the language model of --blind cannot tell",
    )


def swaps(options: Namespace) -> None:
    """Hard negatives made of the records' captions."""
    from intarsia.components.text import TextParser
    from intarsia.evaluation.blind import balanced
    from intarsia.evaluation.harness import evaluate_negatives
    from intarsia.evaluation.swaps import swaps as swapped

    if options.balanced and not options.blind:
        raise ConfigError(
            "--balanced keeps what language alone cannot tell: add --blind NAME[:SPLIT], whose "
            "captions teach it"
        )
    records, problems = _read(options)
    taught = _taught(options, records)
    records, name = swapped(records, TextParser()), "swaps"
    if options.balanced and taught:
        records, name = balanced(records, taught[0]), "swaps (balanced)"
    _judge(options, name, evaluate_negatives, records, problems, taught)


def add_benchmark_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, help="folder of the benchmark's files")
    parser.add_argument("--images", type=Path, required=True, help="folder of its pictures")
    add_bad_fraction_argument(parser)
    _add_blind_arguments(parser)


def evaluate_benchmark(name: str, options: Namespace) -> None:
    """A compositional benchmark with files of its own."""
    from intarsia.data.problems import Problems
    from intarsia.evaluation.compositional import COMPOSITIONAL

    benchmark = COMPOSITIONAL[name]
    problems = Problems(options.max_bad_fraction)
    cases = benchmark.read(options.root, options.images, problems)
    taught = _taught(options, cases)
    blind = taught and Blind(*taught, benchmark.blind)
    test = Test(name, name, "test", cases, blind=blind)
    measure(options, test, problems, lambda model: benchmark.evaluate(model, cases, problems))


def _add_caption_arguments(parser: ArgumentParser) -> None:
    add_data_arguments(parser, "test")
    _add_blind_arguments(parser)


def _read(options: Namespace) -> tuple[list[Record], Problems]:
    data = data_of(options)
    problems = data.problems()
    return data.read(problems), problems


def _judge(
    options: Namespace,
    protocol: str,
    evaluate: Callable[..., Evaluation],
    records: list[Record],
    problems: Problems,
    taught: Taught | None,
    **given: str,
) -> None:
    """By the model, and by a language model that was taught, and keep the result."""
    from intarsia.evaluation.blind import blind_negatives

    blind = taught and Blind(*taught, blind_negatives)
    test = Test(protocol, options.data, options.split, records, dict(given), blind)
    measure(options, test, problems, lambda model: evaluate(model, records, problems))


def _add_blind_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--blind",
        type=str | None,
        default=None,
        help="NAME[:SPLIT] of a data set (default split: train) whose captions teach a language "
        "model what text alone gives; pictures that share a caption with the question are left out",
    )
    parser.add_argument(
        "--blind-root",
        type=Path | None,
        default=None,
        help="folder of --blind; default: that of --data, if it is the same data set",
    )


def _taught(options: Namespace, items: Sequence[Any]) -> Taught | None:
    """A language model that has not read the true texts of ``items``."""
    from intarsia.evaluation.blind import Lessons
    from intarsia.evaluation.compositional import true_texts

    if not options.blind:
        return None
    name, _, split = options.blind.partition(":")
    root = options.blind_root or (options.root if name == options.get("data") else None)
    return Lessons.read(name, split or "train", root).teach(true_texts(items))
