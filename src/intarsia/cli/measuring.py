"""What all protocols share on the command line: their options, the model, the result."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from intarsia.cli.common import add_device_argument, open_model, report_problems, screen
from intarsia.cli.options import command, parsed
from intarsia.cli.outputs import require_folder
from intarsia.errors import ConfigError

if TYPE_CHECKING:
    from intarsia.evaluation.blind import NgramModel, TaughtOn
    from intarsia.evaluation.harness import Evaluation
    from intarsia.model import Model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Blind:
    """A language model that was taught, and how it is asked what a model has answered."""

    language: NgramModel
    taught_on: TaughtOn
    ask: Callable[[Any, NgramModel], Evaluation]


@dataclass(frozen=True)
class Test:
    """A protocol and what it asks.

    ``items`` are the records or cases, and whatever else decides what is asked; ``settings`` are
    plain data, kept in the result's config.
    """

    protocol: str
    data: str
    split: str
    items: Sequence[Any]
    settings: dict[str, Any] = field(default_factory=dict)
    blind: Blind | None = None


def evaluation_parser(protocol: str) -> ArgumentParser:
    from intarsia.cli.about import ABOUT

    parser = command(f"evaluate {protocol}", str(ABOUT[protocol]))
    parser.add_argument("--model", required=True, help="trained folder, or a backbone (hf:NAME...)")
    parser.add_argument("--json", type=Path | None, default=None, help="write the result here")
    parser.add_argument(
        "--reuse",
        action="store_true",
        help="leave a --json alone that is of the same data, weights, config and code",
    )
    parser.add_argument(
        "--cache", type=Path, default=Path("runs/cache"), help="where components are kept"
    )
    add_device_argument(parser)
    return parser


def evaluation_options(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    options = parsed(parser, arguments, results=["json"])
    if options.reuse and options.json is None:
        raise ConfigError("--reuse needs the --json that may be left alone")
    return options


def measure(
    options: Namespace,
    test: Test,
    problems: Any,
    run: Callable[[Model], Evaluation],
    *,
    require: Callable[[Model], None] | None = None,
) -> None:
    """Evaluate the model, print the table and write the result file; the blind score stands beside
    the model's, of the same questions. ``require`` says before any picture is read what the model
    cannot do."""
    from intarsia.evaluation.result import make_result, write_result
    from intarsia.identity import kept_run_keys, result_keys

    model, config = open_model(options.model)
    if "components" in model.method.needs:
        require_folder(options.cache)
    if require is not None:
        require(model)
    model.to(options.device)
    model.cache = options.cache
    settings = test.settings
    if test.blind is not None:
        settings = settings | {"taught_on": asdict(test.blind.taught_on)}
    config |= {"evaluation": settings}
    if precision := kept_run_keys(Path(options.model)).get("precision"):
        config |= {"precision": precision}
    keys = result_keys(model, test.items, config | {"protocol": test.protocol})
    if options.reuse and _stands(options.json, keys):
        return
    evaluation = run(model)
    result = make_result(
        protocol=evaluation.of(test.protocol),
        split=test.split,
        metrics=evaluation.metrics,
        per_query=evaluation.per_query,
        model=options.model,
        data=test.data,
        seed=config.get("seed"),
        config=config,
        keys=keys,
        counted=evaluation.counted,
    )
    if test.blind is not None:
        result["blind"] = _blind_report(test.blind, evaluation)
    _show(result, test.blind)
    if options.json:
        write_result(options.json, result)
    report_problems(problems, options.json and options.json.with_suffix(".problems.jsonl"))


def _stands(path: Path, keys: dict[str, str]) -> bool:
    """Whether a file is the result that would be computed; says so, or why it is not."""
    from intarsia.errors import DataError
    from intarsia.evaluation.result import read_result
    from intarsia.identity import differing

    if not path.exists():
        return False
    try:
        reason = differing(read_result(path)["keys"], keys)
    except DataError as error:
        reason = str(error)
    logger.info("%s %s", path, f"is made anew: {reason}" if reason else "stands")
    return not reason


def _blind_report(blind: Blind, evaluation: Evaluation) -> dict[str, Any]:
    from intarsia.evaluation.blind import Blind as Score

    answer = blind.ask(evaluation.answered, blind.language)
    return Score(blind.taught_on, answer).report()


def _show(result: dict[str, Any], blind: Blind | None) -> None:
    from intarsia.evaluation.blind import TEXT_ONLY
    from intarsia.evaluation.result import table

    columns = [result]
    if blind is not None:
        columns.append({"model": TEXT_ONLY, "seed": None, **result["blind"]})
    screen.print(table(columns))
    if blind is not None:
        screen.print(f"{TEXT_ONLY}: taught on {blind.taught_on}", highlight=False)
