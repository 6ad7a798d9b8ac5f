import json
from pathlib import Path

import pytest

from intarsia.data.files import table_file
from intarsia.data.problems import Problems
from intarsia.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inner = tmp_path / "data"
    (inner / "img").mkdir(parents=True)
    for name in ("img/a.jpg", "img/b.jpg", "../secret.jpg"):
        (inner / name).write_bytes(b"jpeg")
    return inner


def tolerant() -> Problems:
    return Problems(max_fraction=10)


def lines(*objects: object) -> str:
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in objects)


ROWS = [("img/b.jpg", "one"), ("img/a.jpg", 'a, "b"\u2028c'), ("img/b.jpg", "two")]
AS_JSONL = lines(*({"image": image, "caption": caption} for image, caption in ROWS))
AS_CSV = '\ufeffimage,caption\nimg/b.jpg,one\nimg/a.jpg,"a, ""b""\u2028c"\nimg/b.jpg,two\n'
AS_TSV = 'caption\timage\none\timg/b.jpg\n"a, ""b""\u2028c"\timg/a.jpg\ntwo\timg/b.jpg\n'


@pytest.mark.parametrize(
    ("suffix", "text"), [("csv", AS_CSV), ("tsv", AS_TSV), ("jsonl", AS_JSONL)]
)
def test_rows_of_one_image_are_gathered_in_order(folder: Path, suffix: str, text: str) -> None:
    path = folder / f"captions.{suffix}"
    path.write_text(text, encoding="utf-8")
    problems = Problems()
    first, second = table_file(path, problems)
    assert (first.id, first.image) == ("img/b.jpg", folder / "img/b.jpg")
    assert first.captions == ("one", "two")
    assert second.captions == ('a, "b"\u2028c',)
    assert (problems.num_seen, len(problems)) == (2, 0)


def test_ids_and_absolute_paths(folder: Path) -> None:
    path = folder / "captions.jsonl"
    outside = folder.parent / "secret.jpg"
    rows = [
        {"image": "img/a.jpg", "caption": "x", "id": 5},
        {"image": str(outside), "caption": "y"},
    ]
    path.write_text(lines(*rows))
    records = list(table_file(path, Problems()))
    assert [(r.id, r.image) for r in records] == [
        ("5", folder / "img/a.jpg"),
        (str(outside), outside),
    ]


def test_a_relative_path_never_leaves_the_folder(folder: Path) -> None:
    path = folder / "captions.csv"
    path.write_text("image,caption\nimg/../../secret.jpg,x\nimg/../img/a.jpg,y\n")
    problems = tolerant()
    assert [r.captions for r in table_file(path, problems)] == [("y",)]
    assert [(p.source, p.field) for p in problems] == [(f"{path}:2", "image")]


def test_bad_rows_are_counted_with_their_line(folder: Path) -> None:
    path = folder / "captions.jsonl"
    rows = [
        {"image": "img/a.jpg", "caption": "good", "id": "A"},
        {"image": "img/a.jpg", "caption": "another id", "id": "B"},
        {"image": "img/b.jpg", "caption": "used id", "id": "A"},
        {"image": "img/gone.jpg", "caption": "lost"},
        {"image": "img/a.jpg", "caption": ["x"], "id": "A"},
        {"caption": "of what"},
        {"image": "img/a.jpg", "caption": "", "id": "A"},
        ["a", "list"],
    ]
    path.write_text(lines(*rows) + "{broken\n")
    problems = tolerant()
    (record,) = table_file(path, problems)
    assert (record.id, record.captions) == ("A", ("good",))
    assert {(p.source.removeprefix(f"{folder}/"), p.field) for p in problems} == {
        ("captions.jsonl:2", "id"),
        ("img/b.jpg", "id"),
        ("img/gone.jpg", "image"),
        ("captions.jsonl:5", "caption"),
        ("captions.jsonl:6", "image"),
        ("img/a.jpg", "captions[1]"),
        ("captions.jsonl:8", "row"),
        ("captions.jsonl:9", "row"),
    }


def test_csv_rows_of_another_length_are_counted(folder: Path) -> None:
    path = folder / "captions.csv"
    path.write_text("image,caption\nimg/a.jpg\nimg/a.jpg,x, y\nimg/a.jpg,z\n")
    problems = tolerant()
    assert [r.captions for r in table_file(path, problems)] == [("z",)]
    assert [p.source for p in problems] == [f"{path}:2", f"{path}:3"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "image,text\n", "no column 'caption'"),
        ("a.csv", "", "no column 'image'"),
        ("a.tsv", 'image\tcaption\nimg/a.jpg\t"open\n', "broken quoting"),
        ("a.parquet", "", "unknown suffix '.parquet': choose from .csv, .jsonl, .tsv"),
    ],
)
def test_another_format_is_fatal(folder: Path, name: str, text: str, message: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        list(table_file(folder / name, Problems()))
    assert name in str(caught.value)


def test_missing_file_is_fatal(folder: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.csv: cannot be read: No such file"):
        list(table_file(folder / "gone.csv", Problems()))
