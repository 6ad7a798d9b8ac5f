import json

import pytest

from intarsia.cli.suite import evaluate_suite
from intarsia.errors import BackboneError, ConfigError, DataError


def test_one_command_leaves_results_tables_and_page(tmp_path, capsys):
    out = tmp_path / "out"
    given = ["--models", "scenes-clip", "--data", "scenes:test[:3]", "--device", "cpu"]
    evaluate_suite([*given, "--root", str(tmp_path), "--out", str(out)])
    shown = capsys.readouterr().out
    assert "retrieval" in shown and "i2t_r1" in shown and "suite.html" in shown
    data = json.loads((out / "suite.json").read_text())
    assert data["models"] == {"scenes-clip": "scenes-clip"}
    for suffix in ("csv", "tex", "md", "html"):
        assert (out / f"suite.{suffix}").stat().st_size
    assert len(list((out / "results" / "scenes-clip").glob("*.json"))) == 7


def test_mistakes_are_told_before_anything_runs(tmp_path):
    with pytest.raises(ConfigError, match="unknown data set 'scans'"):
        evaluate_suite(["--models", "scenes-clip", "--data", "scans", "--out", str(tmp_path)])
    with pytest.raises(BackboneError, match="unknown backbone 'nowhere'"):
        evaluate_suite(["--models", "nowhere", "--data", "scenes", "--out", str(tmp_path)])
    with pytest.raises(DataError, match="nothing can be asked of svo: there is no folder"):
        evaluate_suite(
            ["--models", "scenes-clip", "--data", "scenes:test[:2]", "svo", "--root", str(tmp_path)]
            + ["--out", str(tmp_path)]
        )
    with pytest.raises(DataError, match="holds nothing to evaluate on"):
        evaluate_suite(
            ["--models", "scenes-clip", "--root", str(tmp_path), "--out", str(tmp_path / "out")]
        )
    assert not list(tmp_path.iterdir())
