"""Tables of generated records, opened and read by four worker processes: seconds and memory.

    python -m benchmarks.records

Each number of records is measured in a fresh process. Memory is what processes hold, what they
share counted once (proportional set size).
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import lance
import pyarrow as pa
import torch
from PIL import Image
from torch.utils.data import DataLoader

from intarsia.data.columns import columns_of
from intarsia.data.problems import Problems
from intarsia.data.table import SCHEMA, read_table
from intarsia.runtime import chunks, loading
from intarsia.types import Record

RESULT = Path(__file__).parent / "results" / "records.json"
WORKERS = 4


def opened(num: int) -> dict[str, object]:
    """Seconds to open a table, and the memory of this process and of its workers."""
    folder = Path(tempfile.mkdtemp())
    written(folder / "t", num)
    before = memory([os.getpid()])
    start = time.perf_counter()
    table = read_table(folder / "t", Problems())
    captions = int(table.num_captions.sum())
    seconds = time.perf_counter() - start
    held = memory([os.getpid()]) - before
    some = random.Random(0).sample(range(num - 64), 100)
    reading = iter(
        DataLoader(
            table,  # type: ignore[arg-type]
            batch_sampler=[list(range(i, i + 64)) for i in some],
            collate_fn=len,
            **loading(WORKERS, torch.device("cpu")),
        )
    )
    peak = 0
    for _ in reading:
        peak = max(peak, memory(family()))
    shutil.rmtree(folder)
    return {
        "name": "records",
        "shape": {"records": num, "captions": captions, "workers": WORKERS},
        "open_s": seconds,
        "own_bytes": held,
        "all_bytes": peak,
    }


def written(path: Path, num: int) -> None:
    """A table of generated records, all with one small picture."""
    image = Image.new("RGB", (16, 16), "teal")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = buffer.getvalue()
    digest = hashlib.sha256(data).digest()

    def batches() -> Iterator[pa.RecordBatch]:
        for some in chunks(range(num), 8192):
            records = [
                Record(
                    f"{i:09}", data, (f"picture number {i} of a made up data set",), size=(16, 16)
                )
                for i in some
            ]
            pictures = {"image": [data] * len(some), "digest": [digest] * len(some)}
            yield pa.RecordBatch.from_pydict(columns_of(records) | pictures, schema=SCHEMA)

    reader = pa.RecordBatchReader.from_batches(SCHEMA, batches())
    lance.write_dataset(reader, str(path))


def family() -> list[int]:
    """This process and all below it."""
    found, last = [os.getpid()], 0
    while len(found) > last:
        last = len(found)
        for pid in list(found):
            try:
                below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            except OSError:
                continue
            found += [int(child) for child in below if int(child) not in found]
    return found


def memory(pids: Sequence[int]) -> int:
    """Bytes that processes hold, what they share counted once (proportional set size)."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return 1024 * total


if __name__ == "__main__":
    rows = []
    for num in (10_000, 100_000, 1_000_000):
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn) as process:
            rows.append(process.submit(opened, num).result())
        print(json.dumps(rows[-1]), flush=True)
        RESULT.write_text(json.dumps(rows, indent=1) + "\n")
