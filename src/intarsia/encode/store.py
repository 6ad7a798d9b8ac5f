"""The one store of what frozen towers give: computed once, never lost, never doubled.

Vectors go by the key of what was looked at (:mod:`intarsia.encode.views`) and of the backbone. A
folder holds a folder a field; in it each writer has a part of its own, two files that only grow:
rows of half precision and, after them, entries of 24 bytes (a key, and where its rows end). Rows
count once their entry is whole, so that a writer may be killed at any moment: what was cut is
dropped when the part is opened again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import Any, BinaryIO

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor

from intarsia.data.records import KEY_BYTES
from intarsia.errors import DataError

ENTRY = np.dtype([("key", f"S{KEY_BYTES}"), ("end", "<i8")])
SETTLED_AT = 65_536  # fresh entries that are found by dictionary before they are sorted in
NOWHERE = -1

Places = NDArray[np.int64]
"""(K,3): the part, the first row and the number of rows of each key; part ``NOWHERE`` of none."""


class Store:
    """The fields of one backbone's vectors.

    Args:
        folder: of all stores; None keeps everything in memory.
        made_by: what vectors depend on besides their keys: the backbone's fingerprint.
    """

    def __init__(self, folder: Path | None, made_by: str) -> None:
        self.folder = folder and folder / made_by
        self._fields: dict[str, VectorStore] = {}
        self._lock = RLock()

    def __getitem__(self, name: str) -> VectorStore:
        """A field, such as ``image_global``."""
        with self._lock:
            if name not in self._fields:
                self._fields[name] = VectorStore(self.folder and self.folder / name)
            return self._fields[name]

    def refresh(self) -> None:
        """Take notice of what others have added."""
        for vectors in self._fields.values():
            vectors.refresh()

    def close(self) -> None:
        """Write everything through to the disk and let other processes go on from it."""
        for vectors in self._fields.values():
            vectors.close()


class VectorStore:
    """A growing table of vectors by key; several processes may add to one folder, and several
    threads to one store. A key has one row or more, all of one width.

    Args:
        folder: made when something is added; None keeps everything in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._index = _Index()
        self._parts: list[_Part] = []
        self._names: dict[str, int] = {}
        self._own: _Writer | None = None
        self._lock = RLock()
        self.refresh()

    def __getstate__(self) -> dict[str, Any]:
        """For a process that reads what is there now; files are mapped anew there."""
        state = {name: value for name, value in self.__dict__.items() if name != "_lock"}
        return state | {"_own": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = RLock()

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, key: bytes) -> bool:
        return bool(self.find([key])[0, 0] != NOWHERE)

    def find(self, keys: Sequence[bytes]) -> Places:
        """Where the rows of each key are."""
        with self._lock:
            return self._index.find(keys)

    def read(self, places: Places) -> Tensor:
        """All rows of some places, one after the other, (rows, W) half precision.

        Raises:
            KeyError: a place is of a key that is not there.
        """
        if len(places) and places[:, 0].min() < 0:
            raise KeyError("a key that is not in the store")
        counts = places[:, 2]
        part = np.repeat(places[:, 0], counts)
        row = np.arange(len(part)) + np.repeat(places[:, 1] - (counts.cumsum() - counts), counts)
        with self._lock:
            tables = {int(number): self._parts[number].rows() for number in np.unique(part)}
        if len(tables) == 1:
            (table,) = tables.values()
            return torch.from_numpy(table[row])
        width = self._parts[int(places[0, 0])].width if len(places) else 0
        found = np.empty((len(row), width), np.float16)
        for number, table in tables.items():
            inside = part == number
            found[inside] = table[row[inside]]
        return torch.from_numpy(found)

    def add(self, keys: Sequence[bytes], vectors: Tensor | Sequence[Tensor]) -> None:
        """Keep the vectors of each key; those of keys that are there already are passed over.

        Args:
            keys: K of them.
            vectors: (K,W), (K,n,W), or a list of K tensors (n,W).

        Raises:
            DataError: a vector is not finite in half precision.
        """
        with self._lock:
            if not (fresh := self._lacking(keys)):
                return
            if isinstance(vectors, Tensor):  # one copy from the device for all
                vectors = vectors.detach()[list(fresh.values())].half().cpu()
                given = dict(zip(fresh, vectors, strict=True))
            else:
                given = {key: vectors[i].detach().half().cpu() for key, i in fresh.items()}
            blocks = {key: x[None] if x.ndim == 1 else x for key, x in given.items()}
            if not torch.cat(list(blocks.values())).isfinite().all():
                raise DataError(f"{self.folder}: a vector has values beyond half precision")
            number = self._writable(vectors[0].shape[-1])
            if fresh := self._lacking(list(blocks)):  # a part to go on with may have some
                own = [blocks[key] for key in fresh]
                counts = np.array([len(block) for block in own])
                self._append(number, list(fresh), torch.cat(own).numpy(), counts)

    def _lacking(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        """The keys that are not there, and which of ``keys`` each is."""
        places = self._index.find(keys)
        return {key: i for i, key in enumerate(keys) if places[i, 0] == NOWHERE}

    def _append(
        self, number: int, keys: list[bytes], rows: NDArray[np.float16], counts: Places
    ) -> None:
        part = self._parts[number]
        ends = part.num_rows + counts.cumsum()
        if self._own is not None:
            try:
                self._own.write(rows, keys, ends)
            except BaseException:  # what is written in part is cut off when the part is taken again
                own, self._own = self._own, None
                own.abandon()
                raise
        part.append(rows)
        part.num_entries += len(keys)
        self._index.add(keys, number, ends, counts)

    def _writable(self, width: int) -> int:
        """The number of the part that this object adds to.

        Raises:
            DataError: its vectors are of another width.
        """
        if self.folder is None:
            if not self._parts:
                self._parts.append(_Part(None, width))
            number = 0
        else:
            if self._own is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._own = _Writer.of(self.folder, width)
                self._take_in(self._own.stem)
            number = self._names[self._own.stem.name]
        if self._parts[number].width != width:
            kept = self._parts[number].width
            raise DataError(f"{self.folder}: has vectors of width {kept}, not of {width}")
        return number

    def refresh(self) -> None:
        """Take notice of what others have added to the folder."""
        with self._lock:
            for entries in sorted(self.folder.glob("part-*.entries")) if self.folder else ():
                if self._own is None or entries.stem != self._own.stem.name:
                    self._take_in(entries.with_suffix(""))

    def _take_in(self, stem: Path) -> None:
        """The entries of a part that are whole and not known yet."""
        width = int(stem.name.split("-")[2])
        if stem.name not in self._names:
            self._names[stem.name] = len(self._parts)
            self._parts.append(_Part(stem.with_suffix(".rows"), width))
        number = self._names[stem.name]
        part = self._parts[number]
        found = _entries(stem)[part.num_entries :]
        found = found[found["end"] <= part.whole_rows()]
        if len(found):
            part.num_entries += len(found)
            starts = np.concatenate([[part.num_rows], found["end"][:-1]])
            part.num_rows = int(found["end"][-1])
            self._index.settle(found["key"], number, found["end"], found["end"] - starts)

    def close(self) -> None:
        """Write everything through to the disk and give up the part that was added to."""
        with self._lock:
            if self._own is not None:
                self._own.close()
                self._own = None


def _entries(stem: Path) -> NDArray[np.void]:
    path = stem.with_suffix(".entries")
    count = path.stat().st_size // ENTRY.itemsize if path.exists() else 0
    return np.fromfile(path, ENTRY, count) if count else np.zeros(0, ENTRY)


@dataclass
class _Part:
    """The rows of one part: a file that is mapped, or what is in memory."""

    path: Path | None
    width: int
    num_rows: int = 0
    num_entries: int = 0
    _table: NDArray[np.float16] = field(init=False)

    def __post_init__(self) -> None:
        self._table = np.zeros((0, self.width), np.float16)

    def __getstate__(self) -> dict[str, Any]:
        mapped = {} if self.path is None else {"_table": self._table[:0].copy()}
        return self.__dict__ | mapped

    def whole_rows(self) -> int:
        assert self.path is not None
        return self.path.stat().st_size // (2 * self.width) if self.path.exists() else 0

    def append(self, rows: NDArray[np.float16]) -> None:
        first = self.num_rows
        self.num_rows += len(rows)
        if self.path is None:
            if self.num_rows > len(self._table):
                grown = np.empty((max(2 * first, self.num_rows), self.width), np.float16)
                if first:
                    grown[:first] = self._table[:first]
                self._table = grown
            self._table[first : self.num_rows] = rows

    def rows(self) -> NDArray[np.float16]:
        """All rows; a file is mapped again once it has grown."""
        if self.path is not None and len(self._table) < self.num_rows:
            shape = (self.num_rows, self.width)
            self._table = np.memmap(self.path, np.float16, "r", shape=shape)
        return self._table


class _Writer:
    """The two files of a part that is locked, open for more."""

    def __init__(self, stem: Path, lock: FileLock, width: int) -> None:
        self.stem, self._lock = stem, lock
        self._rows: BinaryIO = stem.with_suffix(".rows").open("ab")
        self._entries: BinaryIO = stem.with_suffix(".entries").open("ab")
        whole = _entries(stem)
        whole = whole[whole["end"] <= self._rows.tell() // (2 * width)]
        self._entries.truncate(len(whole) * ENTRY.itemsize)
        self._rows.truncate(int(whole["end"][-1]) * 2 * width if len(whole) else 0)

    @staticmethod
    def of(folder: Path, width: int) -> _Writer:
        """The first part that no other process holds, cut to its whole entries."""
        for number in range(10_000):
            stem = folder / f"part-{number:04d}-{width}"
            lock = FileLock(stem.with_suffix(".lock"))
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            return _Writer(stem, lock, width)
        raise DataError(f"{folder}: 10,000 parts are held by other processes")

    def write(self, rows: NDArray[np.float16], keys: list[bytes], ends: Places) -> None:
        self._rows.write(np.ascontiguousarray(rows).tobytes())
        self._rows.flush()
        entries = np.empty(len(keys), ENTRY)
        entries["key"], entries["end"] = keys, ends
        self._entries.write(entries.tobytes())
        self._entries.flush()

    def close(self) -> None:
        for file in (self._rows, self._entries):
            os.fsync(file.fileno())
            file.close()
        self._lock.release()

    def abandon(self) -> None:
        """Let go of the part as it is, whatever the disk says to that."""
        for file in (self._rows, self._entries):
            with suppress(OSError):
                file.close()
        self._lock.release()


class _Index:
    """Keys -> places: most sorted, the latest in a dictionary until they are sorted in."""

    def __init__(self) -> None:
        self._keys: NDArray[np.bytes_] = np.zeros(0, ENTRY["key"])
        self._places: Places = np.zeros((0, 3), np.int64)
        self._fresh: dict[bytes, tuple[int, int, int]] = {}

    def __len__(self) -> int:
        settled = np.isin(np.array(list(self._fresh), ENTRY["key"]), self._keys)
        return len(self._keys) + int((~settled).sum())

    def find(self, keys: Sequence[bytes]) -> Places:
        found = np.full((len(keys), 3), NOWHERE, np.int64)
        if len(self._keys) and len(keys):
            asked = np.frombuffer(b"".join(keys), ENTRY["key"])
            at = np.searchsorted(self._keys, asked).clip(max=len(self._keys) - 1)
            known = self._keys[at] == asked
            found[known] = self._places[at[known]]
        if self._fresh:
            for i, key in enumerate(keys):
                if key in self._fresh:
                    found[i] = self._fresh[key]
        return found

    def add(self, keys: list[bytes], part: int, ends: Places, counts: Places) -> None:
        places = zip(keys, (ends - counts).tolist(), counts.tolist(), strict=True)
        self._fresh.update({key: (part, first, count) for key, first, count in places})
        if len(self._fresh) > max(SETTLED_AT, len(self._keys) // 8):
            fresh, self._fresh = self._fresh, {}
            self._sort_in(np.array(list(fresh), ENTRY["key"]), np.array(list(fresh.values())))

    def settle(self, keys: NDArray[np.bytes_], part: int, ends: Places, counts: Places) -> None:
        """Add many; of a key that is there already the first place stays."""
        places = np.stack([np.full_like(ends, part), ends - counts, counts], 1)
        self._sort_in(keys, places)

    def _sort_in(self, keys: NDArray[np.bytes_], places: Places) -> None:
        both = np.concatenate([self._keys, keys])
        self._keys, first = np.unique(both, return_index=True)
        self._places = np.concatenate([self._places, places])[first]
