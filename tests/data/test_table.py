import hashlib
import multiprocessing
import pickle
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from intarsia.data.images import load_image
from intarsia.data.order import WHOLE, Part
from intarsia.data.problems import Problems, screened
from intarsia.data.records import Records
from intarsia.data.table import SCHEMA, VERSION_KEY, read_table, write_table
from intarsia.errors import DataError
from intarsia.identity import data_key
from intarsia.types import Negative, Phrase, Record, Region


def jpeg(colour: int) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (9, 7), (colour % 256, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def table_of(path: Path, part: Part = WHOLE) -> Records:
    return read_table(path, Problems(), part)


def sized(records: list[Record]) -> list[Record]:
    return [replace(record, size=(9, 7)) for record in records]


def plain(count: int) -> list[Record]:
    return [Record(f"r{i:03}", jpeg(i), (f"caption {i}",)) for i in range(count)]


FULL = Record(
    "full",
    jpeg(1),
    ("a red dog", "ein röter Hund"),
    (Region((0.1, 2.0, 3.5, 4.0), "dog", 0.25), Region((1, 1, 2, 2))),
    (Phrase(0, (2, 9), (0, 1)), Phrase(1, (0, 3))),
    (Negative(0, "swap", "a dog red"),),
)


def test_everything_comes_back_equal(tmp_path: Path) -> None:
    bare = Record("bare", jpeg(2), ())
    assert write_table(tmp_path / "t.lance", [FULL, bare], Problems()) == 2
    assert list(table_of(tmp_path / "t.lance")) == sized([bare, FULL])
    assert table_of(tmp_path / "t.lance")[1] == sized([FULL])[0]


def test_files_are_stored_as_they_are_and_arrays_as_png(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(3))
    array = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    records = [Record("file", tmp_path / "a.jpg", ("x",)), Record("array", array, ("y",))]
    write_table(tmp_path / "t.lance", records, Problems())
    from_array, from_file = table_of(tmp_path / "t.lance")
    assert from_file.image == jpeg(3)
    assert np.array_equal(np.asarray(load_image(from_array.image)), array)


def test_pictures_that_cannot_be_decoded_are_reported_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(jpeg(4)[:200])
    bad = [Record("cut", tmp_path / "cut.jpg", ("x",)), Record("junk", b"junk", ("y",))]
    problems = Problems(max_fraction=0.5)
    assert write_table(tmp_path / "t.lance", [*plain(3), *bad], problems) == 3
    assert [r.id for r in table_of(tmp_path / "t.lance")] == ["r000", "r001", "r002"]
    assert [(p.source, p.field) for p in problems] == [
        (str(tmp_path / "cut.jpg"), "image"),
        ("junk", "image"),
    ]
    assert problems.num_seen == 5


def test_records_that_a_reader_counted_are_not_counted_again(tmp_path: Path) -> None:
    problems = Problems()
    write_table(tmp_path / "t.lance", screened(plain(4), problems), problems)
    assert problems.num_seen == 4


def test_failure_leaves_nothing_behind_and_keeps_its_error(tmp_path: Path) -> None:
    def records() -> Iterator[Record]:
        yield from plain(70)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        write_table(tmp_path / "t.lance", records(), Problems())
    with pytest.raises(DataError, match="1 of 1 records are bad"):
        write_table(tmp_path / "t.lance", [Record("junk", b"junk", ("y",))], Problems())
    assert list(tmp_path.iterdir()) == []


def test_an_existing_table_is_never_overwritten(tmp_path: Path) -> None:
    write_table(tmp_path / "t.lance", plain(2), Problems())
    with pytest.raises(DataError, match=r"t\.lance exists"):
        write_table(tmp_path / "t.lance", plain(1), Problems())
    assert len(table_of(tmp_path / "t.lance")) == 2


def test_an_empty_table(tmp_path: Path) -> None:
    assert write_table(tmp_path / "t.lance", [], Problems()) == 0
    assert list(table_of(tmp_path / "t.lance")) == []


def test_rows_by_index(tmp_path: Path) -> None:
    records = sized(plain(150))
    write_table(tmp_path / "t.lance", records, Problems())
    table = table_of(tmp_path / "t.lance")
    assert len(table) == 150
    assert (table[149], table[-150]) == (records[149], records[0])
    assert table.__getitems__([100, 3, 3, -1]) == [records[i] for i in (100, 3, 3, 149)]
    with pytest.raises(IndexError):
        table[150]


def test_an_open_table_pickles_to_its_path(tmp_path: Path) -> None:
    write_table(tmp_path / "t.lance", plain(2), Problems())
    table = table_of(tmp_path / "t.lance")
    first = table[0]
    data = pickle.dumps(table)
    assert len(data) < 500
    assert pickle.loads(data)[0] == first


def test_workers_reopen_the_table(tmp_path: Path) -> None:
    records = sized(plain(6))
    write_table(tmp_path / "t.lance", records, Problems())
    table = table_of(tmp_path / "t.lance")
    assert len(table) == 6
    loader = DataLoader(
        table,  # type: ignore[arg-type]
        batch_size=4,
        num_workers=1,
        collate_fn=list,
        multiprocessing_context=multiprocessing.get_context("forkserver"),
    )
    assert [record for batch in loader for record in batch] == records


def test_what_is_not_our_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    foreign, newer = tmp_path / "foreign.lance", tmp_path / "newer.lance"
    lance.write_dataset(pa.table({"x": [1]}), str(foreign))
    schema = SCHEMA.with_metadata({VERSION_KEY: "99"})
    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, iter([])), str(newer))
    cases = {
        tmp_path / "gone": "gone: not a table",
        tmp_path / "folder": "folder: not a table",
        foreign: "foreign.lance: table version 'none'",
        newer: "newer.lance: table version '99', this intarsia reads '2': import it again",
    }
    for path, message in cases.items():
        with pytest.raises(DataError, match=message):
            list(table_of(path))
        with pytest.raises(DataError, match=message):
            len(table_of(path))


@pytest.mark.parametrize("name", ["a:b.lance", "s3:c.lance", "file:d.lance", "50% #? [e].lance"])
def test_a_relative_path_is_no_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(Path(name), plain(2), Problems())
    assert list(table_of(Path(name))) == sized(plain(2))
    assert table_of(Path(name))[1] == sized(plain(2))[1]


def test_parts_of_a_table(tmp_path: Path) -> None:
    write_table(tmp_path / "t.lance", plain(150), Problems())
    for part in (Part(140), Part(-3), Part(1, 2)):
        assert (
            list(table_of(tmp_path / "t.lance", part)) == sized(plain(150))[part.start : part.stop]
        )
    share = Part(None, 20, is_share=True)
    assert list(table_of(tmp_path / "t.lance", share)) == list(
        share.of(sized(plain(150)), lambda r: r.id)
    )


def test_records_come_in_the_order_of_their_ids_and_each_once(tmp_path: Path) -> None:
    ids = ["10", "9", "b/1", "a10", "9"]
    records = [Record(key, jpeg(i), (str(i),)) for i, key in enumerate(ids)]
    write_table(tmp_path / "t.lance", records, Problems())
    problems = Problems(0.5)
    found = read_table(tmp_path / "t.lance", problems)
    assert [(r.id, r.captions) for r in found] == [
        *(("9", ("1",)), ("10", ("0",))),
        *(("a10", ("3",)), ("b/1", ("2",))),
    ]
    assert [problem.reason for problem in problems] == ["'9' is used twice"]


def test_what_is_known_of_pictures_is_told_without_reading_them(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(jpeg(5))
    write_table(tmp_path / "t.lance", [Record("0", tmp_path / "0.jpg", ("x",))], Problems())
    table = table_of(tmp_path / "t.lance")
    ((record, digest),) = table.known()
    assert record.image == b"" and digest == hashlib.sha256(jpeg(5)).digest()
    assert table.size(0) == (9, 7)
    assert table.picture_keys() == Records.of([Record("y", jpeg(5), ())]).picture_keys()
    assert data_key(table) == data_key([Record("0", tmp_path / "0.jpg", ("x",))])
