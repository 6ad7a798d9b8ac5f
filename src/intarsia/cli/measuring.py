"""What all protocols share on the command line: their options, the model, the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from intarsia.cli.common import (
    add_device_argument,
    command,
    open_model,
    report_problems,
    screen,
)

if TYPE_CHECKING:
    from intarsia.evaluation.blind import Blind


def evaluation_parser(protocol: str, description: str, more: str = "") -> ArgumentParser:
    parser = command(f"evaluate {protocol}", f"{description.splitlines()[0]} {more}".strip())
    parser.add_argument("--model", required=True, help="trained folder, or a backbone (hf:NAME...)")
    parser.add_argument("--json", type=Path | None, default=None, help="write the result here")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    add_device_argument(parser)
    return parser


def opened(options: Namespace) -> tuple[Any, dict[str, Any]]:
    model, config = open_model(options.model)
    model.to(options.device)
    model.cache = options.cache
    return model, config


def keep(
    options: Namespace,
    problems: Any,
    evaluation: Any,
    config: dict[str, Any],
    protocol: str,
    data: str,
    split: str,
    blind: Blind | None = None,
) -> None:
    """Print the table and write the result file, with the blind score beside the model's."""
    from intarsia.evaluation.blind import TEXT_ONLY
    from intarsia.evaluation.result import make_result, table, write_result

    result = make_result(
        protocol=f"{protocol} ({evaluation.variant})" if evaluation.variant else protocol,
        split=split,
        metrics=evaluation.metrics,
        per_query=evaluation.per_query,
        model=options.model,
        data=data,
        seed=config.get("seed"),
        config=config,
    )
    columns = [result]
    if blind is not None:
        result["blind"] = blind.report()
        columns.append({"model": TEXT_ONLY, "seed": None, **result["blind"]})
    screen.print(table(columns))
    if blind is not None:
        screen.print(f"{TEXT_ONLY}: taught on {blind.taught_on}", highlight=False)
    if options.json:
        write_result(options.json, result)
    report_problems(problems, options.json and options.json.with_suffix(".problems.jsonl"))
