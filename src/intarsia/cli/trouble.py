"""What goes wrong, told in one line: where, what, and what to do about it."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from yaml import MarkedYAMLError, YAMLError

from intarsia.errors import IntarsiaError

BUG, USER, STOPPED = 1, 2, 130  # exit codes
ADVICE = {
    errno.ENOENT: "check the path",
    errno.EACCES: "choose a place that is yours to use, or have its permissions changed",
    errno.EPERM: "choose a place that is yours to use, or have its permissions changed",
    errno.EROFS: "choose a place that can be written",
    errno.ENOSPC: "free some space, or choose another place",
    errno.EDQUOT: "free some space, or choose another place",
    errno.EISDIR: "name a file in it",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EMFILE: "raise the limit (ulimit -n), or lower --trainer.num_workers",
}
OURS = "this is a bug in intarsia: run again with --debug and report it"
DAMAGED = "the file is incomplete or damaged: write or copy it again"
MEMORY = (
    "close other programs; in training lower --trainer.batch_size or set --trainer.grad_cache_chunk"
)
DEVICE = "choose another --device, or --trainer.accelerator in training: cpu is always there"
NO_DEVICE = re.compile(
    r"device string|not compiled with|supported gpu backend|NVIDIA driver|device ordinal"
    r"|No CUDA GPUs|can not run on your system"
)
NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory")
BROKEN_FILE = re.compile(r"PytorchStreamReader|zip archive|invalid load key")


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """What goes wrong inside is told with the path of what was being read."""
    try:
        yield
    except IntarsiaError:
        raise
    except Exception as error:
        error.add_note(str(path))
        raise


def tell(error: BaseException, *, debug: bool) -> int:
    """Print what went wrong in one line, with ``debug`` after the traceback; the exit code."""
    if debug:
        traceback.print_exception(error)
    if isinstance(error, BrokenPipeError):  # whoever read has seen enough
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BUG
    line, code = explained(error)
    Console(stderr=True).print(
        f"[bold red]error:[/] {escape(line)}", highlight=False, soft_wrap=True
    )
    return code


def explained(error: BaseException) -> tuple[str, int]:
    """One line for the user and the exit code.

    >>> explained(FileNotFoundError(2, "No such file or directory", "a.json"))
    ('a.json: No such file or directory; check the path', 2)
    >>> explained(KeyError("x"))
    ("KeyError: 'x'; this is a bug in intarsia: run again with --debug and report it", 1)
    """
    if isinstance(error, KeyboardInterrupt):
        return "stopped", STOPPED
    found = _known(error)
    if found is not None:
        return _one_line(found), USER
    text = f"{_where(error)}{type(error).__name__}: {error}"
    return f"{_one_line(text)}; {OURS}", BUG


def _known(error: BaseException) -> str | None:
    """What happened and what to do, where it is not a bug of ours."""
    text, where = str(error), _where(error)
    if isinstance(error, IntarsiaError):
        return _from_worker(text)
    if isinstance(error, MemoryError) or NO_MEMORY.search(text):
        return f"out of memory: {text or 'no more can be had'}; {MEMORY}"
    number = getattr(error, "errno", None) or _number_in(text)
    if number is not None:
        reason = getattr(error, "strerror", None) or os.strerror(number)
        path = getattr(error, "filename", None)
        place = f"{path}: " if path else where
        return f"{place}{reason}" + (f"; {ADVICE[number]}" if number in ADVICE else "")
    if isinstance(error, OSError):
        return f"{where}{text}"
    if isinstance(error, YAMLError):
        return f"{where}{not_yaml(error)}; mend the file"
    if isinstance(error, json.JSONDecodeError):
        return f"{where}not JSON: {text}; {DAMAGED}"
    if isinstance(error, UnicodeDecodeError):
        return f"{where}not UTF-8 text: {text}; {DAMAGED}"
    if isinstance(error, pickle.UnpicklingError) or BROKEN_FILE.search(text):
        return f"{where}{text}; {DAMAGED}"
    if type(error).__name__ == "SafetensorError":
        return f"{where}not safetensors: {text}; {DAMAGED}"
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("intarsia"):
        return f"the package {error.name!r} is not installed: pip install {error.name}"
    if NO_DEVICE.search(text):
        return f"{text}; {DEVICE}"
    return None


def not_yaml(error: UnicodeError | YAMLError) -> str:
    """What is wrong with the text of a file, and in which line."""
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return f"not YAML: {_one_line(str(error))}"
    return f"not YAML: line {error.problem_mark.line + 1}: {error.problem}"


def _where(error: BaseException) -> str:
    return "".join(f"{note}: " for note in getattr(error, "__notes__", ()))


def _number_in(text: str) -> int | None:
    """The error number in a message of a library written in Rust."""
    found = re.search(r"\(os error (\d+)\)", text)
    return int(found[1]) if found else None


def _from_worker(text: str) -> str:
    """The message alone, where torch has put a worker's traceback around it."""
    if "Original Traceback" not in text:
        return text
    return text.strip().splitlines()[-1].partition(": ")[2]


def _one_line(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines() if line.strip())
