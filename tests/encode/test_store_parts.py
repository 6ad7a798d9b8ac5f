"""Parts of a store: keys of several rows, several writers, tails that were cut, tables mapped."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intarsia.data.records import KEY_BYTES
from intarsia.encode import store as module
from intarsia.encode.store import ENTRY, NOWHERE, Store, VectorStore
from intarsia.encode.views import key_of

WIDTH = 3
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import torch
from intarsia.encode.store import VectorStore
from intarsia.encode.views import key_of

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = VectorStore(Path(sys.argv[1]))
store.add([key_of("0")], torch.zeros(1, 3))
resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
try:
    store.add([key_of(str(i)) for i in range(1, 101)], torch.ones(100, 3))
except OSError:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store.add([key_of("after")], torch.full((1, 3), 7.0))
    store.close()
else:
    sys.exit("the limit was not met")
"""


def rows_of(number: int) -> torch.Tensor:
    """0 to 3 rows, whose first value says whose they are and whose second which."""
    rows = [[number % 1000, place, -number % 7] for place in range(number % 4)]
    return torch.tensor(rows, dtype=torch.float16).view(-1, WIDTH)


def add(store: VectorStore, *numbers: int) -> None:
    store.add([key_of(str(n)) for n in numbers], [rows_of(n) for n in numbers])


def found(store: VectorStore, *numbers: int) -> list[torch.Tensor]:
    """The rows of each number."""
    places = store.find([key_of(str(n)) for n in numbers])
    return list(store.read(places).view(-1, WIDTH).split(places[:, 2].tolist()))


def assert_holds(store: VectorStore, *numbers: int) -> None:
    """These, each its own rows, and no others."""
    assert len(store) == len(set(numbers))
    assert all(map(torch.equal, found(store, *numbers), map(rows_of, numbers)))


@pytest.mark.parametrize("on_disk", [True, False])
def test_keys_have_as_many_rows_as_they_were_given(tmp_path, on_disk):
    store = VectorStore(tmp_path if on_disk else None)
    for numbers in ([5], [4], [1, 2, 3, 4, 5], [8, 16], [6, 2, 7]):
        add(store, *numbers)
    wanted = [7, 4, 1, 3, 3, 16, 2, 6, 5, 8]
    assert_holds(store, *wanted)
    assert store.find([key_of(str(n)) for n in wanted])[:, 2].tolist() == [n % 4 for n in wanted]
    assert [row[:2].tolist() for row in found(store, 7)[0]] == [[7, 0], [7, 1], [7, 2]]
    if on_disk:
        assert_holds(VectorStore(tmp_path), *wanted)


def test_vectors_of_one_width_are_taken_in_any_form():
    store = VectorStore(None)
    numbers = torch.arange(24.0, requires_grad=True)
    store.add([key_of("a"), key_of("b")], numbers[:6].view(2, 3))
    store.add([key_of("c"), key_of("d")], numbers[6:18].view(2, 2, 3))
    store.add([key_of("e"), key_of("f")], [numbers[18:21], numbers[21:].view(1, 3).double()])
    places = store.find([key_of(name) for name in "abcdef"])
    assert places[:, 2].tolist() == [1, 1, 2, 2, 1, 1]
    assert torch.equal(store.read(places), torch.arange(24).half().view(-1, 3))


def test_what_is_not_there_cannot_be_read(tmp_path):
    store = VectorStore(tmp_path)
    add(store, 1)
    places = store.find([key_of("1"), key_of("nothing")])
    assert places[:, 0].tolist() == [0, NOWHERE]
    with pytest.raises(KeyError, match="not in the store"):
        store.read(places)


def test_two_writers_have_parts_of_their_own_and_see_each_other_once_they_look(tmp_path):
    first, second, reader = (VectorStore(tmp_path) for _ in range(3))
    add(first, 1, 2, 3)
    add(second, 5, 6)
    assert_holds(first, 1, 2, 3)
    assert_holds(second, 5, 6)
    for _ in range(2):  # looking twice doubles nothing
        for store in (first, second, reader):
            store.refresh()
            assert_holds(store, 1, 2, 3, 5, 6)
    add(second, 1, 7)  # 1 is known by now
    add(first, 9)
    for store in (reader, first, second, VectorStore(tmp_path)):
        store.refresh()
        assert_holds(store, 1, 2, 3, 5, 6, 7, 9)
    for store in (first, second):
        store.close()
    entries = sorted(path.stat().st_size for path in tmp_path.glob("*.entries"))
    assert entries == [3 * ENTRY.itemsize, 4 * ENTRY.itemsize]
    assert_holds(VectorStore(tmp_path), 1, 2, 3, 5, 6, 7, 9)


def test_equal_keys_from_two_writers_stay_each_with_rows_of_one(tmp_path):
    first, second = VectorStore(tmp_path), VectorStore(tmp_path)
    key, more = key_of("the same"), key_of("more")
    first.add([key], torch.full((1, WIDTH), 1.0))
    second.add([key, more], torch.full((2, 2, WIDTH), 2.0))
    for store, rows in ((first, 1), (second, 2), (VectorStore(tmp_path), 1)):
        store.refresh()
        assert store.read(store.find([key])).tolist() == [[rows] * WIDTH] * rows
        assert store.read(store.find([more, key, more])).tolist() == [
            *[[2] * WIDTH] * 2,
            *[[rows] * WIDTH] * rows,
            *[[2] * WIDTH] * 2,
        ]
    assert len(VectorStore(tmp_path)) == 2


def test_a_key_that_another_writer_added_too_counts_once(tmp_path):
    first, second = VectorStore(tmp_path), VectorStore(tmp_path)
    add(first, 1, 2)
    add(second, 2, 3)
    first.refresh()
    assert_holds(first, 1, 2, 3)


def test_what_the_part_to_go_on_with_holds_is_not_written_again(tmp_path):
    first, second = VectorStore(tmp_path), VectorStore(tmp_path)
    add(first, 1, 2)
    first.close()
    add(second, 2, 3)
    (entries,) = tmp_path.glob("*.entries")
    assert entries.stat().st_size == 3 * ENTRY.itemsize


def test_the_first_keys_of_a_store_in_memory_may_have_no_rows():
    store = VectorStore(None)
    add(store, 4)
    add(store, 3)
    assert_holds(store, 3, 4)


def test_a_part_that_was_given_up_goes_on_with_the_next_writer(tmp_path):
    first, second = VectorStore(tmp_path), VectorStore(tmp_path)
    add(first, 1, 2)
    first.close()
    add(second, 3)  # in the first's part, whose entries it has seen by now
    assert len(list(tmp_path.glob("*.rows"))) == 1
    assert_holds(second, 1, 2, 3)
    first.refresh()
    assert_holds(first, 1, 2, 3)
    add(first, 5)
    assert len(list(tmp_path.glob("*.rows"))) == 2
    second.refresh()
    assert_holds(second, 1, 2, 3, 5)


def test_rows_are_mapped_and_mapped_again_when_there_are_more(tmp_path):
    writer, reader = VectorStore(tmp_path), VectorStore(tmp_path)
    for number in range(1, 30):
        add(writer, number)
        reader.refresh()
        assert_holds(reader, *range(1, number + 1))
    (part,) = reader._parts
    assert isinstance(part.rows(), np.memmap) and not part.rows().flags.writeable
    old = found(reader, 3)[0]
    old.fill_(9)  # what was read is the reader's own
    assert_holds(reader, *range(1, 30))


@pytest.mark.parametrize("name", ["rows", "entries"])
def test_wherever_a_killed_writer_stopped_whole_keys_alone_are_there(tmp_path, name):
    numbers = [1, 2, 3, 4, 5, 6, 7]
    writer = VectorStore(tmp_path / "whole")
    for number in numbers:
        add(writer, number)
    writer.close()
    ends = np.cumsum([n % 4 for n in numbers]) * WIDTH * 2
    (path,) = (tmp_path / "whole").glob(f"*.{name}")
    step = WIDTH * 2 // 3 if name == "rows" else 5
    for size in range(0, path.stat().st_size + 1, step):
        folder = tmp_path / str(size)
        shutil.copytree(tmp_path / "whole", folder)
        os.truncate(folder / path.name, size)
        whole = (ends <= size).sum() if name == "rows" else size // ENTRY.itemsize
        reader, again = VectorStore(folder), VectorStore(folder)
        assert_holds(reader, *numbers[:whole])
        add(again, *numbers[::-1], 9)  # one after the other way round: 4 and 3 may be new
        assert_holds(again, *numbers, 9)
        reader.refresh()
        assert_holds(reader, *numbers, 9)
        again.close()
        assert_holds(VectorStore(folder), *numbers, 9)
        (rows,) = folder.glob("*.rows")
        assert rows.stat().st_size == ends[-1] + WIDTH * 2


@pytest.mark.parametrize("settled_at", [0, 3, 10_000])
def test_when_entries_are_sorted_in_changes_nothing(tmp_path, monkeypatch, settled_at):
    monkeypatch.setattr(module, "SETTLED_AT", settled_at)
    for folder in (None, tmp_path):
        store = VectorStore(folder)
        for start in range(0, 60, 5):
            add(store, *range(start, start + 7))  # two of which come again
            assert_holds(store, *range(start + 7))
        (fresh, sorted_in) = len(store._index._fresh), len(store._index._keys)
        assert fresh + sorted_in == 62
        assert (sorted_in > 50) is (settled_at < 60)
        assert np.array_equal(store._index._keys, np.unique(store._index._keys))


BYTES = st.sampled_from([0x00, 0x01, 0x7F, 0x80, 0xFF])
KEYS = st.lists(BYTES, min_size=KEY_BYTES, max_size=KEY_BYTES).map(bytes)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(KEYS, max_size=6), max_size=6), st.integers(0, 4), st.lists(KEYS))
def test_any_16_bytes_are_a_key(batches, settled_at, others):
    """Zeros at its end are part of it, and large bytes come after small ones."""
    expected: dict[bytes, int] = {}
    store = VectorStore(None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SETTLED_AT", settled_at)
        for keys in batches:
            new = [key for key in dict.fromkeys(keys) if key not in expected]
            numbers = {key: len(expected) + i for i, key in enumerate(new)}
            store.add(keys, torch.tensor([[numbers.get(key, 999)] for key in keys]))
            expected |= numbers
    assert len(store) == len(expected)
    for key in (*expected, *others):
        assert (key in store) is (key in expected)
    rows = store.read(store.find(list(expected))).flatten().tolist()
    assert rows == list(expected.values())


def test_a_store_of_fields_is_by_backbone_and_tells_of_all_that_others_add(tmp_path):
    one, other, foreign = Store(tmp_path, "b"), Store(tmp_path, "b"), Store(tmp_path, "c")
    for name in ("image_global", "text_global"):
        assert len(one[name]) == len(other[name]) == 0
        add(one[name], 1, 2)
    assert one["image_global"] is one["image_global"]
    one.close()
    other.refresh()
    for store in (other, Store(tmp_path, "b")):
        assert_holds(store["image_global"], 1, 2)
        assert_holds(store["text_global"], 1, 2)
    assert len(foreign["image_global"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"b"}  # a store that is read makes nothing
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"image_global", "text_global"}


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="a full disk is made by a limit of Unix")
def test_what_is_added_after_a_disk_was_full_has_its_own_rows(tmp_path: Path):
    subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], check=True)
    store = VectorStore(tmp_path)
    rows = store.read(store.find([key_of("after")]))
    assert rows.tolist() == [[7.0] * WIDTH]
