"""Vectors under the name of what they are vectors of: computed once, never lost, never doubled.

A folder holds parts; each writer has a part of its own. A part is two files that only grow: rows
of half precision and, after them, their 16-byte keys. A row counts once its key is whole, so that a
writer may be killed at any moment: what was cut is dropped when the part is opened again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from torch import Tensor

from intarsia.errors import DataError
from intarsia.runtime import atomic

KEY_BYTES = 16


def key_of(*parts: bytes | str) -> bytes:
    """The name of some content: a hash of its parts."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


class VectorStore:
    """A growing table of vectors by key; several processes may add to one folder, and several
    threads to one store.

    Args:
        folder: made where it is missing; None keeps everything in memory.
        made_by: what the vectors depend on besides their keys (model, preprocessing).

    Raises:
        DataError: the folder holds vectors made by something else.
    """

    def __init__(self, folder: Path | None, made_by: str) -> None:
        self.folder = folder
        self._rows: dict[bytes, int] = {}
        self._tables: list[np.ndarray] = []
        self._total = 0
        self._lock: FileLock | None = None
        self._files: tuple[BinaryIO, BinaryIO] | None = None
        self._threads = Lock()
        if folder is not None:
            self._open(folder, made_by)

    def _open(self, folder: Path, made_by: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        meta = folder / "meta.json"
        if meta.exists():
            found = json.loads(meta.read_text())["made_by"]
            if found != made_by:
                raise DataError(
                    f"{folder} holds vectors made by {found}, not by {made_by}: "
                    "name another folder or delete it"
                )
        else:
            with atomic(meta) as draft:
                draft.write_text(json.dumps({"made_by": made_by}))
        for keys in sorted(folder.glob("part-*.keys")):
            self._read(keys)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def rows(self, keys: Sequence[bytes]) -> np.ndarray:
        """The places of the keys' vectors in :meth:`table`, (len(keys),) int64."""
        return np.array([self._rows[key] for key in keys], dtype=np.int64)

    def table(self) -> np.ndarray:
        """All vectors, (rows, W) half precision; (0, 0) of an empty store."""
        with self._threads:
            if len(self._tables) != 1:
                self._tables = [np.concatenate(self._tables)] if self._tables else []
            return self._tables[0] if self._tables else np.zeros((0, 0), np.float16)

    def add(self, keys: Sequence[bytes], vectors: Tensor) -> None:
        """Keep (len(keys), W) vectors; keys that are there already are passed over.

        Raises:
            DataError: a vector is not finite in half precision.
        """
        with self._threads:
            self._add(keys, vectors)

    def _add(self, keys: Sequence[bytes], vectors: Tensor) -> None:
        fresh = {key: i for i, key in enumerate(keys) if key not in self._rows}
        if not fresh:
            return
        data = vectors[list(fresh.values())].detach().cpu().half()
        if not data.isfinite().all():
            raise DataError(f"{self.folder}: a vector has values that half precision cannot hold")
        array = data.numpy()
        if self.folder is not None:
            rows, names = self._part(self.folder, data.shape[1])
            rows.write(array.tobytes())
            rows.flush()
            names.write(b"".join(fresh))
            names.flush()
        self._rows.update({key: self._total + i for i, key in enumerate(fresh)})
        self._total += len(array)
        self._tables.append(array)

    def close(self) -> None:
        if self._files is not None and self._lock is not None:
            for file in self._files:
                os.fsync(file.fileno())
                file.close()
            self._lock.release()
            self._files = self._lock = None

    def _read(self, keys: Path) -> None:
        names = keys.read_bytes()
        count = len(names) // KEY_BYTES
        path = keys.with_suffix(".rows")
        width = int(keys.stem.split("-")[2])
        count = min(count, path.stat().st_size // (2 * width))
        if not count:
            return
        table = np.memmap(path, np.float16, "r", shape=(count, width))
        for i in range(count):
            self._rows.setdefault(names[i * KEY_BYTES : (i + 1) * KEY_BYTES], self._total + i)
        self._total += count
        self._tables.append(table)

    def _part(self, folder: Path, width: int) -> tuple[BinaryIO, BinaryIO]:
        """This process's part, locked: the first that no other holds, cut to its whole rows."""
        if self._files is not None:
            return self._files
        for number in range(10_000):
            stem = folder / f"part-{number:04d}-{width}"
            lock = FileLock(stem.with_suffix(".lock"))
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            rows, names = (stem.with_suffix(s).open("ab") for s in (".rows", ".keys"))
            whole = min(rows.tell() // (2 * width), names.tell() // KEY_BYTES)
            rows.truncate(whole * 2 * width)
            names.truncate(whole * KEY_BYTES)
            self._lock, self._files = lock, (rows, names)
            return self._files
        raise DataError(f"{folder}: 10,000 parts are held by other processes")
