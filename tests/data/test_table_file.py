import json
from pathlib import Path
from unicodedata import normalize

import pytest

from intarsia.data.order import Part
from intarsia.data.problems import Problems
from intarsia.data.readers import read
from intarsia.data.table_file import table_file
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
def test_rows_of_one_image_are_gathered_and_images_ordered_by_id(
    folder: Path, suffix: str, text: str
) -> None:
    path = folder / f"captions.{suffix}"
    path.write_text(text, encoding="utf-8")
    problems = Problems()
    first, second = table_file(path, problems)
    assert (second.id, second.image) == ("img/b.jpg", folder / "img/b.jpg")
    assert second.captions == ("one", "two")
    assert first.captions == ('a, "b"\u2028c',)
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
        {"image": "img/a.jpg", "caption": ["x", 1], "id": "A"},
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
        ("a.csv", 'image,caption\nimg/a.jpg,"open\n', "a.csv:2: row: broken quoting"),
        ("a.csv", 'image,"caption\n', "a.csv:1: broken quoting in the header"),
        ("a.csv", "image,caption,caption\n", "column 'caption' stands twice in the header"),
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


def test_a_folder_is_told_to_be_one(folder: Path) -> None:
    for name in ("b.tsv", "a.csv", "a.txt"):
        (folder / name).write_text("image,caption\n", encoding="utf-8")
    with pytest.raises(DataError, match=f"{folder}: is a folder: name a file in it, as .*/a.csv$"):
        list(table_file(folder, Problems()))
    with pytest.raises(DataError, match=r"img: is a folder: name a file \(\.csv, \.tsv, \.jsonl\)"):
        list(table_file(folder / "img", Problems()))


def test_a_file_without_rows_is_told(folder: Path) -> None:
    (folder / "a.csv").write_text("image,caption\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.csv: has no rows: there is nothing below the header"):
        read("file", folder / "a.csv")


def test_an_id_of_another_case_is_an_id(folder: Path) -> None:
    (folder / "a.csv").write_text("ID,Image,Caption\n7,img/a.jpg,x\n", encoding="utf-8")
    (record,) = table_file(folder / "a.csv", Problems(0))
    assert (record.id, record.captions) == ("7", ("x",))


def test_an_id_of_null_is_none(folder: Path) -> None:
    rows = [{"image": f"img/{n}.jpg", "caption": n, "id": None} for n in "ab"]
    (folder / "a.jsonl").write_text(lines(*rows), encoding="utf-8")
    (folder / "a.csv").write_text(
        "id,image,caption\n,img/a.jpg,x\n,img/b.jpg,y\n", encoding="utf-8"
    )
    for name in ("a.jsonl", "a.csv"):
        assert [r.id for r in table_file(folder / name, Problems(0))] == ["img/a.jpg", "img/b.jpg"]


@pytest.mark.parametrize("key", [True, 1.5, [1], {}])
def test_an_id_is_text_or_a_whole_number(folder: Path, key: object) -> None:
    path = folder / "a.jsonl"
    path.write_text(lines({"image": "img/a.jpg", "caption": "x", "id": key}), encoding="utf-8")
    problems = tolerant()
    assert list(table_file(path, problems)) == []
    assert [(p.source, p.field) for p in problems] == [(f"{path}:1", "id")]


def test_two_spellings_of_a_path_are_one_picture(folder: Path) -> None:
    path = folder / "captions.csv"
    path.write_text("image,caption\n./img/a.jpg,x\nimg/a.jpg,y\nimg//a.jpg,z\n", encoding="utf-8")
    (record,) = table_file(path, Problems(0))
    assert (record.id, record.captions) == ("img/a.jpg", ("x", "y", "z"))


def test_two_code_points_of_a_letter_are_one_picture(folder: Path) -> None:
    composed, apart = (normalize(form, "img/\u00e9.jpg") for form in ("NFC", "NFD"))
    (folder / apart).write_bytes(b"jpeg")
    path = folder / "captions.csv"
    path.write_text(f"image,caption\n{composed},x\n{apart},y\n", encoding="utf-8")
    (record,) = table_file(path, Problems(0))
    assert (record.id, record.captions) == (composed, ("x", "y"))
    assert record.image.samefile(folder / apart)


def test_a_list_of_captions_is_captions(folder: Path) -> None:
    path = folder / "a.jsonl"
    rows = [{"image": "img/a.jpg", "caption": ["a card", "a red card"]}]
    path.write_text(lines(*rows), encoding="utf-8")
    (record,) = table_file(path, Problems(0))
    assert record.captions == ("a card", "a red card")


def test_bad_rows_are_a_share_of_the_rows(folder: Path) -> None:
    path = folder / "a.csv"
    rows = "img/a.jpg,x\n" * 299
    path.write_text(f"image,caption\n{rows}img/a.jpg\n", encoding="utf-8")
    problems = Problems()
    assert len(list(table_file(path, problems))) == 1
    assert "1 of 300 rows are bad (0.333%): 1 row" in problems.summary()


def test_parts_are_taken_in_the_order_of_ids(folder: Path) -> None:
    path = folder / "a.csv"
    rows = "".join(f"img/a.jpg,x,{n}\n" if n == 10 else f"img/b.jpg,y,{n}\n" for n in (10, 9))
    path.write_text(f"image,caption,id\n{rows}", encoding="utf-8")
    assert [r.id for r in table_file(path, Problems(0))] == ["9", "10"]
    assert [r.id for r in table_file(path, Problems(0), Part(1))] == ["10"]
