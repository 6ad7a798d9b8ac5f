"""Seeds, devices, progress bars, whole files and where data lies."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

T = TypeVar("T")


def seed_cpu(seed: int) -> None:
    """Seed Python, NumPy and torch on the CPU, where models are built."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    seed_cpu(seed)
    torch.manual_seed(seed)


@contextmanager
def randomness_kept() -> Iterator[None]:
    """What happens inside does not change the random numbers that come afterwards on the CPU."""
    python, numpy, torchs = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torchs)


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """``items`` in order, ``size`` at a time (fewer in the last), read as they are asked for.

    >>> list(chunks("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    iterator = iter(items)
    while some := list(islice(iterator, size)):
        yield some


def best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary file to write; it takes the place of ``path``, flushed to disk, if all goes well.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "new" / "note.txt"
    >>> with atomic(target) as draft:
    ...     _ = draft.write_text("whole")
    >>> target.read_text(), len(list(target.parent.iterdir()))
    ('whole', 1)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
        _flush(draft, os.O_RDWR)
        os.replace(draft, path)
        _flush(path.parent, os.O_RDONLY)
    finally:
        draft.unlink(missing_ok=True)


def _flush(path: Path, mode: int) -> None:
    handle = os.open(path, mode)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def data_root() -> Path:
    """Where data sets lie: the environment variable INTARSIA_DATA, else ``../shared/data``."""
    return Path(os.environ.get("INTARSIA_DATA", "../shared/data"))


def models_root() -> Path:
    """Where local model folders lie: ``models`` beside :func:`data_root`."""
    return data_root().parent / "models"


def progress_columns() -> tuple[ProgressColumn, ...]:
    """Bar, count, rate and time left: how every progress bar of intarsia looks."""
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )


class _RateColumn(ProgressColumn):
    """Steps (times the task's ``unit``) a second."""

    def render(self, task: Task) -> Text:
        speed = (task.finished_speed or task.speed or 0.0) * task.fields.get("unit", 1)
        return Text(f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2f}/s", style="cyan")


def progress(items: Sequence[T], description: str) -> Iterator[T]:
    """Iterate with a progress bar on the terminal (none where there is no terminal)."""
    with Progress(*progress_columns(), console=Console(stderr=True), transient=True) as bar:
        yield from bar.track(items, task_id=bar.add_task(description, total=len(items), note=""))
