import json
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from intarsia.cli.common import screen
from intarsia.errors import DataError
from intarsia.evaluation.metrics import Outcomes, summarise
from intarsia.evaluation.result import (
    KEYS,
    PACKAGE,
    make_result,
    read_result,
    revision,
    table,
    versions,
    write_result,
)

OUTCOMES = {
    "i2t_r1": Outcomes.of_hits(np.array([True, False, True, True])),
    "macro": Outcomes(np.array([1.5, 2.0]), np.array([7, 8]), np.array(["swap", "add"])),
}


def write(path, **changes):
    settings = {
        "protocol": "retrieval",
        "split": "dev",
        "metrics": summarise(OUTCOMES),
        "per_query": OUTCOMES,
        "model": "clip",
        "data": "flickr8k",
        "seed": 3,
        "config": {"out": path.parent, "rate": 0.1},
        "keys": {"data": "d", "model": "m", "config": "c", "code": "x"},
    }
    write_result(path, make_result(**{**settings, **changes}))


def test_what_is_written_is_read(tmp_path):
    write(tmp_path / "new" / "result.json")
    result = read_result(tmp_path / "new" / "result.json")
    assert tuple(result) == KEYS
    assert result["n"] == 4
    assert result["metrics"]["i2t_r1"]["value"] == 75.0
    assert result["metrics"]["i2t_r1"]["n"] == 4
    assert len(result["metrics"]["i2t_r1"]["ci95"]) == 2
    hits, macro = result["per_query"]["i2t_r1"], result["per_query"]["macro"]
    assert hits.values.tolist() == [100, 0, 100, 100]
    assert hits.clusters is None and hits.strata is None
    assert macro.values.tolist() == [1.5, 2.0] and macro.clusters.tolist() == [7, 8]
    assert macro.strata.tolist() == ["swap", "add"]
    assert result["keys"] == {"data": "d", "model": "m", "config": "c", "code": "x"}
    assert result["config"] == {"out": str(tmp_path / "new"), "rate": 0.1}
    assert set(result["versions"]) == {
        *("intarsia", "torch", "transformers", "open_clip_torch", "numpy", "python")
    }


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "result.json"
    write(path)
    before = path.read_bytes()
    with pytest.raises(ValueError):
        write(path, config={"rate": float("nan")})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_files_that_are_no_results_are_named(tmp_path):
    with pytest.raises(DataError, match="cannot read the result file .*gone.json"):
        read_result(tmp_path / "gone.json")
    (tmp_path / "text.json").write_text("metrics: 3")
    with pytest.raises(DataError, match="text.json is not a result file: no JSON"):
        read_result(tmp_path / "text.json")
    (tmp_path / "part.json").write_text(json.dumps(dict.fromkeys(KEYS[:-2])))
    with pytest.raises(DataError, match="it lacks versions, revision"):
        read_result(tmp_path / "part.json")


def test_a_file_older_than_keys_and_packed_outcomes_is_read(tmp_path):
    write(tmp_path / "old.json")
    content = json.loads((tmp_path / "old.json").read_text())
    del content["keys"]
    content["per_query"] = {"i2t_r1": {"values": [100, 0], "clusters": ["a", "b"]}}
    (tmp_path / "old.json").write_text(json.dumps(content))
    result = read_result(tmp_path / "old.json")
    outcomes = result["per_query"].pop("i2t_r1")
    assert outcomes.values.tolist() == [100, 0] and outcomes.clusters.tolist() == ["a", "b"]
    named = {"protocol": "retrieval (5 captions)"}  # which did not stand in the name then
    assert result == content | {"keys": {}, "per_query": {}} | named


@pytest.mark.parametrize(
    ("per_query", "message"),
    [
        ([1], "bad.json: per_query is no object of metrics"),
        ({"r1": [1]}, "bad.json: per_query.r1 holds other columns than values, clusters, strata"),
        ({"r1": {"clusters": [1]}}, "bad.json: per_query.r1 holds other columns"),
        ({"r1": {"values": [1], "ranks": [1]}}, "bad.json: per_query.r1 holds other columns"),
        (
            {"r1": {"values": [1, 2], "clusters": [1]}},
            "bad.json: per_query.r1.clusters has 1 entries where values has 2",
        ),
        (
            {"r1": {"values": {"dtype": "i1", "n": 3, "data": "!"}}},
            "bad.json: per_query.r1.values: .*base64",
        ),
    ],
)
def test_outcomes_that_are_none_are_named_by_file_and_field(tmp_path, per_query, message):
    write(tmp_path / "bad.json")
    content = json.loads((tmp_path / "bad.json").read_text())
    (tmp_path / "bad.json").write_text(json.dumps(content | {"per_query": per_query}))
    with pytest.raises(DataError, match=message):
        read_result(tmp_path / "bad.json")


def test_versions_of_a_checkout_that_is_not_installed(monkeypatch, tmp_path):
    def version(name):
        if name == "intarsia":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr("intarsia.evaluation.result.version", version)
    project = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text())["project"]
    assert versions()["intarsia"] == project["version"]
    monkeypatch.setattr("intarsia.evaluation.result.PACKAGE", tmp_path / "lib" / "x" / "intarsia")
    assert versions()["intarsia"] == "not installed"


def test_table_shows_value_and_half_interval(tmp_path):
    a = {"protocol": "retrieval", "data": "flickr8k", "split": "dev", "n": 9, "seed": 0}
    a["counted"] = {"captions": 5000, "cut_captions": 3}
    one = {**a, "model": "clip", "metrics": {"i2t_r1": {"value": 25.14, "ci95": [22, 27]}}}
    two = {**a, "model": "filip", "metrics": {"t2i_r1": {"value": 8.0, "ci95": [7, 9]}}}
    console = Console(width=200, record=True, file=StringIO())
    console.print(table([one, two]))
    text = console.export_text()
    assert "retrieval on flickr8k dev, n = 9" in text
    assert "5,000 captions, 3 cut captions" in text
    rows = {line.split()[1]: line for line in text.splitlines() if "_r1" in line}
    assert rows["i2t_r1"].split()[3:6] == ["25.1", "±", "2.5"] and "-" in rows["i2t_r1"]
    assert rows["t2i_r1"].split()[3] == "-" and "8.0 ± 1.0" in rows["t2i_r1"]


@pytest.fixture
def checkout(tmp_path):
    package = tmp_path / "src" / "package"
    package.mkdir(parents=True)
    (package / "code.py").write_text("x = 1\n")

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    return package, git


def test_revision_of_a_checkout_and_its_changes(checkout):
    package, git = checkout
    head = git("rev-parse", "HEAD")
    assert revision(package) == head
    (package.parent.parent / "notes.txt").write_text("not code")
    assert revision(package) == head
    (package / "new.py").write_text("y = 2\n")
    assert revision(package) == head + "+dirty"


def test_a_package_below_a_foreign_repository_has_no_revision(checkout):
    package, _ = checkout
    installed = package.parent / "site-packages" / "other"
    installed.mkdir(parents=True)
    (installed / "code.py").write_text("x = 1\n")
    assert revision(installed) is None


def test_no_repository_no_revision(tmp_path):
    assert revision(tmp_path) is None


def test_brackets_in_names_are_shown(capsys):
    """As of a folder [red] or a slice, which rich would take for a style."""
    result = {"protocol": "retrieval", "data": "[bold]", "split": "dev[/]", "n": 9, "seed": 0}
    metrics = {"i2t_r1": {"value": 25.14, "ci95": [22, 27]}}
    screen.print(table([{**result, "model": "[red]dog", "metrics": metrics, "counted": {}}]))
    shown = " ".join(capsys.readouterr().out.split())
    assert "retrieval on [bold] dev[/], n = 9" in shown and "[red]dog" in shown
