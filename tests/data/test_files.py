import os
import subprocess
import sys
from codecs import BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_LE
from pathlib import Path

import pytest

import intarsia
from intarsia.data.files import read_csv, read_jsonl, read_text
from intarsia.data.problems import Problems
from intarsia.errors import DataError

COLUMNS = ("image", "caption")


def rows(tmp_path: Path, text: str, problems: Problems, delimiter: str = ",") -> list[list[str]]:
    path = tmp_path / "captions.txt"
    path.write_text(text, encoding="utf-8")
    return [list(row.values()) for _, row in read_csv(path, COLUMNS, problems, delimiter)]


def told(problems: Problems) -> list[tuple[str, str]]:
    return [(problem.source.rpartition(":")[2], problem.reason) for problem in problems]


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (b"\xef\xbb\xbf", "utf-8"),
        (BOM_UTF16_LE, "utf-16-le"),
        (BOM_UTF16_BE, "utf-16-be"),
        (BOM_UTF32_LE, "utf-32-le"),
    ],
)
def test_the_byte_order_mark_says_the_encoding(tmp_path: Path, mark: bytes, encoding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(mark + "caf\u00e9\r\n\u56fe\rx\n".encode(encoding))
    assert read_text(path) == "caf\u00e9\n\u56fe\nx\n"


def test_latin_1_is_refused_with_its_line_and_advice(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("image,caption\n0.png,plain\n1.png,caf\u00e9\n".encode("latin-1"))
    with pytest.raises(
        DataError, match=r"a\.csv:3: not UTF-8 text: .* 0xe9 .*iconv -f WINDOWS-1252"
    ):
        read_text(path)


def test_utf_16_without_a_mark_is_refused_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("image,caption\n".encode("utf-16-le"))
    with pytest.raises(DataError, match=r"a\.csv: not UTF-8 text: .*iconv -f UTF-16LE"):
        read_text(path)


def test_a_stray_quote_costs_its_own_line(tmp_path: Path) -> None:
    problems = Problems(1.0)
    text = 'image,caption\n0,a\n1,"open\n2,"b, c"\n3,"d" e\n4,"f\ng"\n5,5" nail\n'
    assert rows(tmp_path, text, problems) == [
        ["0", "a"],
        ["2", "b, c"],
        ["4", "f\ng"],
        ["5", '5" nail'],
    ]
    (third, reason), (fifth, _) = told(problems)
    assert (third, fifth) == ("3", "5") and reason.startswith("broken quoting")
    assert "2 of 6 rows are bad (33.3%)" in problems.summary()


def test_a_quote_without_an_end_costs_its_own_line(tmp_path: Path) -> None:
    problems = Problems(1.0)
    assert rows(tmp_path, 'image,caption\n0,"open\n1,b\n2,c\n', problems) == [
        ["1", "b"],
        ["2", "c"],
    ]
    assert [line for line, _ in told(problems)] == ["2"]


def test_a_row_of_several_lines_is_named_by_its_first(tmp_path: Path) -> None:
    problems = Problems(1.0)
    assert rows(tmp_path, 'image,caption\n0,"a\nb",c\n\n1,d\n', problems) == [["1", "d"]]
    assert told(problems) == [("2", "has 3 cells for the 2 columns")]


def test_quotation_marks_in_a_tsv_belong_to_the_captions(tmp_path: Path) -> None:
    problems = Problems(0)
    text = (
        'image\tcaption\n0\t"Stop" says a sign\n1\t"open\n2\tclosed"\n3\t"a ""b"" c"\n4\t"x\ny"\n'
    )
    assert rows(tmp_path, text, problems, "\t") == [
        ["0", '"Stop" says a sign'],
        ["1", '"open'],
        ["2", 'closed"'],
        ["3", 'a "b" c'],
        ["4", "x\ny"],
    ]
    assert len(problems) == 0


def test_captions_may_be_long(tmp_path: Path) -> None:
    long = "x" * 200_000
    assert rows(tmp_path, f"image,caption\n0,{long}\n", Problems(0)) == [["0", long]]


def test_a_column_is_never_lost(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'caption' stands twice .* rows of their own"):
        rows(tmp_path, "image,caption,caption\n0,a,b\n", Problems())
    assert rows(tmp_path, "image,caption,,\n0,a,,\n", Problems()) == [["0", "a", ""]]


@pytest.mark.parametrize(
    "text",
    [
        "Image,Caption\na,b\n",
        " image , CAPTION\na, b\n",
        'image, "caption"\na, "b"\n',
        "sep=;\nimage;caption\na;b\n",
        "sep=|\r\nIMAGE|caption\r\na|b\r\n",
        "sep=,\nimage,caption\na,b\n",
        "sep=\t\nimage\tcaption\na\tb\n",
    ],
)
def test_a_header_is_understood_as_spreadsheets_and_people_write_it(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8")
    ((where, row),) = read_csv(path, COLUMNS, Problems(0))
    assert row == {"image": "a", "caption": "b"}
    assert where == f"{path}:{3 if text.startswith('sep') else 2}"


def test_a_name_as_it_is_asked_for_goes_before_one_of_another_case(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("Image,image,caption,ID\na,b,c,1\n", encoding="utf-8")
    ((_, row),) = read_csv(path, COLUMNS, Problems(0), optional=("id",))
    assert row == {"Image": "a", "image": "b", "caption": "c", "id": "1"}
    path.write_text("Image,IMAGE,caption\na,b,c\n", encoding="utf-8")
    with pytest.raises(DataError, match="column 'image' stands twice in the header"):
        list(read_csv(path, COLUMNS, Problems(0)))


def test_blanks_belong_to_the_cells_unless_the_header_has_them_too(tmp_path: Path) -> None:
    assert rows(tmp_path, "image,caption\na, b\n", Problems(0)) == [["a", " b"]]
    assert rows(tmp_path, 'image, caption\na, "b, c"\n', Problems(0)) == [["a", "b, c"]]


@pytest.mark.parametrize(
    ("text", "delimiter", "advice"),
    [
        ("image;caption\n", ",", "its cells are separated by ';', not ',': put the line sep=; abo"),
        ('"image";"caption"\n', ",", "broken quoting .*: its cells are separated by ';'"),
        ("Image;Caption\n", ",", "no column 'image' .*: its cells are separated by ';'"),
        ("image\tcaption\n", ",", r"separated by '\\t', not ',': name it \.tsv"),
        ("image,caption\n", "\t", r"separated by ',', not '\\t': put the line sep=, above it"),
        ("images,caption\n", ",", "no column 'image' .*: rename 'images', if this is it$"),
        ("image,text\n", ",", r"no column 'caption' in the header \['image', 'text'\]$"),
    ],
)
def test_a_header_that_lacks_a_column_is_told_what_is_likely(
    tmp_path: Path, text: str, delimiter: str, advice: str
) -> None:
    with pytest.raises(DataError, match=advice):
        rows(tmp_path, text, Problems(), delimiter)


def test_a_file_without_rows_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"captions\.txt: has no rows: there is nothing below"):
        rows(tmp_path, "image,caption\n\n", Problems())
    path = tmp_path / "a.jsonl"
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl: has no rows: the file is empty"):
        list(read_jsonl(path, Problems()))


READS_AND_WRITES = """
import sys, warnings
from pathlib import Path
from intarsia.data.problems import Problems
from intarsia.data.readers import read
warnings.simplefilter("error", EncodingWarning)
problems = Problems(1.0)
for name in sys.argv[1:]:
    (record,) = read("file", Path(name), problems=problems)
    assert record.captions == ("caf\\u00e9",), record
problems.write(Path("problems.jsonl"))
"""


def test_no_locale_changes_what_is_read_and_written(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"picture")
    rows = {
        "a.csv": "image,caption\n0.png,caf\u00e9\ng\u00f6ne.png,x\n",
        "a.tsv": "image\tcaption\n0.png\tcaf\u00e9\n",
        "a.jsonl": '{"image": "0.png", "caption": "caf\u00e9"}\n',
    }
    for name, text in rows.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-X", "warn_default_encoding", "-c", READS_AND_WRITES, *rows]
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    source = str(Path(intarsia.__file__).parents[1])
    environment = {**os.environ, **plain, "PYTHONPATH": source}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "g\u00f6ne.png" in (tmp_path / "problems.jsonl").read_text(encoding="utf-8")
