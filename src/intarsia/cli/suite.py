"""``evaluate suite``: everything the data at hand allow, for several models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from intarsia.cli.common import (
    add_bad_fraction_argument,
    add_device_argument,
    open_model,
    screen,
)
from intarsia.cli.options import command, parsed
from intarsia.cli.outputs import require_folder
from intarsia.errors import DataError


def evaluate_suite(arguments: list[str]) -> None:
    from intarsia.cli.about import ABOUT
    from intarsia.data.readers import READERS
    from intarsia.evaluation.compositional import COMPOSITIONAL
    from intarsia.runtime import data_root
    from intarsia.suite.page import write_page
    from intarsia.suite.plan import make_plan
    from intarsia.suite.run import run_suite
    from intarsia.suite.tables import benchmarks, summary, write_tables

    parser = command("evaluate suite", str(ABOUT["suite"]))
    parser.add_argument(
        "--models",
        nargs="+",
        required=True,
        help="trained folders, or backbones (hf:NAME...); the first is what the others are "
        "compared with, the last one's worst failures are shown beside the first's",
    )
    parser.add_argument("--out", type=Path, required=True, help="results, tables and page")
    parser.add_argument(
        "--data",
        nargs="+",
        default=None,
        help=f"NAME[:SPLIT][@PATH] of {', '.join([*READERS, *COMPOSITIONAL])}; default: what is in "
        "--root",
    )
    parser.add_argument("--root", type=Path, default=data_root(), help="folder of all data sets")
    parser.add_argument(
        "--blind",
        type=str | None,
        default=None,
        help="NAME[:SPLIT][@PATH] of captions (default split: train) that teach a language model, "
        "which shows what text alone gives; default: flickr8k, if it is in --root",
    )
    add_bad_fraction_argument(parser)
    parser.add_argument(
        "--cache", type=Path, default=Path("runs/cache"), help="where components are kept"
    )
    add_device_argument(parser)
    options = parsed(parser, arguments, folders=["out"])
    page = options.out / "suite.html"

    def opened(name: str) -> tuple[Any, dict[str, Any]]:
        model, config = open_model(name)
        if "components" in model.method.needs:
            require_folder(options.cache)
        model.cache = options.cache
        return model.to(options.device), config

    plan = make_plan(
        options.root, options.data, options.blind, max_bad_fraction=options.max_bad_fraction
    )
    screen.print(_plan_table(plan))
    if not plan.tasks:
        raise DataError(
            f"{options.root} holds nothing to evaluate on: name another --root, or data with "
            "--data NAME[:SPLIT][@PATH]"
        )
    suite = run_suite(options.models, plan, options.out, opened)
    found = benchmarks(suite)
    paths = write_tables(suite, found, options.out)
    write_page(suite, found, page)
    screen.print(_summary_table(suite, summary(found)))
    screen.print(f"{', '.join(map(str, paths))}\n{page}", soft_wrap=True, highlight=False)
    if suite.failed:
        raise SystemExit(1)


def _plan_table(plan: Any) -> Table:
    from intarsia.evaluation.blind import TEXT_ONLY

    view = Table("protocol", "data", "", title="what will be done")
    for task in plan.tasks:
        view.add_row(task.protocol, f"{task.data} {task.split}", "yes")
    for skip in plan.skipped:
        view.add_row(skip.protocol, skip.data, f"no: {skip.reason}", style="dim")
    if plan.lessons:
        view.caption = f"{TEXT_ONLY}, where texts are told apart: taught on {plan.lessons}"
    return view


def _summary_table(suite: Any, columns: Any) -> Table:
    title = "± half a 95% interval; * differs from the first (paired, Holm, p <= 0.05)"
    view = Table("", "data", title=title)
    for model in suite.rows:
        view.add_column(model, justify="right")
    for column in columns:
        cells = (_cell(column.cells.get(model)) for model in suite.rows)
        view.add_row(str(column), f"{column.benchmark.data} {column.benchmark.split}", *cells)
    return view


def _cell(cell: Any) -> str:
    if cell is None:
        return "-"
    low, high = cell.ci95
    return f"{cell.value:.1f}{'*' if cell.is_different else ''} ± {(high - low) / 2:.1f}"
