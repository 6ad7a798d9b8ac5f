"""The demo from end to end, small."""

import json

import pytest

from intarsia import demo as demo_module
from intarsia.demo import COLUMNS, METHODS, START, Size, demo


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(demo_module, "FAST", Size(scenes=64, pretraining=2, adapting=1, test=12))
    monkeypatch.setattr(demo_module, "BATCH", 32)


def test_demo_leaves_table_results_and_report(tiny, tmp_path, capsys):
    demo(out=tmp_path, fast=True, pictures=2)
    shown = capsys.readouterr().out
    folder = tmp_path / "fast" / "seed-0"
    page = (folder / "report.html").read_text()
    for name in (START, *METHODS):
        assert name in shown and name in page
        for protocol in ("retrieval", "negatives", "pointing"):
            result = json.loads((folder / "results" / f"{name}_{protocol}.json").read_text())
            assert result["seed"] == 0 and result["metrics"]
    for column in COLUMNS.values():
        assert column.label in page
    trained = (folder / "registers" / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    demo(out=tmp_path, fast=True, pictures=1)
    again = (folder / "registers" / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    assert again == trained
