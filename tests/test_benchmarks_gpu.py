"""The GPU's benchmark: without a GPU it says so, and its tiny cases run on a CPU."""

import json
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
KEYS = {
    *("section", "name", "shape", "ours_s", "baseline", "baseline_s", "ratio", "limit", "limit_s"),
    *("limit_ratio", "peak_bytes", "baseline_peak_bytes", "rounds", "machine"),
}


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import gpu

    return gpu


def test_without_a_gpu_one_sentence_and_no_file(gpu, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "CUDA" in said
    assert not any(tmp_path.iterdir())


def test_tiny_cases_of_every_section_give_whole_rows(gpu, tmp_path):
    rows = gpu.run(gpu.sections("cpu", tiny=True), tmp_path, limit=600, tiny=True)
    assert {row["section"] for row in rows} == {"correctness", *gpu.gpu_cases.CASES}
    assert all(row.keys() >= KEYS for row in rows)
    assert not [row["note"] for row in rows if "note" in row]
    assert [row for row in rows if "target" in row]
    assert not [row["name"] for row in rows if gpu.failed(row)]
    assert set(json.loads((tmp_path / "gpu_profile.json").read_text())) == set(gpu.PROFILED)


def test_sections_that_are_not_asked_for_stay(gpu, tmp_path):
    jobs = gpu.sections("cpu", tiny=True)
    gpu.run({"matching": jobs["matching"][:1]}, tmp_path, limit=600, tiny=True)
    gpu.run({"correctness": jobs["correctness"][:1]}, tmp_path, limit=600, tiny=True)
    rows = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["section"] for row in rows] == 2 * ["matching"] + 2 * ["correctness"]


def test_what_the_time_does_not_allow_is_said_to_be_skipped(gpu, tmp_path):
    jobs = gpu.sections("cpu", tiny=True)
    (row,) = gpu.run({"matching": jobs["matching"][:1]}, tmp_path, limit=0, tiny=True)
    assert row["note"].startswith("skipped") and row["ours_s"] is None


def test_a_baseline_that_runs_out_of_memory_has_a_row(gpu):
    from benchmarks.harness import Case, Runs

    def out_of_memory():
        raise torch.OutOfMemoryError("too much")

    def build(device: str) -> Runs:
        return Runs(lambda: None, {"plain": out_of_memory, "other": lambda: None})

    case = Case("case", build, {}, targets={"plain": {"ratio": ">= 1"}, "other": {"ratio": ">= 0"}})
    other, plain = gpu.timed(case, "cpu")
    assert plain["note"] == "out of memory" and plain["met"] is None
    assert other["met"] and other["ours_s"] == plain["ours_s"]


@pytest.mark.parametrize(
    ("value", "wanted", "met"),
    [(2.0, "<= 2.0", True), (2.1, "<= 2.0", False), (3.0, ">= 3", True), (None, ">= 3", None)],
)
def test_reached(gpu, value, wanted, met):
    assert gpu.reached(value, wanted) is met
