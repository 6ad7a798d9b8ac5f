from pathlib import Path

import pytest

from intarsia.data import layouts
from intarsia.data.layouts import LAYOUTS, PAPER, Expected, check
from intarsia.data.readers import GENERATED, OWN_FILES, READERS
from intarsia.errors import ConfigError
from intarsia.evaluation.compositional import COMPOSITIONAL
from intarsia.evaluation.compositional_fgovd import FILES


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = (
        Expected("train/*.jpg", "pictures.zip", count=2, or_in="images"),
        Expected("labels.json", "labels.zip", size=4),
        Expected("image_data.json", "data.zip", least=3),
        Expected("more.json", "more.zip", optional=True),
    )
    monkeypatch.setitem(layouts.LAYOUTS, "toy", expected)


def put(path: Path, text: str = "x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def states(root: Path) -> list[str]:
    return [finding.state for finding in check("toy", root)]


@pytest.mark.usefixtures("toy")
def test_an_empty_folder_lacks_everything_and_only_the_optional_may_lack(tmp_path: Path) -> None:
    findings = check("toy", tmp_path)
    assert {finding.state for finding in findings} == {"missing"}
    assert [finding.ok for finding in findings] == [False, False, False, True]


@pytest.mark.usefixtures("toy")
def test_files_are_found_by_size_lower_bound_and_count(tmp_path: Path) -> None:
    put(tmp_path / "train" / "1.jpg")
    put(tmp_path / "labels.json", "123")
    put(tmp_path / "image_data.json", "12")
    put(tmp_path / "more.json", "")
    assert states(tmp_path) == ["incomplete", "wrong size", "wrong size", "wrong size"]
    assert not any(finding.ok for finding in check("toy", tmp_path))
    put(tmp_path / "train" / "2.jpg")
    put(tmp_path / "labels.json", "1234")
    put(tmp_path / "image_data.json", "12345")
    put(tmp_path / "more.json")
    assert states(tmp_path) == ["found"] * 4


@pytest.mark.usefixtures("toy")
def test_pictures_may_lie_in_another_folder(tmp_path: Path) -> None:
    for name in "12":
        put(tmp_path / "images" / "train" / f"{name}.jpg")
    finding = check("toy", tmp_path)[0]
    assert (finding.state, finding.detail) == ("found", "2 of 2 files")


def test_every_reader_of_a_published_data_set_has_a_layout() -> None:
    assert set(READERS) - {*OWN_FILES, *GENERATED} | {"image_folder"} <= set(LAYOUTS)
    assert set(PAPER) | set(COMPOSITIONAL) <= set(LAYOUTS)
    assert {item.path for item in LAYOUTS["fg-ovd"]} == set(FILES.values())


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_ask_for_what_can_be(name: str, tmp_path: Path) -> None:
    for expected in LAYOUTS[name]:
        assert name in OWN_FILES or expected.path == "classes.*" or "http" in expected.source
        single = "*" not in expected.path
        assert (expected.size is None and expected.least == 1) or single
        path = tmp_path / expected.path.replace("*", "1")
        put(path)
        assert expected.files(tmp_path) == [path]


def test_an_image_folder_is_folders_of_folders_of_pictures(tmp_path: Path) -> None:
    put(tmp_path / "1.jpg")
    put(tmp_path / "cat" / "1.jpg")
    pictures, names = check("image_folder", tmp_path)
    assert pictures.state == "missing" and "SPLIT/CLASS/PICTURE" in pictures.source
    assert names.ok and "classes.json" in names.source
    for name in ("cat", "dog"):
        put(tmp_path / "val" / name / "1.jpg")
    assert all(finding.ok for finding in check("image_folder", tmp_path))


def test_unknown_names_fail_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'cocoo': choose from aro, coco"):
        check("cocoo", tmp_path)


@pytest.mark.usefixtures("toy")
def test_hidden_files_are_no_pictures(tmp_path: Path) -> None:
    for name in ("1.jpg", "._1.jpg", "._2.jpg"):
        put(tmp_path / "train" / name)
    finding = check("toy", tmp_path)[0]
    assert (finding.state, finding.detail) == ("incomplete", "1 of 2 files")
