import json

import pytest

from intarsia.data.image_folder import class_names, image_folder
from intarsia.data.order import Part
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


def test_hidden_files_are_no_pictures(root):
    for path in ("n02/._a.png", "n02/.DS_Store", "n02/.ipynb_checkpoints/a-checkpoint.png"):
        file = root / "val" / path
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"hidden")
    problems = Problems(0)
    assert [r.id for r in read(root, problems)] == ["n01/deep/c.jpg", "n02/a.png", "n02/b.JPEG"]
    assert "3 skipped: hidden file" in problems.summary()


def test_pictures_come_in_the_order_of_their_paths_folder_by_folder(tmp_path):
    names = ["2/10.png", "2/9.png", "10/1.png", "2/b/1.png", "2-a/1.png"]
    for name in names:
        (tmp_path / "val" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "val" / name).write_bytes(b"picture")
    ids = [r.id for r in read(tmp_path)]
    assert ids == ["10/1.png", "2/10.png", "2/9.png", "2/b/1.png", "2-a/1.png"]
    for part in (Part(1, 3), Part(-2)):
        wanted = ids[part.start : part.stop]
        assert [r.id for r in image_folder(tmp_path, "val", Problems(), part)] == wanted
