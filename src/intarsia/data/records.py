"""The records of a data set, map-style: what is known of them at hand, their pictures where they
lie until somebody looks."""

from __future__ import annotations

import hashlib
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from intarsia.data.columns import KNOWN, columns_of, record_of
from intarsia.data.images import image_size
from intarsia.runtime import chunks
from intarsia.types import FilePart, ImageSource, Record

KEY_BYTES = 16
PACKED_AT_ONCE = 4096
MOST_IN_ONE = 2**30  # bytes of an array without chunks, whose text offsets are 32 bits
KEYED_AT_ONCE = 512
READ_AT_ONCE = 64  # bounds the memory of pictures held at once
IMAGE = {
    "file": pa.string(),
    "start": pa.int64(),
    "data": pa.large_binary(),
    "extent": pa.list_(pa.int64()),
    "kind": pa.string(),
}
"""Where a packed record's picture is: in a file, ``extent`` (bytes) from ``start`` on where it is a
part; or it is ``data``, encoded, or numbers of a ``kind`` where ``extent`` is their shape."""
PACKED = pa.schema(KNOWN | IMAGE)


class Rows(Protocol):
    """Where the rows of :class:`Records` come from. Whoever works in several processes pickles it:
    each then opens its files anew."""

    def __len__(self) -> int: ...

    def column(self, name: str) -> pa.ChunkedArray | pa.Array:
        """``id``, ``captions`` or ``size`` of all, without their pictures."""
        ...

    def take(self, places: Sequence[int], *, pictures: bool = True) -> list[Record]:
        """Some records; without ``pictures``, those that would have to be read may be empty."""
        ...

    def digests(self, places: Sequence[int]) -> list[bytes] | None:
        """The SHA-256 of the bytes of pictures, where it is known."""
        ...


class Records(Sequence[Record]):
    """The records of a data set in the order of their ids.

    ``records[i]`` is read when it is asked for; a slice is the records of a part. Ids, captions and
    sizes are read once, as columns, when they are first asked for.

    Args:
        rows: all rows that there are.
        places: which of them, in order; None = all.
    """

    def __init__(self, rows: Rows, places: NDArray[np.int64] | None = None) -> None:
        self._rows, self._places = rows, places

    @staticmethod
    def of(records: Iterable[Record]) -> Records:
        """The same records; those of a stream are packed: their pictures stay in their files."""
        return records if isinstance(records, Records) else Records(PackedRows.of(records))

    def __getstate__(self) -> dict[str, Any]:
        return {"_rows": self._rows, "_places": self._places}

    def __len__(self) -> int:
        return len(self._rows) if self._places is None else len(self._places)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Records: ...

    def __getitem__(self, index: int | slice) -> Record | Records:
        if isinstance(index, slice):
            return self.at(np.arange(len(self))[index])
        return self._rows.take(self._at([range(len(self))[index]]))[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        """Many records in one read; torch's DataLoader calls this with the indices of a batch."""
        return self._rows.take(self._at(indices))

    def without_pictures(self, indices: Sequence[int]) -> list[Record]:
        """Many records, perhaps without their pictures; those whose size is not known have them."""
        return self._rows.take(self._at(indices), pictures=False)

    def __iter__(self) -> Iterator[Record]:
        for some in chunks(range(len(self)), READ_AT_ONCE):
            yield from self.__getitems__(some)

    def at(self, indices: Sequence[int] | NDArray[np.int64]) -> Records:
        """The records at some indices, in the order of these."""
        index = np.arange(len(self))[np.asarray(indices, dtype=np.int64)]
        return Records(self._rows, index if self._places is None else self._places[index])

    def id_of(self, index: int) -> str:
        return str(self._ids[index].as_py())

    @property
    def ids(self) -> list[str]:
        found: list[str] = self._ids.to_pylist()
        return found

    @property
    def captions(self) -> list[str]:
        """All captions of all records, in order."""
        found: list[str] = self._texts.to_pylist()
        return found

    def captions_at(self, rows: NDArray[np.int64]) -> list[str]:
        """Some of all captions, counted through all records."""
        found: list[str] = self._texts.take(pa.array(rows)).to_pylist()
        return found

    @property
    def num_captions(self) -> NDArray[np.int64]:
        """(I,) captions of each record."""
        return np.asarray(pc.list_value_length(self._captions)).astype(np.int64)

    @property
    def num_phrases(self) -> int:
        """How many phrases are marked in captions, in all records."""
        return int(pc.sum(pc.list_value_length(self._column("phrases"))).as_py() or 0)

    def size(self, index: int) -> tuple[int, int]:
        """A picture's (width, height) as shown: as is known, or from the header of its file.

        Raises:
            DataError: as of ``image_size``.
        """
        known = self._sizes[index].as_py()
        return (known[0], known[1]) if known else image_size(self[index].image)

    def picture_keys(self) -> list[bytes]:
        """What each picture is known by in a store of vectors: a hash of its bytes or pixels, or of
        where it lies: the file's path, size and time, and the place in it."""
        found: list[bytes] = []
        for some in chunks(range(len(self)), KEYED_AT_ONCE):
            digests = self._rows.digests(self._at(some))
            if digests is None:
                found += [picture_key(record.image) for record in self.__getitems__(some)]
            else:
                found += [digest[:KEY_BYTES] for digest in digests]
        return found

    def digests(self, indices: Sequence[int]) -> list[bytes] | None:
        """The SHA-256 of pictures, where they are known without reading them."""
        return self._rows.digests(self._at(indices))

    def known(self) -> Iterator[tuple[Record, bytes | None]]:
        """Every record, and the SHA-256 of its picture where that is known; then its picture may
        be left out."""
        for some in chunks(range(len(self)), KEYED_AT_ONCE):
            places = self._at(some)
            digests: Sequence[bytes | None] = self._rows.digests(places) or [None] * len(some)
            records = self._rows.take(places, pictures=digests[0] is None)
            yield from zip(records, digests, strict=True)

    def _at(self, indices: Sequence[int]) -> list[int]:
        inside = range(len(self))
        chosen = [inside[index] for index in indices]
        return chosen if self._places is None else self._places[chosen].tolist()

    def _column(self, name: str) -> Any:
        column = self._rows.column(name)
        return column if self._places is None else column.take(pa.array(self._places))

    def retold(self, records: Iterable[Record]) -> Records:
        """The same pictures, of which ``records``, as many and in order, say all else."""
        return Records(Retold(self, PackedRows.of(replace(one, image=b"") for one in records)))

    @cached_property
    def _ids(self) -> Any:
        return _joined(self._column("id"))

    @cached_property
    def _captions(self) -> Any:
        return self._column("captions")

    @cached_property
    def _texts(self) -> Any:
        return _joined(pc.list_flatten(self._captions))

    @cached_property
    def _sizes(self) -> Any:
        return self._column("size")


def without_pictures(records: Iterable[Record]) -> Iterator[Record]:
    """Every record, of :class:`Records` perhaps without its picture."""
    if not isinstance(records, Records):
        yield from records
        return
    for some in chunks(range(len(records)), PACKED_AT_ONCE):
        yield from records.without_pictures(some)


def chosen(records: Sequence[Record], keep: Callable[[Record], bool]) -> Sequence[Record]:
    """The records that ``keep`` is true of, whose pictures stay where they are."""
    return at(records, [i for i, one in enumerate(without_pictures(records)) if keep(one)])


def at(records: Sequence[Record], indices: Sequence[int]) -> Sequence[Record]:
    """The records at some indices."""
    return records.at(indices) if isinstance(records, Records) else [records[i] for i in indices]


class PackedRows:
    """Rows in memory, as an Arrow table. Other processes map a temporary file of it, so that all
    share one copy.

    Args:
        table: of the schema :data:`PACKED`.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self._file: Path | None = None

    @staticmethod
    def of(records: Iterable[Record]) -> PackedRows:
        batches = [_batch(some) for some in chunks(records, PACKED_AT_ONCE)]
        table = pa.Table.from_batches(batches, PACKED)
        return PackedRows(table.combine_chunks() if table.nbytes < MOST_IN_ONE else table)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def column(self, name: str) -> pa.ChunkedArray | pa.Array:
        return self.table[name]

    def take(self, places: Sequence[int], *, pictures: bool = True) -> list[Record]:
        part = self._part(self.table.drop_columns(["data"]), places)
        rows = part.to_pylist()
        if not pictures and all(row["file"] or row["size"] for row in rows):
            return [record_of(row, _image(row, None)) for row in rows]
        data = self._part(self.table.select(["data"]), places)["data"]
        return [record_of(row, _image(row, one)) for row, one in zip(rows, data, strict=True)]

    @staticmethod
    def _part(table: pa.Table, places: Sequence[int]) -> pa.Table:
        """Some rows. Of a table in chunks they are cut out one by one, since ``take`` would put all
        of its chunks together first."""
        if not len(places) or table.column(0).num_chunks == 1:
            return table.take(pa.array(places, pa.int64()))
        return pa.concat_tables([table.slice(place, 1) for place in places])

    def digests(self, places: Sequence[int]) -> None:
        return None

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedRows:
        return PackedRows(self.table)  # which nothing changes

    def __getstate__(self) -> dict[str, Any]:
        if self._file is None:
            folder = tempfile.TemporaryDirectory(prefix="intarsia-records-")
            file = Path(folder.name) / "records.arrow"
            with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, PACKED) as writer:
                writer.write_table(self.table)
            self._file = file
            weakref.finalize(self, folder.cleanup)
        return {"file": self._file}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._file = state["file"]
        self.table = pa.ipc.open_file(pa.memory_map(str(self._file))).read_all()


class Retold:
    """The pictures of some records, of which other rows say all else."""

    def __init__(self, pictures: Records, told: PackedRows) -> None:
        assert len(pictures) == len(told)
        self.pictures, self.told = pictures, told

    def __len__(self) -> int:
        return len(self.told)

    def column(self, name: str) -> pa.ChunkedArray | pa.Array:
        return self.told.column(name)

    def take(self, places: Sequence[int], *, pictures: bool = True) -> list[Record]:
        known = self.told.take(places, pictures=False)
        load = self.pictures.__getitems__ if pictures else self.pictures.without_pictures
        seen = load(places)
        return [replace(one, image=other.image) for one, other in zip(known, seen, strict=True)]

    def digests(self, places: Sequence[int]) -> list[bytes] | None:
        return self.pictures.digests(places)


def _joined(column: Any) -> Any:
    """In one piece, where its texts are not too long: to take of many is slow."""
    is_small = column.nbytes < MOST_IN_ONE
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) and is_small else column


def picture_key(image: ImageSource) -> bytes:
    """As :meth:`Records.picture_keys` has them, ``KEY_BYTES``."""
    if isinstance(image, bytes):
        return hashlib.sha256(image).digest()[:KEY_BYTES]
    if isinstance(image, np.ndarray):
        return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()[:KEY_BYTES]
    path = image.path if isinstance(image, FilePart) else image
    place = (image.start, image.length) if isinstance(image, FilePart) else ()
    try:
        stat = path.stat()
        seen = stat.st_size, stat.st_mtime_ns
    except OSError:
        seen = -1, -1  # whoever reads it reports it
    name = repr((os.path.abspath(path), *seen, *place))
    return hashlib.sha256(name.encode()).digest()[:KEY_BYTES]


def _batch(records: Sequence[Record]) -> pa.RecordBatch:
    known = columns_of(records)
    places = list(zip(*(_place(record.image) for record in records), strict=True))
    images = {
        name: pa.array(values, kind)
        for (name, kind), values in zip(IMAGE.items(), places, strict=True)
    }
    return pa.RecordBatch.from_pydict(known | images, schema=PACKED)


def _place(image: ImageSource) -> tuple[Any, ...]:
    """``file``, ``start``, ``data``, ``extent`` and ``kind`` of a picture."""
    if isinstance(image, Path):
        return str(image), None, None, None, None
    if isinstance(image, FilePart):
        return str(image.path), image.start, None, [image.length], None
    if isinstance(image, np.ndarray):
        return None, None, image.tobytes(), list(image.shape), image.dtype.str
    return None, None, image, None, None


def _image(row: dict[str, Any], data: Any) -> ImageSource:
    if row["file"] is None and data is None:
        return b""
    if row["file"] is None:
        buffer = data.as_buffer()
        if row["extent"] is None:
            return bytes(buffer)
        return np.frombuffer(buffer, row["kind"]).reshape(row["extent"])
    if row["start"] is None:
        return Path(row["file"])
    return FilePart(Path(row["file"]), row["start"], row["extent"][0])
