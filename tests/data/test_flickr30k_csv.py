"""``results.csv`` of Flickr30k in its real format, with the row that lacks a bar."""

from pathlib import Path

import pytest

from intarsia.data.problems import Problems
from intarsia.data.readers import read
from intarsia.errors import ConfigError, DataError

HEADER = "image_name| comment_number| comment"
ROWS = [
    "1000092795.jpg| 0| Two young guys with shaggy hair look at their hands .",
    "1000092795.jpg| 1| Two young , White males are outside near many bushes .",
    "2199200615.jpg| 0| A dog runs across the grass with its tongue out .",
    "2199200615.jpg| 4   A dog runs across the grass .",
    "2199200615.jpg| 1| A black | white dog .",
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "flickr30k_images").mkdir()
    for key in ("1000092795", "2199200615"):
        (tmp_path / "flickr30k_images" / f"{key}.jpg").write_bytes(b"jpeg")
    return write(tmp_path, *ROWS)


def write(root: Path, *rows: str, header: str = HEADER) -> Path:
    (root / "results.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return root


def test_the_row_without_a_bar_is_read_and_counted(root: Path) -> None:
    problems = Problems(0)
    first, second = read("flickr30k-csv", root, "all", problems)
    assert first.id == "1000092795"
    assert first.captions[0] == "Two young guys with shaggy hair look at their hands ."
    assert second.captions == (
        "A dog runs across the grass with its tongue out .",
        "A black | white dog .",
        "A dog runs across the grass .",
    )
    assert problems.summary().endswith(
        "1 skipped: bar missing before a caption, which was read all the same"
    )


def test_splits_are_lists_of_ids(root: Path) -> None:
    (root / "test.txt").write_text("2199200615\n")
    assert [r.id for r in read("flickr30k-csv", root, "test", Problems(0))] == ["2199200615"]
    (root / "test.txt").write_text("2199200615\n77\n")
    with pytest.raises(DataError, match=r"test\.txt: id 77: has no caption"):
        read("flickr30k-csv", root, "test", Problems(0))
    with pytest.raises(ConfigError, match="'val': choose from test"):
        read("flickr30k-csv", root, "val")


@pytest.mark.parametrize("row", ["1000092795.jpg", "1000092795.jpg| x| Who ?", "a.jpg| A dog ."])
def test_other_broken_rows_are_told_by_their_line(root: Path, row: str) -> None:
    write(root, *ROWS, row)
    problems = Problems(1)
    assert len(read("flickr30k-csv", root, "all", problems)) == 2
    (problem,) = problems
    assert (problem.source, problem.field) == (f"{root / 'results.csv'}:7", "row")


def test_another_format_is_fatal(root: Path) -> None:
    write(root, header="image,caption")
    with pytest.raises(DataError, match=r"results\.csv: the first line must be image_name\| comm"):
        read("flickr30k-csv", root, "all")
