"""The forward pass for bfloat16 on CPU, with reductions compiled by numba (the extra ``cpu``).

A block of similarities is read once for the maxima of both directions, their places and their
means, where torch's operators read it for each of them. Every thread makes whole blocks, product
and reductions, so it finds them in its own cache and waits for no other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from intarsia.ops.matching_parts import Block, Results, Room

LEAST = -(2**15)  # of all int16
FEW = 2**20  # similarities, which are made before other threads have started


def fill(x_blocks: Iterable[Block], y_blocks: Sequence[Block], results: Results) -> None:
    """Fill in the results of every block of x with every block of y."""
    local = threading.local()
    arrays = [part.numpy() for part in results]

    def fill_one(a: Block, b: Block) -> None:
        if not hasattr(local, "room"):
            local.room = Room(a.vectors)
        bits = local.room.similarity(a, b).view(torch.int16).numpy()
        _reduce(bits, _counts(a), _counts(b), a.rows.start, b.rows.start, *arrays)

    pairs = list(product([_row_major(a) for a in x_blocks], y_blocks))
    if sum(len(a.vectors) * len(b.vectors) for a, b in pairs) < FEW:
        for pair in pairs:
            fill_one(*pair)
    else:
        _in_threads(fill_one, pairs)


def _in_threads(work: Callable[[Block, Block], None], pairs: Sequence[tuple[Block, Block]]) -> None:
    """One thread of Python for each of torch's, every one with products of its own.

    torch keeps its number of threads for each thread, and another for those still to start: the
    workers set both to one, and the caller sets the second back as soon as all have begun.
    """
    threads = torch.get_num_threads()
    workers = min(threads, len(pairs))
    begun = threading.Barrier(workers + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        begun.wait()

    with ThreadPoolExecutor(workers, "matching", begin) as pool:
        tasks = [pool.submit(work, *pair) for pair in pairs]
        begun.wait()
        torch.set_num_threads(threads)
        for task in tasks:
            task.result()


def _row_major(block: Block) -> Block:
    """(K,r) vectors -> (r,K): what one row of a product needs lies together."""
    k, rows = block.places.shape
    vectors = block.vectors.view(k, rows, -1).transpose(0, 1).flatten(0, 1)
    return block._replace(vectors=vectors, places=block.places.mT)


def _counts(block: Block) -> NDArray[np.int64]:
    counts: NDArray[np.int64] = (block.weights > 0).sum(0).numpy()
    return counts


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _in_order(bits: np.int16) -> np.int16:
    """Bits of a bfloat16 <-> an integer in the same order: a negative number's are turned over."""
    return np.int16(bits ^ ((bits >> 15) & 0x7FFF))


def _compiled(function: Callable[..., None]) -> Any:
    """Kept for the next process, unless no folder may be written to."""
    try:
        return numba.njit(function, nogil=True, cache=True, error_model="numpy")
    except RuntimeError:
        return numba.njit(function, nogil=True, error_model="numpy")


@_compiled
def _reduce(
    bits: NDArray[np.int16],
    x_counts: NDArray[np.int64],
    y_counts: NDArray[np.int64],
    x_start: int,
    y_start: int,
    i2t: NDArray[np.float32],
    t2i: NDArray[np.float32],
    first_n: NDArray[np.uint8],
    first_p: NDArray[np.uint8],
) -> None:
    """(a,P,N,c) similarities -> means, and places if wanted, of rows from ``x_start`` on and
    columns from ``y_start`` on; the loops over c become vector instructions."""
    rows, _, n_count, columns = bits.shape
    keep = len(first_n) > 0
    over_n, over_p = np.empty(columns, np.int16), np.empty((n_count, columns), np.int16)
    at_n, at_p = np.zeros(columns, np.uint8), np.zeros((n_count, columns), np.uint8)
    sum_n, sum_p = np.empty(columns, np.float32), np.empty(columns, np.float32)
    wide = np.empty(columns, np.int32)
    numbers = wide.view(np.float32)
    for a in range(rows):
        row = x_start + a
        over_p[:] = LEAST
        sum_n[:] = 0
        sum_p[:] = 0
        for p in range(x_counts[a]):
            over_n[:] = LEAST
            for n in range(n_count):
                if keep:
                    for c in range(columns):
                        key = _in_order(bits[a, p, n, c])
                        higher = key > over_n[c]
                        over_n[c] = key if higher else over_n[c]
                        at_n[c] = n if higher else at_n[c]
                    for c in range(columns):
                        key = _in_order(bits[a, p, n, c])
                        higher = key > over_p[n, c]
                        over_p[n, c] = key if higher else over_p[n, c]
                        at_p[n, c] = p if higher else at_p[n, c]
                else:
                    for c in range(columns):
                        key = _in_order(bits[a, p, n, c])
                        over_n[c] = max(over_n[c], key)
                        over_p[n, c] = max(over_p[n, c], key)
            if keep:
                first_n[p, row, y_start : y_start + columns] = at_n
            for c in range(columns):
                wide[c] = np.int32(_in_order(over_n[c])) << 16
            for c in range(columns):
                sum_n[c] += numbers[c]
        if keep:
            first_p[row, :n_count, y_start : y_start + columns] = at_p
        for n in range(n_count):
            for c in range(columns):
                wide[c] = np.int32(_in_order(over_p[n, c])) << 16
            for c in range(columns):
                sum_p[c] += numbers[c] if n < y_counts[c] else np.float32(0)
        for c in range(columns):
            i2t[row, y_start + c] = sum_n[c] / x_counts[a]
            t2i[row, y_start + c] = sum_p[c] / y_counts[c]
