"""Records in several processes: each maps the one file that the first of them writes."""

import copy
import gc
import multiprocessing
import pickle
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from intarsia.data.records import PackedRows, Records
from intarsia.types import FilePart, Phrase, Record, Region

NOISE = np.random.default_rng(0).integers(0, 256, (200, 50, 100, 3), dtype=np.uint8)
MORE = [
    Record("\u00e9", b"bytes", ("\U0001f436", "")),
    Record("part", FilePart(Path("s.tar"), 512, 7), (), (Region((0, 0, 1, 2)),)),
    Record("file", Path("a.jpg"), ("a dog",), (), (Phrase(0, (2, 5)),), (), (3, 4)),
]
RECORDS = [*(Record(str(i), pixels, ("noise",)) for i, pixels in enumerate(NOISE)), *MORE]
READER = """
import pickle, sys
import pyarrow as pa

records = pickle.load(sys.stdin.buffer)
lines = open("/proc/self/maps").read().splitlines()
mapped = {line.split()[-1] for line in lines if line.endswith("records.arrow")}
opened = pa.total_allocated_bytes()
pickle.dump((mapped, opened, list(records)), sys.stdout.buffer)
"""


def same(one: Record, other: Record) -> bool:
    if not isinstance(one.image, np.ndarray):
        return one == other
    is_same = np.array_equal(one.image, other.image)  # type: ignore[arg-type]
    return is_same and replace(one, image=b"") == replace(other, image=b"")


def all_same(some: Any, others: Any) -> bool:
    return all(same(a, b) for a, b in zip(some, others, strict=True))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads what Linux tells of maps")
def test_another_process_maps_the_records_and_copies_nothing(folder: Path) -> None:
    records = Records.of(iter(RECORDS))
    assert records.ids[:2] == ["0", "1"]  # columns that were read do not travel
    data = pickle.dumps(records)
    (file,) = files(folder)
    assert len(data) < 1000 and file.stat().st_size > NOISE.nbytes
    for _ in range(2):
        command = [sys.executable, "-c", READER]
        run = subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True)
        mapped, opened, found = pickle.loads(run.stdout)
        assert mapped == {str(file)} and opened < NOISE.nbytes // 20
        assert all_same(found, RECORDS)
    assert files(folder) == [file]


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_workers_of_a_loader_give_equal_records(folder: Path, method: str) -> None:
    records = Records.of(iter(RECORDS))[::-1][:7]
    loader: DataLoader[Record] = DataLoader(
        records,  # type: ignore[arg-type]
        batch_size=3,
        num_workers=2,
        collate_fn=list,
        multiprocessing_context=multiprocessing.get_context(method),
    )
    assert all_same([record for batch in loader for record in batch], RECORDS[::-1][:7])
    assert len(files(folder)) == 1


def test_parts_of_records_share_one_file(folder: Path) -> None:
    records = Records.of(iter(RECORDS))
    parts = [records, records[5:10], records.at([200, 3]), records[5:10]]
    found = [pickle.loads(pickle.dumps(part)) for part in parts]
    assert len(files(folder)) == 1
    assert all(all_same(copied, part) for copied, part in zip(found, parts, strict=True))
    assert found[2].ids == [RECORDS[200].id, "3"] and found[2].captions == [
        "\U0001f436",
        "",
        "noise",
    ]
    assert found[2].picture_keys() == parts[2].picture_keys()


def test_a_copy_reads_on_when_the_records_and_their_file_are_gone(folder: Path) -> None:
    records = Records.of(iter(RECORDS))
    copied = pickle.loads(pickle.dumps(records))
    del records
    gc.collect()
    assert list(folder.iterdir()) == []
    assert all_same(copied, RECORDS)


def test_records_in_chunks_travel_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intarsia.data.records.PACKED_AT_ONCE", 64)
    monkeypatch.setattr("intarsia.data.records.MOST_IN_ONE", 0)
    records = Records.of(iter(RECORDS))
    assert isinstance(records._rows, PackedRows) and records._rows.table["id"].num_chunks == 4
    assert all_same(pickle.loads(pickle.dumps(records)), RECORDS)


def test_a_copy_of_a_copy_does_not_need_the_first(folder: Path) -> None:
    records = Records.of(iter(MORE))
    copied = copy.deepcopy(records)
    del records
    gc.collect()
    assert all_same(copy.deepcopy(copied), MORE)
