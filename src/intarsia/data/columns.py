"""Records as columns of an Arrow table and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import pyarrow as pa

from intarsia.types import Negative, Phrase, Record, Region

REGION = pa.struct({"box": pa.list_(pa.float64(), 4), "label": pa.string(), "score": pa.float64()})
PHRASE = pa.struct(
    {"caption": pa.int32(), "span": pa.list_(pa.int32(), 2), "regions": pa.list_(pa.int32())}
)
NEGATIVE = pa.struct({"caption": pa.int32(), "kind": pa.string(), "text": pa.string()})
KNOWN = {
    "id": pa.string(),
    "captions": pa.list_(pa.string()),
    "regions": pa.list_(REGION),
    "phrases": pa.list_(PHRASE),
    "negatives": pa.list_(NEGATIVE),
    "size": pa.list_(pa.int32(), 2),
}
"""All of a record but its picture."""


def columns_of(records: Sequence[Record]) -> dict[str, pa.Array]:
    """The columns :data:`KNOWN` of some records."""
    regions = [region for record in records for region in record.regions]
    phrases = [phrase for record in records for phrase in record.phrases]
    negatives = [negative for record in records for negative in record.negatives]
    return {
        "id": pa.array([record.id for record in records], pa.string()),
        "captions": pa.array([list(record.captions) for record in records], KNOWN["captions"]),
        "regions": _lists(
            (len(record.regions) for record in records),
            REGION,
            pa.FixedSizeListArray.from_arrays(
                pa.array([side for region in regions for side in region.box], pa.float64()), 4
            ),
            [region.label for region in regions],
            [region.score for region in regions],
        ),
        "phrases": _lists(
            (len(record.phrases) for record in records),
            PHRASE,
            [phrase.caption for phrase in phrases],
            pa.FixedSizeListArray.from_arrays(
                pa.array([place for phrase in phrases for place in phrase.span], pa.int32()), 2
            ),
            [list(phrase.regions) for phrase in phrases],
        ),
        "negatives": _lists(
            (len(record.negatives) for record in records),
            NEGATIVE,
            [negative.caption for negative in negatives],
            [negative.kind for negative in negatives],
            [negative.text for negative in negatives],
        ),
        "size": pa.array([record.size for record in records], KNOWN["size"]),
    }


def _lists(lengths: Iterable[int], kind: pa.StructType, *fields: Any) -> pa.Array:
    """A list of structs a row, from the fields of all of them in order."""
    offsets = pa.array(accumulate(lengths, initial=0), pa.int32())
    arrays = [
        values if isinstance(values, pa.Array) else pa.array(values, field.type)
        for values, field in zip(fields, kind, strict=True)
    ]
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(arrays, fields=list(kind)))


def record_of(row: dict[str, Any], image: Any) -> Record:
    """A row of such a table, and its picture -> the record."""
    return Record(
        id=row["id"],
        image=image,
        captions=tuple(row["captions"]),
        regions=tuple(Region(tuple(r["box"]), r["label"], r["score"]) for r in row["regions"]),
        phrases=tuple(
            Phrase(p["caption"], tuple(p["span"]), tuple(p["regions"])) for p in row["phrases"]
        ),
        negatives=tuple(Negative(**negative) for negative in row["negatives"]),
        size=row["size"] and tuple(row["size"]),
    )
