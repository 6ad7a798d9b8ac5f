"""One HTML file with everything: tables to sort, plots, and failures to look through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intarsia.evaluation.blind import TEXT_ONLY
from intarsia.evaluation.result import PACKAGE, revision, versions
from intarsia.report import NUM_SERIES, environment
from intarsia.runtime import atomic
from intarsia.suite.failures import Data
from intarsia.suite.plots import forest, radar
from intarsia.suite.run import Suite
from intarsia.suite.tables import (
    Benchmark,
    Cell,
    Headline,
    best,
    is_lower_better,
    summary,
    texts,
)


@dataclass(frozen=True)
class Entry:
    """A cell of a table, and its interval in percent of the column's scale."""

    cell: Cell
    value: str
    interval: str
    is_best: bool
    start: float
    width: float
    point: float


@dataclass(frozen=True)
class Column:
    """One metric of a table; ``heading`` and, smaller, ``subheading``."""

    heading: str
    subheading: str
    is_lower_better: bool
    entries: dict[str, Entry]


@dataclass(frozen=True)
class Section:
    """A benchmark: its table, its failures by group."""

    benchmark: Benchmark
    columns: list[Column]
    failures: list[Data] | None


def write_page(suite: Suite, found: Sequence[Benchmark], path: Path) -> None:
    """Write the page, whole or not at all; it needs no other file and no network."""
    series = {model: i % NUM_SERIES for i, model in enumerate(suite.models)}
    columns = summary(found)
    failures = {str(task): cases for task, cases in suite.failures.items()}
    page = (
        environment()
        .get_template("suite.html.j2")
        .render(
            models=suite.models,
            rows=suite.rows,
            text_only=TEXT_ONLY,
            series={**series, TEXT_ONLY: "text"},
            inspected=suite.inspected,
            summary=[_summary_column(column) for column in columns],
            radar=radar(columns, series),
            forest=forest(columns),
            sections=[
                Section(benchmark, _columns(benchmark), failures.pop(benchmark.task, None))
                for benchmark in found
            ],
            skipped=suite.plan.skipped,
            failed=suite.failed,
            facts=_facts(suite),
        )
    )
    with atomic(path) as draft:
        draft.write_text(page, encoding="utf-8")


def _columns(benchmark: Benchmark) -> list[Column]:
    return [
        Column(metric, "", is_lower_better(metric), _entries(metric, cells))
        for metric, cells in benchmark.cells.items()
    ]


def _summary_column(column: Headline) -> Column:
    benchmark = column.benchmark
    return Column(
        str(column),
        f"{benchmark.data} {benchmark.split}",
        is_lower_better(column.metric),
        _entries(column.metric, column.cells),
    )


def _entries(metric: str, cells: Mapping[str, Cell]) -> dict[str, Entry]:
    top = max(cell.ci95[1] for cell in cells.values()) or 1.0
    first = best(metric, cells)
    return {model: _entry(cell, model in first, 100 / top) for model, cell in cells.items()}


def _entry(cell: Cell, is_best: bool, scale: float) -> Entry:
    low, high = (scale * end for end in cell.ci95)
    return Entry(cell, *texts(cell), is_best, low, high - low, scale * cell.value)


def _facts(suite: Suite) -> dict[str, Any]:
    keys = {model: found["model"] for model, found in suite.keys.items()}
    if suite.plan.lessons and TEXT_ONLY in suite.rows:
        keys[TEXT_ONLY] = suite.plan.lessons.key
    return {
        "models": ", ".join(suite.models.values()),
        "data": ", ".join(dict.fromkeys(f"{task.data} {task.split}" for task in suite.plan.tasks)),
        "fingerprints": ", ".join(f"{model} {key}" for model, key in keys.items()),
        "versions": ", ".join(f"{name} {number}" for name, number in versions().items()),
        "revision": revision(PACKAGE) or "not a checkout",
    }
