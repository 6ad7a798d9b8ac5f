"""Columns of per-query outcomes as short JSON that gives back every number.

A column of n hits, ranks, labels or real numbers is an object:

    {"dtype": "bit", "n": 5000, "of": [0, 100], "data": "eNpj..."}

``data`` is the base64 of a zlib stream of n numbers of ``dtype``, little-endian; a ``bit`` is an
eighth of a byte, the first its highest. With ``of`` they are places in that list, with ``steps``
the differences from the number before (of the first from 0). A plain list of the values, as files
had it before, is read, too.
"""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intarsia.errors import DataError

Array = NDArray[Any]
BIT = "bit"
STEPS = ("i1", "i2", "i4", "i8")
PLACES = ("u1", "u2", "u4")
REALS = ("f4", "f8")
NEEDED, KNOWN = {"dtype", "n", "data"}, {"dtype", "n", "data", "of", "steps"}
MOST_BYTES = 1 << 28  # of a column, unpacked


def pack(values: Array) -> dict[str, Any]:
    """
    Args:
        values: (n,) bools, integers of 64 bits with a sign, real numbers or strings.

    >>> pack(np.array([100, 0, 100]))  # doctest: +ELLIPSIS
    {'dtype': 'bit', 'n': 3, 'of': [0, 100], 'data': '...'}
    """
    if values.dtype.kind == "f":
        dtype = "f8" if values.dtype.itemsize > 4 else "f4"
        return _packed(values, dtype)
    distinct, places = np.unique(values, return_inverse=True)
    if len(distinct) <= 2:
        return _packed(places, BIT, of=distinct.tolist())
    if values.dtype.kind in "iu":
        steps = np.diff(values.astype(np.int64), prepend=0)
        return _packed(steps, _smallest(steps, STEPS), steps=True)
    return _packed(places, _smallest(places, PLACES), of=distinct.tolist())


def unpack(column: Any, where: str) -> Array:
    """The values (n,) of what :func:`pack` gave, or of a plain list; integers as int64, real
    numbers as float64.

    Raises:
        DataError: It is no such column; the message begins with ``where``.

    >>> unpack(pack(np.array([100, 0, 100])), "values")
    array([100,   0, 100])
    """
    try:
        return _listed(column) if isinstance(column, list) else _unpacked(column)
    except (ValueError, OverflowError, zlib.error) as error:
        raise DataError(f"{where}: {error}") from error


def _packed(numbers: Array, dtype: str, **form: Any) -> dict[str, Any]:
    data = np.packbits(numbers) if dtype == BIT else numbers.astype(f"<{dtype}")
    text = b64encode(zlib.compress(data.tobytes(), 9)).decode("ascii")
    return {"dtype": dtype, "n": len(numbers), **form, "data": text}


def _smallest(numbers: Array, dtypes: Sequence[str]) -> str:
    low, high = numbers.min(), numbers.max()
    return next(d for d in dtypes if np.iinfo(d).min <= low and high <= np.iinfo(d).max)


def _unpacked(column: Any) -> Array:
    if not isinstance(column, dict) or not NEEDED <= column.keys() <= KNOWN:
        found = sorted(column) if isinstance(column, dict) else repr(column)[:40]
        raise ValueError(f"neither a list nor a packed column, but {found}")
    numbers = _numbers(column["data"], column["dtype"], column["n"])
    if "of" in column:
        return _chosen(column["of"], numbers)
    if column["dtype"] == BIT:
        raise ValueError("bits without 'of', the list that they choose from")
    if numbers.dtype.kind == "f":
        return numbers.astype(np.float64)
    numbers = numbers.astype(np.int64)
    return np.cumsum(numbers) if column.get("steps") else numbers


def _numbers(data: Any, dtype: Any, n: Any) -> Array:
    if dtype not in (BIT, *STEPS, *PLACES, *REALS):
        valid = ", ".join((BIT, *STEPS, *PLACES, *REALS))
        raise ValueError(f"unknown dtype {dtype!r}: choose from {valid}")
    if not isinstance(n, int) or isinstance(n, bool) or n < 0:
        raise ValueError(f"n is {n!r}, not a number of values")
    size = (n + 7) // 8 if dtype == BIT else n * np.dtype(dtype).itemsize
    if size > MOST_BYTES:
        raise ValueError(f"n is {n:,}: a column has at most {MOST_BYTES:,} bytes")
    if not isinstance(data, str):
        raise ValueError(f"data are {type(data).__name__}, not base64")
    raw = _inflated(b64decode(data, validate=True), size)
    if dtype == BIT:
        return np.unpackbits(np.frombuffer(raw, np.uint8), count=n)
    return np.frombuffer(raw, f"<{dtype}")


def _inflated(data: bytes, size: int) -> bytes:
    stream = zlib.decompressobj()
    raw = stream.decompress(data, size + 1)
    if len(raw) != size or not stream.eof or stream.unused_data:
        found = len(raw) if len(raw) <= size else f"more than {size}"
        raise ValueError(f"data hold {found} bytes where n and dtype ask for {size}")
    return raw


def _chosen(of: Any, places: Array) -> Array:
    values = _listed(of)
    if places.size and not 0 <= places.min() <= places.max() < len(values):
        raise ValueError(f"data choose place {places.max()} of {len(values)} in 'of'")
    return values[places.astype(np.int64)]


def _listed(values: Any) -> Array:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "biufU":
        raise ValueError(f"not a list of numbers or of strings: {repr(values)[:40]}")
    return array
