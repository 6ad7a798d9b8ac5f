"""The tables of README.md and docs/ are what the result files say."""

import importlib
import json
from pathlib import Path

import pytest

from intarsia.errors import DataError

ROOT = Path(__file__).parent.parent
CARD = "src/intarsia/shipped/mini/README.md"
PAGES = ("README.md", "docs/results.md", "docs/performance.md", CARD)


@pytest.fixture
def pages(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("docs_tables.pages")


@pytest.fixture
def paired(pages):
    return importlib.import_module("docs_tables.paired")


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_what_the_files_say(pages, page):
    text = text_of(page)
    assert pages.used(text)
    assert pages.written(page, text) == text, "run: make docs-tables"


def test_every_table_stands_on_one_page(pages):
    assert pages.PAGES == PAGES
    used = [name for page in PAGES for name in pages.used(text_of(page))]
    assert sorted(used) == sorted(pages.TABLES)


def test_what_is_between_the_marks_is_replaced_and_nothing_else(pages):
    text = "a\n<!-- table: one -->\nold\n<!-- /table -->\nb <!-- table: two --><!-- /table --> c"
    tables = {"one": lambda: "| 1 |\n", "two": lambda: "| 2 |\n"}
    found = pages.written("p.md", text, tables)
    one, two = (
        f"<!-- table: {n} -->\n\n| {i} |\n\n<!-- /table -->"
        for n, i in zip(tables, "12", strict=True)
    )
    assert found == f"a\n{one}\nb {two} c"
    assert pages.written("p.md", found, tables) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: three --><!-- /table -->", "p.md: unknown table 'three': choose from one"),
        ("<!-- table: one -->", "p.md: the mark <!-- table: one --> has no partner"),
        ("<!-- /table -->", "p.md: the mark <!-- /table --> has no partner"),
        ("<!-- table: one --><!-- table: one -->", "p.md: the mark <!-- table: one --> has no"),
    ],
)
def test_marks_that_do_not_fit_are_named(pages, text, message):
    with pytest.raises(DataError, match=message):
        pages.written("p.md", text, {"one": lambda: ""})


def test_kept_rows_are_of_the_present_files(pages, paired):
    tables = [table for table in pages.TABLES.values() if isinstance(table, paired.Paired)]
    assert {table.key for table in tables} == set(paired.kept_rows()), "run: make docs-tables"


@pytest.mark.parametrize("name", ["comalign-epochs", "comalign-directed"])
def test_kept_rows_are_what_comparing_gives(pages, paired, name):
    table = pages.TABLES[name]
    compared = json.loads(json.dumps(table.compared()))
    assert compared == paired.kept_rows()[table.key], "run: make docs-tables"
    assert [row["row"] for row in compared] == list(table.files)


def test_another_outcome_makes_another_table(pages, paired, monkeypatch, tmp_path):
    table = paired.Paired("row", {"a": ["x-{}"], "b": ["y-{}"]}, ["i2t_r1"], seeds=[0])
    for name, source in (("x", "clip"), ("y", "registers")):
        content = json.loads((paired.RESULTS / f"flickr8k_{source}-0.json").read_text())
        content["per_query"]["i2t_r1"] = {"values": [0, 100, 0, 0] if name == "x" else [100] * 4}
        content["metrics"]["i2t_r1"] = {"value": 25.0 if name == "x" else 100.0, "n": 4}
        (tmp_path / f"{name}-0.json").write_text(json.dumps(content))
    monkeypatch.setattr(paired, "RESULTS", tmp_path)
    found = table()
    assert "| b | 100.0 | +75.00 [" in found
    assert found.endswith("\nn = 4 (`i2t_r1`); seed 0; one difference.\n")
    before = table.key
    (tmp_path / "y-0.json").write_bytes((tmp_path / "x-0.json").read_bytes())
    again = paired.Paired("row", table.files, table.metrics, seeds=[0])
    assert again.key != before and "| b | 25.0 | +0.00 [+0.00, +0.00] |" in again()


def test_result_files_are_small():
    size = sum(path.stat().st_size for path in (ROOT / "docs/results").rglob("*") if path.is_file())
    assert size < 5_000_000
