"""Seeds, devices, progress bars, whole files and where data lies."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar
from uuid import uuid4

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

from intarsia.errors import ConfigError, unknown

T = TypeVar("T")
R = TypeVar("R")

MOST_WORKERS = 16
BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # of x86 twice, and of ARM
PATIENCE = 1.0  # seconds of work before it gets a bar


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


def in_threads(function: Callable[[T], R], items: Iterable[T], workers: int = 0) -> Iterator[R]:
    """``function`` of each of ``items``, in order, worked out ahead by threads while the caller
    uses what is done. It pays where the work leaves Python, as decoding and scaling pictures does.

    Args:
        workers: threads; 0 = one a core that torch may use. Twice as many items are under way.

    >>> list(in_threads(abs, [-3, 2], workers=2))
    [3, 2]
    """
    workers = workers or torch.get_num_threads()
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def num_workers(device: torch.device) -> int:
    """How many processes prepare batches for a model: on a CPU none, which would take its cores."""
    if device.type == "cpu":
        return 0
    tells = hasattr(os, "sched_getaffinity")  # macOS and Windows do not
    cores = len(os.sched_getaffinity(0)) if tells else os.cpu_count() or 1
    return min(cores, MOST_WORKERS)


def loading(workers: int, device: torch.device) -> dict[str, Any]:
    """Arguments of a DataLoader with so many workers. They are forked from a server that has
    loaded what they need, so that they start at once and share its memory."""
    arguments: dict[str, Any] = {"num_workers": workers, "pin_memory": device.type == "cuda"}
    if workers:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["intarsia.encode.pairs", "intarsia.data.table"])
        arguments |= {"multiprocessing_context": context}
    return arguments


def best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def device_of(name: torch.device | str) -> torch.device:
    """
    Raises:
        ConfigError: torch cannot compute there.
    """
    if str(name).partition(":")[0] != "meta":
        try:
            return torch.zeros(1, device=name).device
        except (RuntimeError, AssertionError, NotImplementedError):
            pass  # each kind of device that is missing has an error of its own
    here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    here += ["mps"] if torch.backends.mps.is_available() else []
    raise ConfigError(unknown("device", str(name), here))


def multiplies_bfloat16(device: str) -> bool:
    """Whether a kind of device ("cpu", "cuda") has instructions for bfloat16.

    A processor that only emulates them trains about half as fast in bfloat16 as in float32.
    """
    if device == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(False)
    says = getattr(torch.cpu, "get_capabilities", None)  # an older torch does not
    known: Mapping[str, Any] = says() if says else {}
    return device == "cpu" and any(known.get(name) for name in BFLOAT16)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary file to write; it takes the place of ``path``, flushed to disk, if all goes well.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "new" / "note.txt"
    >>> with atomic(target) as draft:
    ...     _ = draft.write_text("whole")
    >>> target.read_text(), len(list(target.parent.iterdir()))
    ('whole', 1)

    What is there and is no file (``/dev/stdout``) is written as it is.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid4().hex}")
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
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )


class _RateColumn(ProgressColumn):
    """Steps (times the task's ``unit``) a second."""

    def render(self, task: Task) -> Text:
        speed = (task.finished_speed or task.speed or 0.0) * task.fields.get("unit", 1)
        return Text(f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2f}/s", style="cyan")


_quiet = ContextVar("quiet", default=False)
_shown: list[Progress] = []  # the bar on the terminal, if there is one


@contextmanager
def quietly() -> Iterator[None]:
    """No progress bars inside: what is done there is an answer to somebody, not a long work."""
    token = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(token)


@contextmanager
def bar(total: int | None, description: str) -> Iterator[Callable[[int], None]]:
    """A progress bar on the terminal once the work has taken ``PATIENCE``; what it gives is told
    how far things are. There is none where stderr is no terminal, nor below another bar.

    Args:
        total: of what is to be done; None = nobody knows.
        description: what is being done.
    """
    console = Console(stderr=True)
    if _quiet.get() or _shown or total == 0 or not console.is_terminal:
        yield lambda done: None
        return
    own = Progress(*progress_columns(), console=console, transient=True)
    task = own.add_task(description, total=total, note="")
    began = monotonic()

    def advance(done: int) -> None:
        own.advance(task, done)
        if not _shown and monotonic() - began >= PATIENCE:
            _shown.append(own)
            own.start()

    try:
        yield advance
    finally:
        if own in _shown:
            _shown.remove(own)
            own.stop()


def progress(items: Iterable[T], description: str) -> Iterator[T]:
    """Iterate with a :func:`bar`."""
    with bar(len(items) if isinstance(items, Sized) else None, description) as advance:
        for item in items:
            yield item
            advance(1)
