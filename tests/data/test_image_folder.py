import json

import pytest

from intarsia.data.image_folder import class_names, image_folder
from intarsia.data.problems import Problems
from intarsia.errors import ConfigError, DataError


@pytest.fixture
def root(tmp_path):
    for path in ("n02/b.JPEG", "n02/a.png", "n01/deep/c.jpg", "n01/notes.txt"):
        file = tmp_path / "val" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"picture")
    (tmp_path / "val" / ".cache").mkdir()
    return tmp_path


def read(root, problems=None):
    return list(image_folder(root, "val", Problems() if problems is None else problems))


def test_a_record_a_picture_whose_caption_is_its_class(root):
    problems = Problems()
    records = read(root, problems)
    assert [(r.id, r.captions) for r in records] == [
        ("n01/deep/c.jpg", ("n01",)),
        ("n02/a.png", ("n02",)),
        ("n02/b.JPEG", ("n02",)),
    ]
    assert records[0].image == root / "val" / "n01" / "deep" / "c.jpg"
    assert "1 skipped: file that is no picture" in problems.summary()
    assert class_names(root, "val") == ("n01", "n02")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("classes.json", json.dumps({"n03": "ray", "n02": "great white shark", "n01": "tench"})),
        ("classes.txt", "n01 tench\n\nn02  great white shark\r\nn03 ray\n"),
    ],
)
def test_names_come_from_a_file(root, file, content):
    (root / file).write_text(content)
    assert class_names(root, "val") == ("tench", "great white shark")
    assert {r.captions for r in read(root)} == {("tench",), ("great white shark",)}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("classes.json", '["tench"]', "classes.json: must be an object of names by folder"),
        ("classes.json", '{"n01": 3, "n02": "x"}', "classes.json: must be an object of names"),
        ("classes.json", '{"n01": "tench"}', "no name for 1 of the 2 classes of val, .* 'n02'"),
        ("classes.json", '{"n01": "tench", "n02": " "}', "no name for 1 of the 2 classes"),
        ("classes.txt", "n01 tench\nn02\n", "classes.txt:2: 'n02' is not a folder and the name"),
        ("classes.txt", "n01 crane\nn02 crane", "'n01' and 'n02' are both named 'crane'"),
    ],
)
def test_bad_names_are_told(root, file, content, message):
    (root / file).write_text(content)
    with pytest.raises(DataError, match=message):
        read(root)


def test_an_empty_class_is_a_bad_record(root):
    (root / "val" / "n03").mkdir()
    with pytest.raises(DataError, match="n03: class: no picture in it"):
        read(root)
    problems = Problems(0.5)
    assert len(read(root, problems)) == 3 and len(problems) == 1
    assert class_names(root, "val") == ("n01", "n02", "n03")


def test_missing_folders_are_told(root):
    with pytest.raises(ConfigError, match="unknown split of an image folder 'test': .* val"):
        list(image_folder(root, "test", Problems()))
    with pytest.raises(DataError, match="nowhere: no such folder"):
        class_names(root / "nowhere", "val")
    (root / "test").mkdir()
    with pytest.raises(DataError, match="test: no folder of a class is in it"):
        class_names(root, "test")
