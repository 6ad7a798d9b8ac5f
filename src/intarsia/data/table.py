"""The native format: one Lance table holding the encoded pictures and all that is known of them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from intarsia.data.columns import KNOWN, columns_of, record_of
from intarsia.data.images import load_image
from intarsia.data.order import WHOLE, Part, order_of_ids
from intarsia.data.problems import Problems
from intarsia.data.records import Records
from intarsia.errors import DataError
from intarsia.runtime import chunks
from intarsia.types import FilePart, Record

VERSION = "2"
VERSION_KEY = "intarsia.table"
BATCH = 64  # records; bounds the memory of pictures held at once

SCHEMA = pa.schema(
    KNOWN | {"image": pa.large_binary(), "digest": pa.binary(32)},
    metadata={VERSION_KEY: VERSION},
)
"""``digest`` is the SHA-256 of ``image``, the bytes of its file."""


def write_table(path: Path, records: Iterable[Record], problems: Problems) -> int:
    """Write records to a new table at ``path``, all or nothing, and return their number.

    Files are stored as they are, arrays as PNG. Each picture is decoded once; one that cannot be
    goes to ``problems`` and is left out.

    Raises:
        DataError: ``path`` exists, or too many records are bad.
    """
    if path.exists():
        raise DataError(f"{path} exists: remove it or choose another path")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        batches = _Batches(records, problems)
        try:
            reader = pa.RecordBatchReader.from_batches(SCHEMA, batches)
            lance.write_dataset(reader, f"{folder}/table")
        except OSError as error:  # which is also what an error of the records arrives as
            raise batches.error or error from None
        problems.check()
        os.rename(f"{folder}/table", path)
    return batches.num_written


def read_table(path: Path, problems: Problems, part: Part = WHOLE) -> Records:
    """The records of a part of a table, in the order of their ids.

    Only the ids are read; a picture is, when its record is asked for.

    Raises:
        DataError: ``path`` is not a table, or one of another version.
    """
    rows = TableRows(path)
    ids = rows.column("id")
    problems.seen(len(ids))
    order = order_of_ids(ids)
    ids = ids.take(pa.array(order))
    places = order if part == WHOLE else _of_part(order, ids, part)
    again = np.zeros(len(order), dtype=bool)
    again[1:] = np.asarray(pc.equal(ids[1:], ids[:-1]))
    for index in np.flatnonzero(again & np.isin(order, places)):
        problems.add(path, "id", f"{ids[int(index)].as_py()!r} is used twice")
    places = places[~np.isin(places, order[again])] if again.any() else places
    is_all = np.array_equal(places, np.arange(len(order)))
    del ids
    pa.default_memory_pool().release_unused()
    return Records(rows, None if is_all else places)


def _of_part(order: NDArray[np.int64], ids: Any, part: Part) -> NDArray[np.int64]:
    """Those of the places that are in a part; ``ids`` are theirs."""
    chosen = part.of(range(len(order)), lambda index: str(ids[index].as_py()))
    return order[list(chosen)]


class TableRows:
    """The rows of a table, as they were written; each process opens it at first use.

    Lance runs threads, so loaders with workers must use ``spawn`` or ``forkserver``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return self._length

    def column(self, name: str) -> Any:
        return self._dataset.to_table(columns=[name])[name]

    def take(self, places: Sequence[int], *, pictures: bool = True) -> list[Record]:
        wanted = [*KNOWN, "image"] if pictures else list(KNOWN)
        rows = self._dataset.take(list(places), columns=wanted).to_pylist()
        return [record_of(row, row.get("image", b"")) for row in rows]

    def digests(self, places: Sequence[int]) -> list[bytes]:
        found: list[bytes] = self._dataset.take(list(places), columns=["digest"])[
            "digest"
        ].to_pylist()
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    @cached_property
    def _dataset(self) -> Any:
        return _open(self.path)

    @cached_property
    def _length(self) -> int:
        return int(self._dataset.count_rows())


class _Batches:
    """Records -> Arrow batches; keeps the error that ends them, which Arrow would turn to text."""

    def __init__(self, records: Iterable[Record], problems: Problems) -> None:
        self.records, self.problems = records, problems
        self.num_written = 0
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[Any]:
        try:
            for some in chunks(self._stored(), BATCH):
                self.num_written += len(some)
                records, images = zip(*some, strict=True)
                digests = [hashlib.sha256(image).digest() for image in images]
                columns = columns_of(records) | {"image": images, "digest": digests}
                yield pa.RecordBatch.from_pydict(columns, schema=SCHEMA)
        except BaseException as error:
            self.error = error
            raise

    def _stored(self) -> Iterator[tuple[Record, bytes]]:
        """The records with their sizes, and their pictures' bytes."""
        taken = 0
        for record in self.records:
            taken += 1
            try:
                image, size = _encoded(record)
                yield replace(record, size=size), image
            except DataError as error:
                source = record.image if isinstance(record.image, Path) else record.id
                self.problems.add(source, "image", str(error))
        self.problems.expect(taken)


def _encoded(record: Record) -> tuple[bytes, tuple[int, int]]:
    """A picture's bytes, and its size as shown."""
    picture = load_image(record.image)
    if isinstance(record.image, np.ndarray):
        buffer = BytesIO()
        picture.save(buffer, "PNG")
        return buffer.getvalue(), picture.size
    if isinstance(record.image, bytes):
        return record.image, picture.size
    part = record.image
    return part.read() if isinstance(part, FilePart) else part.read_bytes(), picture.size


def _open(path: Path) -> Any:
    try:
        dataset = lance.dataset(str(path.absolute()))  # "a:b" would be an address
    except (ValueError, OSError) as error:
        raise DataError(
            f"{path}: not a table that `intarsia import` has made; csv, tsv and jsonl files are "
            "read as the data set file, folders of classes as image_folder"
        ) from error
    version = (dataset.schema.metadata or {}).get(VERSION_KEY.encode(), b"none").decode()
    if version != VERSION:
        raise DataError(
            f"{path}: table version {version!r}, this intarsia reads {VERSION!r}: import it again"
        )
    return dataset
