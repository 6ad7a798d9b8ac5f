import csv
import json
from dataclasses import replace
from io import StringIO

import pytest

from intarsia.evaluation.blind import TEXT_ONLY
from intarsia.evaluation.compare import compare
from intarsia.evaluation.metrics import holm
from intarsia.suite.tables import (
    as_csv,
    as_latex,
    as_markdown,
    benchmarks,
    best,
    summary,
    write_tables,
)


@pytest.fixture(scope="module")
def found(suite):
    return benchmarks(suite)


def test_every_figure_is_the_result_files(suite, suite_folder, found):
    (path, *_) = write_tables(suite, found, suite_folder)
    data = json.loads(path.read_text())
    assert data["reference"] == "clip" and len(data["benchmarks"]) == len(suite.results)
    rows = {
        (row["protocol"], row["metric"], row["model"]): row
        for row in csv.DictReader(StringIO(as_csv(found)))
    }
    count = 0
    for task, benchmark in zip(suite.results, data["benchmarks"], strict=True):
        for model, result in suite.results[task].items():
            for metric, expected in result["metrics"].items():
                cell = benchmark["cells"][metric][model]
                row = rows[result["protocol"], metric, model]
                assert cell["value"] == expected["value"] == float(row["value"])
                assert cell["ci95"] == list(expected["ci95"])
                assert [float(row["ci95_low"]), float(row["ci95_high"])] == cell["ci95"]
                assert cell["n"] == expected["n"] == int(row["n"])
                count += 1
    assert count == len(rows)


def test_differences_are_paired_and_corrected_in_their_table(suite, found):
    for task, benchmark in zip(suite.results, found, strict=True):
        results = suite.results[task]
        raw = {}
        for model in ("filip", "registers"):
            for metric, gap in compare(results[model], results["clip"]).items():
                if not metric.endswith("chance"):
                    assert benchmark.cells[metric][model].difference == gap
                    raw[f"{metric} {model}"] = gap.p
        corrected = {
            f"{metric} {model}": cell.p_holm
            for metric, cells in benchmark.cells.items()
            for model, cell in cells.items()
            if cell.p_holm is not None
        }
        assert corrected == holm(raw)
        assert all(cells["clip"].difference is None for cells in benchmark.cells.values())


def test_the_summary_is_a_family_of_its_own(found):
    columns = summary(found)
    assert [column.metric for column in columns][:2] == ["i2t_r1", "t2i_r1"]
    raw = {
        f"{i} {model}": cell.difference.p
        for i, column in enumerate(columns)
        for model, cell in column.cells.items()
        if cell.difference
    }
    adjusted = holm(raw)
    assert all(
        column.cells[model].p_holm == adjusted[f"{i} {model}"]
        for i, column in enumerate(columns)
        for model in ("filip", "registers")
    )


def test_variants_of_a_protocol_are_not_compared(suite):
    task = next(iter(suite.results))
    results = suite.results[task]
    other = results["registers"] | {"protocol": "retrieval (row-max)"}
    mixed = replace(suite, results={task: results | {"registers": other}})
    plain, apart = benchmarks(mixed)
    assert list(plain.cells["i2t_r1"]) == ["clip", "filip"]
    assert apart.protocol == "retrieval (row-max)"
    assert apart.cells["i2t_r1"]["registers"].difference is None
    assert apart.headlines == ["i2t_r1", "t2i_r1"]


def test_the_best_is_the_least_rank_and_nobody_wins_at_chance(found):
    cells = found[0].cells["i2t_median_rank"]
    lowest = min(cell.value for cell in cells.values())
    assert best("i2t_median_rank", cells) == {m for m, c in cells.items() if c.value == lowest}
    assert best("pointing_chance", cells) == set()
    assert best("i2t_r1", {"clip": cells["clip"]}) == set()
    assert best("bound", dict.fromkeys(("clip", "filip"), cells["clip"])) == set()


def test_latex_and_markdown_show_value_interval_and_mark(found):
    cell = found[0].cells["i2t_r1"]["filip"]
    sure = replace(cell, value=12.34, ci95=(10.06, 15.0), p_holm=0.05)
    rows = {"clip": replace(sure, p_holm=None), "filip": replace(sure, value=20.0)}
    table = [replace(found[0], data="my_data", cells={"i2t_r1": rows})]
    assert "| i2t_r1 | 12.3 [10.1, 15.0] | **20.0*** [10.1, 15.0] | – |" in as_markdown(
        table, ["clip", "filip", "other"]
    )
    latex = as_latex(table, ["clip", "filip", "other"])
    assert (
        r"i2t\_r1 & 12.3 {\scriptsize [10.1, 15.0]} & "
        r"\textbf{20.0}$^{*}$ {\scriptsize [10.1, 15.0]} & -- \\"
    ) in latex
    assert r"\begin{tabular}{lrrr}" in latex and r"my\_data" in latex
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert latex.count(rule) == 1


def test_text_only_is_shown_in_every_table_and_compared_in_none(blind_suite, tmp_path):
    found = benchmarks(blind_suite)
    (path, *others) = write_tables(blind_suite, found, tmp_path)
    data = json.loads(path.read_text())
    assert data["models"][TEXT_ONLY] == "captions of scenes train[:300]"
    retrieval, negatives = found
    assert not any(TEXT_ONLY in cells for cells in retrieval.cells.values())
    for cells in negatives.cells.values():
        assert cells[TEXT_ONLY].difference is cells[TEXT_ONLY].p_holm is None
        assert cells["filip"].difference is not None
    rows, tex, markdown = (other.read_text() for other in others)
    shown = [row for row in csv.DictReader(StringIO(rows)) if row["model"] == TEXT_ONLY]
    assert {row["protocol"] for row in shown} == {"negatives"}
    assert all(row["value"] and not row["p_holm"] for row in shown)
    assert markdown.count(f"| {TEXT_ONLY} |") == tex.count(f"& {TEXT_ONLY} \\\\") == 2
    assert "captions of scenes train[:300]" in markdown and "scenes train[:300]" in tex
    assert "– |" in markdown  # retrieval


def test_text_only_changes_nobody_elses_corrections(suite, blind_suite):
    plain = {str(benchmark): benchmark for benchmark in benchmarks(suite)}
    for benchmark in benchmarks(blind_suite):
        for metric, cells in plain[str(benchmark)].cells.items():
            with_text = benchmark.cells[metric]
            assert {m: with_text[m] for m in cells} == cells
            assert best(metric, with_text) == best(metric, cells)


def test_the_best_of_all_is_not_the_one_that_sees_nothing(found):
    cells = found[0].cells["i2t_r1"]
    high = {TEXT_ONLY: replace(cells["clip"], value=99.0), "clip": cells["clip"]}
    other = replace(cells["clip"], value=cells["clip"].value + 1)
    assert best("i2t_r1", high) == set()
    assert best("i2t_r1", high | {"filip": other}) == {"filip"}
