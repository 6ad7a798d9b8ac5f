import json
from pathlib import Path

import pytest

from intarsia.data import json_stream
from intarsia.data.json_stream import elements, first_field
from intarsia.errors import DataError

CONTENT = {
    "info": {"images": "not these", "text": 'a "quoted" } ] , : text'},
    "licenses": [{"id": 12, "url": None}, {}],
    "count": 12345678,
    "images": [{"id": n, "file_name": f"{n:012}.jpg"} for n in range(40)],
    "annotations": [[1.5, True], {"images": []}],
}


@pytest.fixture(params=[3, 64, 1 << 20])
def _characters(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "CHARACTERS", request.param)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.usefixtures("_characters")
@pytest.mark.parametrize("indent", [None, 3])
def test_a_field_is_found_wherever_it_stands(tmp_path: Path, indent: int | None) -> None:
    path = write(tmp_path, json.dumps(CONTENT, indent=indent))
    for name, value in CONTENT.items():
        assert first_field(path, name) == value
    assert first_field(path, "categories") is None
    assert first_field(write(tmp_path, "{}"), "images") is None


@pytest.mark.usefixtures("_characters")
def test_what_follows_the_field_is_not_looked_at(tmp_path: Path) -> None:
    whole = json.dumps(CONTENT)
    cut = write(tmp_path, whole[: whole.index('"annotations"') + 14])
    assert first_field(cut, "images") == CONTENT["images"]
    with pytest.raises(DataError, match=r"a\.json: not a JSON object, or cut off"):
        first_field(cut, "annotations")


@pytest.mark.parametrize("text", ["", "[1]", '{"images" 1}'])
def test_what_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"a\.json: not a JSON object, or cut off"):
        first_field(write(tmp_path, text), "images")


@pytest.mark.usefixtures("_characters")
def test_elements_come_one_by_one(tmp_path: Path) -> None:
    path = write(tmp_path, "\n" + json.dumps(CONTENT["images"], indent=1))
    assert list(elements(path)) == CONTENT["images"]
