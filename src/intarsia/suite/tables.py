"""Tables of a suite: JSON, CSV, LaTeX and Markdown, with intervals and corrected differences.

Each model is compared with the first one, query by query. ``p_holm`` is corrected for all the
comparisons of its benchmark (metrics x models), in the summary for all those of the summary. The
text-only judge has cells like a model's, but is never compared and never the best.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

from intarsia.errors import DataError
from intarsia.evaluation.blind import TEXT_ONLY, TaughtOn
from intarsia.evaluation.compare import compare
from intarsia.evaluation.metrics import Difference, holm
from intarsia.runtime import atomic
from intarsia.suite.run import Result, Suite

T = TypeVar("T")
LEVEL = 0.05
HEADLINES = {
    "retrieval": ("i2t_r1", "t2i_r1"),
    "negatives": ("macro",),
    "swaps": ("macro",),
    "pointing": ("pointing",),
    "aro": ("relation_macro", "attribution_macro"),
    "svo": ("all",),
    "sugarcrepe": ("micro",),
    "winoground": ("text", "image", "group"),
    "fg-ovd": ("hard", "easy"),
    "grounding": ("r1",),
    "region-retrieval": ("r1",),
    "boxes-clipself-roi": ("thing_top1", "stuff_top1"),
}
"""What the summary shows of a protocol; of others, the first metric."""


@dataclass(frozen=True)
class Cell:
    """A metric of a model, and how it differs from the first model's."""

    value: float
    ci95: tuple[float, float]
    n: int
    difference: Difference | None = None
    p_holm: float | None = None

    @property
    def is_different(self) -> bool:
        return self.p_holm is not None and self.p_holm <= LEVEL


@dataclass(frozen=True)
class Benchmark:
    """One protocol on one data set: ``cells[metric][model]``.

    ``taught_on`` says what the text-only judge has read, if it is among the models.
    """

    task: str
    protocol: str
    data: str
    split: str
    n: int
    cells: dict[str, dict[str, Cell]]
    taught_on: str = ""

    def __str__(self) -> str:
        return f"{self.protocol} on {self.data} {self.split}"

    @property
    def blind_note(self) -> str:
        if not self.taught_on:
            return ""
        return (
            f"{TEXT_ONLY.capitalize()}: a language model that sees no picture, taught on "
            f"{self.taught_on}; it is neither compared nor called best."
        )

    @property
    def headlines(self) -> list[str]:
        wanted = HEADLINES.get(self.protocol.partition(" (")[0], ())
        return [name for name in wanted if name in self.cells] or list(self.cells)[:1]


@dataclass(frozen=True)
class Headline:
    """One column of the summary."""

    benchmark: Benchmark
    metric: str
    cells: dict[str, Cell]

    def __str__(self) -> str:
        protocol = self.benchmark.protocol
        is_both = protocol.partition(" (")[0] == self.metric  # as "pointing (mentions)"
        return protocol if is_both else f"{protocol} {self.metric}"


def benchmarks(suite: Suite) -> list[Benchmark]:
    """What at least one model has a result of, in the plan's order.

    Variants of a protocol are not compared: each has a table of its own.
    """
    models = list(suite.models)
    found = []
    for task in suite.plan.tasks:
        results = suite.results.get(task, {})
        for protocol in dict.fromkeys(result["protocol"] for result in results.values()):
            same = {m: result for m, result in results.items() if result["protocol"] == protocol}
            found.append(_benchmark(str(task), same, models))
    return found


def summary(found: Sequence[Benchmark]) -> list[Headline]:
    """The headline metrics of all benchmarks, corrected together."""
    columns = [
        Headline(benchmark, metric, benchmark.cells[metric])
        for benchmark in found
        for metric in benchmark.headlines
    ]
    corrected = _corrected([column.cells for column in columns])
    return [replace(column, cells=cells) for column, cells in zip(columns, corrected, strict=True)]


def is_lower_better(metric: str) -> bool:
    return metric.endswith("rank")


def is_chance(metric: str) -> bool:
    """What guessing scores is nobody's merit."""
    return metric.endswith("chance")


def best(metric: str, cells: Mapping[str, Cell]) -> set[str]:
    """The models with the best value; none of chance, or where no model is worse."""
    values = {model: cell.value for model, cell in seeing(cells).items()}
    if is_chance(metric) or len(set(values.values())) < 2:
        return set()
    limit = (min if is_lower_better(metric) else max)(values.values())
    return {model for model, value in values.items() if value == limit}


def seeing(by_model: Mapping[str, T]) -> dict[str, T]:
    """Of those models that look at the pictures."""
    return {model: item for model, item in by_model.items() if model != TEXT_ONLY}


def write_tables(suite: Suite, found: Sequence[Benchmark], out: Path) -> list[Path]:
    """``suite.json``, ``.csv``, ``.tex`` and ``.md`` in ``out``; their paths."""
    models = list(suite.rows)
    texts = {
        "json": json.dumps(as_data(suite, found), indent=1, default=str, allow_nan=False) + "\n",
        "csv": as_csv(found),
        "tex": as_latex(found, models),
        "md": as_markdown(found, models),
    }
    paths = [out / f"suite.{suffix}" for suffix in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        with atomic(path) as draft:
            draft.write_text(text, encoding="utf-8")
    return paths


def as_data(suite: Suite, found: Sequence[Benchmark]) -> dict[str, Any]:
    return {
        "models": suite.rows,
        "reference": next(iter(suite.models)),
        "benchmarks": [asdict(benchmark) for benchmark in found],
        "summary": [
            {"benchmark": str(item.benchmark), "metric": item.metric}
            | {"cells": {model: asdict(cell) for model, cell in item.cells.items()}}
            for item in summary(found)
        ],
        "skipped": [asdict(skip) for skip in suite.plan.skipped],
        "failed": [asdict(failed) for failed in suite.failed],
    }


COLUMNS = (
    *("protocol", "data", "split", "metric", "model", "value", "ci95_low", "ci95_high", "n"),
    *("difference", "difference_ci95_low", "difference_ci95_high", "p", "p_holm"),
)


def as_csv(found: Sequence[Benchmark]) -> str:
    """One row a metric and model; the difference is to the first model."""
    target = StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(COLUMNS)
    for benchmark, metric, cells in _rows(found):
        for model, cell in cells.items():
            gap = cell.difference
            compared = (gap.value, *gap.ci95, gap.p, cell.p_holm) if gap else ("",) * 5
            where = benchmark.protocol, benchmark.data, benchmark.split
            writer.writerow((*where, metric, model, cell.value, *cell.ci95, cell.n, *compared))
    return target.getvalue()


def as_markdown(found: Sequence[Benchmark], models: Sequence[str]) -> str:
    lines = [f"Reference: {models[0]}. {NOTE}", ""]
    for benchmark in found:
        lines += [f"### {benchmark}, n = {benchmark.n:,}", ""]
        lines.append("| metric | " + " | ".join(models) + " |")
        lines.append("|---|" + "---:|" * len(models))
        for metric, cells in benchmark.cells.items():
            first = best(metric, cells)
            row = [_markdown_cell(cells.get(model), model in first) for model in models]
            lines.append(f"| {metric} | " + " | ".join(row) + " |")
        lines.append("")
        if benchmark.taught_on:
            lines += [benchmark.blind_note, ""]
    return "\n".join(lines)


NOTE = (
    "In brackets: bootstrap 95% intervals. Bold: the best of its row. *: differs from the "
    "reference, p <= 0.05 of a paired randomisation test after Holm's correction for all "
    "comparisons of the table."
)


def _markdown_cell(cell: Cell | None, is_best: bool) -> str:
    if cell is None:
        return "–"
    value, interval = texts(cell)
    return f"{f'**{value}**' if is_best else value}{'*' * cell.is_different} [{interval}]"


def as_latex(found: Sequence[Benchmark], models: Sequence[str]) -> str:
    """A ``table`` a benchmark; needs the packages booktabs and amsmath."""
    return "\n".join(_latex_table(benchmark, models) for benchmark in found)


def _latex_table(benchmark: Benchmark, models: Sequence[str]) -> str:
    rows = []
    for metric, cells in benchmark.cells.items():
        first = best(metric, cells)
        row = [_latex_cell(cells.get(model), model in first) for model in models]
        rows.append(" & ".join([_escaped(metric), *row]) + r" \\")
    caption = f"{_escaped(str(benchmark))}, $n = {benchmark.n}$. {_escaped(_LATEX_NOTE)}"
    reference = " ".join(filter(None, (f"Reference: {models[0]}.", benchmark.blind_note)))
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"\centering\small",
            rf"\caption{{{caption} {_escaped(reference)}}}",
            rf"\begin{{tabular}}{{l{'r' * len(models)}}}",
            r"\toprule",
            " & ".join(["metric", *map(_escaped, models)]) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


_LATEX_NOTE = NOTE.replace("<=", "at most")


def _latex_cell(cell: Cell | None, is_best: bool) -> str:
    if cell is None:
        return "--"
    value, interval = texts(cell)
    shown = rf"\textbf{{{value}}}" if is_best else value
    return rf"{shown}{'$^{*}$' if cell.is_different else ''} {{\scriptsize [{interval}]}}"


def _escaped(text: str) -> str:
    r"""
    >>> print(_escaped("i2t_r1 & 5%"))
    i2t\_r1 \& 5\%
    """
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(signs.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def texts(cell: Cell) -> tuple[str, str]:
    """The value and its interval, one decimal each."""
    low, high = cell.ci95
    return f"{cell.value:.1f}", f"{low:.1f}, {high:.1f}"


def _rows(found: Sequence[Benchmark]) -> Iterator[tuple[Benchmark, str, dict[str, Cell]]]:
    for benchmark in found:
        for metric, cells in benchmark.cells.items():
            yield benchmark, metric, cells


def _benchmark(task: str, results: Mapping[str, Result], models: Sequence[str]) -> Benchmark:
    some = next(iter(results.values()))
    rivals = seeing(results)
    gaps = {
        model: _differences(result, results[models[0]])
        for model, result in rivals.items()
        if model != models[0] and models[0] in results
    }
    metrics = list(dict.fromkeys(name for result in results.values() for name in result["metrics"]))
    cells = [
        {
            model: _cell(result["metrics"][metric], gaps.get(model, {}).get(metric))
            for model, result in results.items()
            if metric in result["metrics"]
        }
        for metric in metrics
    ]
    return Benchmark(
        task,
        some["protocol"],
        some["data"],
        some["split"],
        max(result["n"] for result in (rivals or results).values()),
        dict(zip(metrics, _corrected(cells), strict=True)),
        _taught_on(results),
    )


def _taught_on(results: Mapping[str, Result]) -> str:
    if TEXT_ONLY not in results:
        return ""
    return str(TaughtOn(**results[TEXT_ONLY]["config"]["taught_on"]))


def _differences(result: Result, reference: Result) -> dict[str, Difference]:
    """To the reference; none where the two did not answer the same questions."""
    try:
        gaps = compare(result, reference)
    except DataError:
        return {}
    return {metric: gap for metric, gap in gaps.items() if not is_chance(metric)}


def _cell(metric: Mapping[str, Any], gap: Difference | None) -> Cell:
    low, high = metric["ci95"]
    return Cell(metric["value"], (low, high), metric["n"], gap)


def _corrected(rows: Sequence[dict[str, Cell]]) -> list[dict[str, Cell]]:
    """The same cells with ``p_holm``: all their differences are one family."""
    raw = {
        f"{row} {model}": cell.difference.p
        for row, cells in enumerate(rows)
        for model, cell in cells.items()
        if cell.difference is not None
    }
    adjusted = holm(raw)
    return [
        {
            model: replace(cell, p_holm=adjusted.get(f"{row} {model}"))
            for model, cell in cells.items()
        }
        for row, cells in enumerate(rows)
    ]
