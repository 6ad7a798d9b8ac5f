"""What a store promises to writers that are killed, that come twice, or that come together."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from intarsia.data.records import KEY_BYTES
from intarsia.encode.store import ENTRY, VectorStore
from intarsia.encode.views import key_of
from intarsia.errors import DataError

WIDTH = 8
WRITER = """
import sys
from pathlib import Path
import torch
from intarsia.encode.store import VectorStore
from intarsia.encode.views import key_of

folder, start, stop = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
store = VectorStore(folder)
print("open", flush=True)
sys.stdin.readline()
for i in range(start, stop):
    store.add([key_of(str(i))], torch.full((1, 8), float(i % 1000)))
    print(i, flush=True)
sys.stdin.readline()
"""


def rows_of(*numbers: int) -> torch.Tensor:
    return torch.tensor([[float(n % 1000)] * WIDTH for n in numbers])


def keys_of(*numbers: int) -> list[bytes]:
    return [key_of(str(n)) for n in numbers]


def assert_whole(store: VectorStore) -> set[int]:
    """Every key has its own vector; returns the numbers that are there."""
    numbers = [i for i in range(len(store) + 1000) if key_of(str(i)) in store]
    assert len(numbers) == len(store)
    found = store.read(store.find(keys_of(*numbers))).numpy()
    assert np.array_equal(found, rows_of(*numbers).numpy())
    return set(numbers)


def writer(folder, start, stop):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(start), str(stop)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def started(process) -> None:
    assert process.stdout.readline() == "open\n"
    process.stdin.write("go\n")
    process.stdin.flush()


@pytest.mark.parametrize("on_disk", [False, True])
def test_rows_come_back_under_their_keys(tmp_path, on_disk):
    folder = tmp_path / "new" / "store" if on_disk else None
    store = VectorStore(folder)
    assert len(store) == 0
    store.add(keys_of(1, 2), rows_of(1, 2))
    store.add(keys_of(2, 3, 3), rows_of(7, 3, 3))  # 2 is there already
    assert len(store) == 3 and key_of("3") in store and key_of("4") not in store
    for reader in (store, VectorStore(folder)) if on_disk else (store,):
        found = reader.read(reader.find(keys_of(3, 1, 2))).numpy()
        assert found.dtype == np.float16
        assert np.array_equal(found, rows_of(3, 1, 2).numpy())


def test_keys_tell_their_parts_apart():
    assert len({key_of("ab"), key_of("a", "b"), key_of("b", "a"), key_of("", "ab")}) == 4
    assert key_of("é", b"x") == key_of("é".encode(), "x") and len(key_of("")) == KEY_BYTES


def test_a_closed_store_goes_on_in_its_part(tmp_path):
    store = VectorStore(tmp_path)
    for number in (1, 2):
        store.add(keys_of(number), rows_of(number))
        store.close()
    assert len(list(tmp_path.glob("*.rows"))) == 1
    assert assert_whole(VectorStore(tmp_path)) == {1, 2}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_what_half_precision_cannot_hold_is_refused_and_not_kept(tmp_path, value):
    store = VectorStore(tmp_path)
    with pytest.raises(DataError, match="beyond half precision"):
        store.add(keys_of(1, 2), torch.tensor([[0.0], [value]]))
    assert len(store) == 0 and not list(tmp_path.glob("part-*"))


@pytest.mark.parametrize(
    "cut", [("rows", 3), ("entries", 5), ("entries", ENTRY.itemsize), ("rows", 40)]
)
def test_what_was_cut_is_dropped_and_written_again(tmp_path, cut):
    store = VectorStore(tmp_path)
    store.add(keys_of(1, 2, 3, 4), rows_of(1, 2, 3, 4))
    store.close()
    name, num_bytes = cut
    (path,) = tmp_path.glob(f"*.{name}")
    path.write_bytes(path.read_bytes()[:-num_bytes])
    again = VectorStore(tmp_path)
    before = assert_whole(again)
    assert {1} <= before < {1, 2, 3, 4}
    again.add(keys_of(1, 2, 3, 4, 5), rows_of(1, 2, 3, 4, 5))
    again.close()
    for reader in (again, VectorStore(tmp_path)):
        assert assert_whole(reader) == {1, 2, 3, 4, 5}
    (rows,) = tmp_path.glob("*.rows")
    assert rows.stat().st_size == 5 * WIDTH * 2


def test_a_killed_writer_loses_nothing_whole_and_doubles_nothing(tmp_path):
    process = writer(tmp_path, 0, 100_000)
    started(process)
    while int(process.stdout.readline()) < 300:
        pass
    process.send_signal(signal.SIGKILL)
    told = [int(line) for line in process.stdout]  # the pipe's rest, until the process is gone
    last = told[-1] if told and told[-1] >= 300 else 300
    process.wait()
    store = VectorStore(tmp_path)
    found = assert_whole(store)
    assert found >= set(range(last + 1)) and found == set(range(len(found)))
    more = range(len(found) - 5, len(found) + 5)
    store.add(keys_of(*more), rows_of(*more))
    store.close()
    reader = VectorStore(tmp_path)
    assert assert_whole(reader) == set(range(len(found) + 5))
    (rows,) = tmp_path.glob("*.rows")
    assert rows.stat().st_size == len(reader) * WIDTH * 2  # one part, no row twice


def test_two_processes_add_to_one_folder(tmp_path):
    store = VectorStore(tmp_path)
    process = writer(tmp_path, 0, 200)
    started(process)
    while process.stdout.readline() != "99\n":
        pass
    for i in range(150, 300):
        store.add(keys_of(i), rows_of(i))
    process.communicate("end\n")
    assert process.returncode == 0
    store.close()
    assert len(list(tmp_path.glob("*.rows"))) == 2  # each had a part of its own
    reader = VectorStore(tmp_path)
    assert assert_whole(reader) == set(range(300)) and len(reader) == 300


@pytest.mark.parametrize("on_disk", [True, False])
def test_threads_add_and_read_at_once(tmp_path, on_disk):
    store = VectorStore(tmp_path if on_disk else None)
    store.add(keys_of(0), rows_of(0))

    def work(start: int) -> None:
        for i in range(start, start + 50):
            store.add(keys_of(i), rows_of(i))
            assert store.read(store.find(keys_of(0)))[0].tolist() == [0.0] * WIDTH

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(0, 400, 25)))
    assert assert_whole(store) == set(range(425))
    assert len(store) == 425
