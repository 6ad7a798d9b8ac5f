import multiprocessing
import pickle
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from intarsia.data.images import load_image
from intarsia.data.order import Part
from intarsia.data.problems import Problems, screened
from intarsia.data.table import SCHEMA, VERSION_KEY, RecordTable, read_table, write_table
from intarsia.errors import DataError
from intarsia.types import Negative, Phrase, Record, Region


def jpeg(colour: int) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (9, 7), (colour % 256, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def plain(count: int) -> list[Record]:
    return [Record(f"r{i}", jpeg(i), (f"caption {i}",)) for i in range(count)]


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
    assert list(read_table(tmp_path / "t.lance")) == [FULL, bare]
    assert RecordTable(tmp_path / "t.lance")[0] == FULL


def test_files_are_stored_as_they_are_and_arrays_as_png(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(3))
    array = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    records = [Record("file", tmp_path / "a.jpg", ("x",)), Record("array", array, ("y",))]
    write_table(tmp_path / "t.lance", records, Problems())
    from_file, from_array = read_table(tmp_path / "t.lance")
    assert from_file.image == jpeg(3)
    assert np.array_equal(np.asarray(load_image(from_array.image)), array)


def test_pictures_that_cannot_be_decoded_are_reported_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(jpeg(4)[:200])
    bad = [Record("cut", tmp_path / "cut.jpg", ("x",)), Record("junk", b"junk", ("y",))]
    problems = Problems(max_fraction=0.5)
    assert write_table(tmp_path / "t.lance", [*plain(3), *bad], problems) == 3
    assert [r.id for r in read_table(tmp_path / "t.lance")] == ["r0", "r1", "r2"]
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
    assert len(RecordTable(tmp_path / "t.lance")) == 2


def test_an_empty_table(tmp_path: Path) -> None:
    assert write_table(tmp_path / "t.lance", [], Problems()) == 0
    assert list(read_table(tmp_path / "t.lance")) == []


def test_rows_by_index(tmp_path: Path) -> None:
    records = plain(150)
    write_table(tmp_path / "t.lance", records, Problems())
    table = RecordTable(tmp_path / "t.lance")
    assert len(table) == 150
    assert (table[149], table[-150]) == (records[149], records[0])
    assert table.__getitems__([100, 3, 3, -1]) == [records[i] for i in (100, 3, 3, 149)]
    with pytest.raises(IndexError):
        table[150]


def test_an_open_table_pickles_to_its_path(tmp_path: Path) -> None:
    write_table(tmp_path / "t.lance", plain(2), Problems())
    table = RecordTable(tmp_path / "t.lance")
    first = table[0]
    data = pickle.dumps(table)
    assert len(data) < 500
    assert pickle.loads(data)[0] == first


def test_workers_reopen_the_table(tmp_path: Path) -> None:
    records = plain(6)
    write_table(tmp_path / "t.lance", records, Problems())
    table = RecordTable(tmp_path / "t.lance")
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
        newer: "newer.lance: table version '99', this intarsia reads '1'",
    }
    for path, message in cases.items():
        with pytest.raises(DataError, match=message):
            list(read_table(path))
        with pytest.raises(DataError, match=message):
            len(RecordTable(path))


@pytest.mark.parametrize("name", ["a:b.lance", "s3:c.lance", "file:d.lance", "50% #? [e].lance"])
def test_a_relative_path_is_no_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(Path(name), plain(2), Problems())
    assert list(read_table(Path(name))) == plain(2)
    assert RecordTable(Path(name))[1] == plain(2)[1]


def test_parts_of_a_table(tmp_path: Path) -> None:
    write_table(tmp_path / "t.lance", plain(150), Problems())
    for part in (Part(140), Part(-3), Part(1, 2)):
        assert list(read_table(tmp_path / "t.lance", part)) == plain(150)[part.start : part.stop]
    share = Part(None, 20, is_share=True)
    assert list(read_table(tmp_path / "t.lance", share)) == list(
        share.of(plain(150), lambda r: r.id)
    )
