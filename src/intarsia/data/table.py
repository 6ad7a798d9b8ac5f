"""The native format: one Lance table holding the encoded pictures and all that is known of them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from intarsia.data.images import load_image
from intarsia.data.order import WHOLE, Part
from intarsia.data.problems import Problems
from intarsia.errors import DataError
from intarsia.runtime import chunks
from intarsia.types import Negative, Phrase, Record, Region

VERSION = "1"
VERSION_KEY = "intarsia.table"
BATCH = 64  # records; bounds the memory of pictures held at once

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "image": pa.large_binary(),
        "captions": pa.list_(pa.string()),
        "regions": pa.list_(
            pa.struct(
                {"box": pa.list_(pa.float64(), 4), "label": pa.string(), "score": pa.float64()}
            )
        ),
        "phrases": pa.list_(
            pa.struct(
                {
                    "caption": pa.int32(),
                    "span": pa.list_(pa.int32(), 2),
                    "regions": pa.list_(pa.int32()),
                }
            )
        ),
        "negatives": pa.list_(
            pa.struct({"caption": pa.int32(), "kind": pa.string(), "text": pa.string()})
        ),
    },
    metadata={VERSION_KEY: VERSION},
)


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


class RecordTable:
    """A table by index; each process that a copy is pickled to opens it at first use.

    Lance runs threads, so loaders with workers must use ``spawn`` or ``forkserver``.

    Raises:
        DataError: At first use: ``path`` is not a table, or one of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Record:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        """Many records in one read; torch's DataLoader calls this with the indices of a batch."""
        rows = [range(len(self))[index] for index in indices]
        return [_record(row) for row in self._dataset.take(rows).to_pylist()]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    @cached_property
    def _dataset(self) -> Any:
        return _open(self.path)

    @cached_property
    def _length(self) -> int:
        return int(self._dataset.count_rows())


def read_table(path: Path, part: Part = WHOLE) -> Iterator[Record]:
    """The records of a part of a table, in the order in which they were written.

    That is the order of their ids where a reader of this package wrote them; another would take
    the pictures from all over the file. Parts by share depend on ids alone, not on the order.

    Raises:
        DataError: ``path`` is not a table, or one of another version.
    """
    batches = _open(path).to_batches(batch_size=BATCH)
    rows = (row for batch in batches for row in batch.to_pylist())
    yield from map(_record, part.of(rows, lambda row: str(row["id"])))


class _Batches:
    """Records -> Arrow batches; keeps the error that ends them, which Arrow would turn to text."""

    def __init__(self, records: Iterable[Record], problems: Problems) -> None:
        self.records, self.problems = records, problems
        self.num_written = 0
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[Any]:
        try:
            for batch in chunks(self._rows(), BATCH):
                self.num_written += len(batch)
                yield pa.RecordBatch.from_pylist(batch, schema=SCHEMA)
        except BaseException as error:
            self.error = error
            raise

    def _rows(self) -> Iterator[dict[str, Any]]:
        seen_before, taken = self.problems.num_seen, 0
        for record in self.records:
            taken += 1
            try:
                yield asdict(replace(record, image=_encoded(record)))
            except DataError as error:
                source = record.image if isinstance(record.image, Path) else record.id
                self.problems.add(source, "image", str(error))
        counted_by_reader = self.problems.num_seen - seen_before
        self.problems.seen(max(0, taken - counted_by_reader))


def _encoded(record: Record) -> bytes:
    picture = load_image(record.image)
    if isinstance(record.image, Path):
        return record.image.read_bytes()
    if isinstance(record.image, np.ndarray):
        buffer = BytesIO()
        picture.save(buffer, "PNG")
        return buffer.getvalue()
    return record.image


def _open(path: Path) -> Any:
    try:
        dataset = lance.dataset(str(path.absolute()))  # "a:b" would be an address
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not a table: {error}") from error
    version = (dataset.schema.metadata or {}).get(VERSION_KEY.encode(), b"none").decode()
    if version != VERSION:
        raise DataError(f"{path}: table version {version!r}, this intarsia reads {VERSION!r}")
    return dataset


def _record(row: dict[str, Any]) -> Record:
    return Record(
        id=row["id"],
        image=row["image"],
        captions=tuple(row["captions"]),
        regions=tuple(Region(tuple(r["box"]), r["label"], r["score"]) for r in row["regions"]),
        phrases=tuple(
            Phrase(p["caption"], tuple(p["span"]), tuple(p["regions"])) for p in row["phrases"]
        ),
        negatives=tuple(Negative(**negative) for negative in row["negatives"]),
    )
