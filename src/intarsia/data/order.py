"""The one order of a data set's pictures, by id, and the parts that are taken of it.

Every reader gives its records in :func:`id_order`, whatever order its files have.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from intarsia.errors import ConfigError

T = TypeVar("T")

SPLIT = re.compile(r"([^\[\]]*)(?:\[(-?\d*)(%?):(-?\d*)(%?)\])?")

Key = tuple[bool, int, str, tuple[str, ...]]


def id_order(key: str) -> Key:
    """What ids are ordered by: whole numbers first, by their value, others as text, by folders.

    >>> sorted(["b/1", "a10.jpg", "a9.jpg", "a/2", "100", "20", "a-b/1"], key=id_order)
    ['20', '100', 'a/2', 'a-b/1', 'a10.jpg', 'a9.jpg', 'b/1']
    """
    is_number = key.isascii() and key.isdigit()
    digits = key.lstrip("0") if is_number else ""  # of two numbers the longer is the greater
    return not is_number, len(digits), digits, tuple(key.split("/"))


def order_of_ids(ids: Any) -> NDArray[np.int64]:
    """The places of an Arrow column of ids in :func:`id_order`; a million take half a second.

    >>> ids = ["b/1", "a10.jpg", "a9.jpg", "a/2", "100", "20", "a-b/1", "020"]
    >>> order_of_ids(pa.array(ids)).tolist()
    [7, 5, 4, 3, 6, 1, 2, 0]
    """
    is_number = pc.match_substring_regex(ids, "^[0-9]+$")
    digits = pc.if_else(is_number, pc.utf8_ltrim(ids, "0"), "")
    columns = {
        "is_text": pc.invert(is_number),
        "length": pc.utf8_length(digits),  # of two numbers the longer is the greater
        "digits": digits,
        "text": pc.replace_substring(ids, "/", "\0"),  # a folder's end is before any letter
    }
    keys = [(name, "ascending") for name in columns]
    order = np.asarray(pc.sort_indices(pa.table(columns), sort_keys=keys))
    return order.astype(np.int64)


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the pictures of a split.

    By position, as in ``train[:5500]`` or ``train[-500:]``: places in the order of the ids of all
    pictures that the split names, whether or not they are annotated or can be read.

    By share, as in ``train[:90%]`` or ``train[90%:]``: each picture falls on a place between 0 and
    100 that its id alone decides. So it is in the same part whatever other pictures there are, in
    every data set that gives it the same id.
    """

    start: int | None = None
    stop: int | None = None
    is_share: bool = False

    def of(self, items: Iterable[T], id_of: Callable[[T], str] = str) -> Iterator[T]:
        """Those of ``items``, which come in the order of their ids, that are in this part."""
        if self.is_share:
            low, high = _percent(self.start, 0), _percent(self.stop, 100)
            return (item for item in items if low <= percentile(id_of(item)) < high)
        if min(self.start or 0, self.stop or 0) < 0:
            return iter(list(items)[self.start : self.stop])
        return islice(items, self.start, self.stop)


WHOLE = Part()


def parsed(split: str) -> tuple[str, Part]:
    """The name of a split, and which part of it.

    >>> parsed("train[:-500]"), parsed("dev"), parsed("dev[90%:]")[1]
    (('train', Part(start=None, stop=-500, is_share=False)), ('dev', \
Part(start=None, stop=None, is_share=False)), Part(start=90, stop=None, is_share=True))

    Raises:
        ConfigError: It is neither a name nor a name with a slice.
    """
    match = SPLIT.fullmatch(split)
    bounds = [] if match is None else [(match[2], match[3]), (match[4], match[5])]
    signs = {sign for number, sign in bounds if number}
    if match is None or len(signs) > 1 or any(sign and not number for number, sign in bounds):
        raise ConfigError(
            f"split {split!r} is neither a name nor a slice like 'train[:5500]' or 'train[:90%]'"
        )
    start, stop = (int(number) if number else None for number, _ in bounds)
    is_share = "%" in signs
    if is_share and max(abs(start or 0), abs(stop or 0)) > 100:
        raise ConfigError(f"split {split!r}: a share is at most 100%")
    return match[1], Part(start, stop, is_share)


def ordered(items: Iterable[T], id_of: Callable[[T], str], part: Part = WHOLE) -> list[T]:
    """A part of ``items`` in the order of their ids; what has the same id stays together."""
    found: dict[str, list[T]] = defaultdict(list)
    for item in items:
        found[id_of(item)].append(item)
    return [item for key in part.of(sorted(found, key=id_order)) for item in found[key]]


def percentile(key: str) -> float:
    """Where an id falls between 0 and 100; evenly, whatever ids look like."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48 * 100


def _percent(bound: int | None, default: int) -> int:
    if bound is None:
        return default
    return bound + 100 if bound < 0 else bound
