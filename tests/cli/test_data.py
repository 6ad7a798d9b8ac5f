"""`intarsia data check` as a user types it."""

import json
from pathlib import Path

import pytest

from intarsia.cli import main


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """SugarCrepe is whole, RefCOCO has one file."""
    for kind in ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel"):
        put(tmp_path / "sugarcrepe" / f"{kind}.json")
    for kind in ("swap_att", "swap_obj"):
        put(tmp_path / "sugarcrepe" / f"{kind}.json")
    put(tmp_path / "refcoco" / "refs(unc).json")
    return tmp_path


def put(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")


def test_what_is_whole_passes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(f"data check sugarcrepe --root {root}".split())
    out = capsys.readouterr().out
    assert "swap_obj.json" in out and "7 of 7 in order" in out and "http" not in out


def test_what_is_missing_is_named_with_its_source(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = root / "findings.json"
    with pytest.raises(SystemExit) as stop:
        main(f"data check sugarcrepe refcoco --root {root} --json {file}".split())
    assert stop.value.code == 1
    out = capsys.readouterr().out
    assert "8 of 10 in order" in out and "2. http://images.cocodataset.org/zips/train2014" in out
    findings = {finding["path"]: finding for finding in json.loads(file.read_text())["findings"]}
    assert findings["refs(unc).json"]["ok"] and not findings["instances.json"]["ok"]
    assert findings["train2014/*.jpg"]["state"] == "missing"


def test_the_layout_of_ones_own_pictures_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(f"data check image_folder --root {tmp_path}".split())
    out = capsys.readouterr().out
    assert "SPLIT/CLASS/PICTURE, as val/cat/1.jpg" in out and "1 of 2 in order" in out
    for name in ("cat", "dog"):
        (tmp_path / "val" / name).mkdir(parents=True)
        (tmp_path / "val" / name / "1.jpg").touch()
    main(f"data check image_folder --root {tmp_path}".split())
    assert "2 of 2 in order" in capsys.readouterr().out


def test_without_names_the_paper_is_checked_in_the_data_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INTARSIA_DATA", str(tmp_path))
    with pytest.raises(SystemExit):
        main(["data", "check"])
    out = capsys.readouterr().out
    assert "visual_genome" in out and "svo" in out and "refcoco" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("data chekc", "unknown verb of data 'chekc': choose from check"),
        ("data check imagesnet", "unknown data set 'imagesnet': choose from aro"),
    ],
)
def test_mistakes_are_one_clear_line(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments.split())
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
