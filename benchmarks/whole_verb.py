"""What one verb of the command line takes, from its start to its end, in a process of its own."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from benchmarks import harness


def timed(arguments: Sequence[str]) -> harness.Row:
    """Seconds and peak memory of ``intarsia ARGUMENTS``; its temporary folders are in no command.

    Args:
        arguments: with ``--out`` and its folder at the end.
    """
    start = time.perf_counter()
    command = [sys.executable, "-m", "intarsia", *arguments]
    child = os.posix_spawn(sys.executable, command, os.environ)
    _, status, usage = os.wait4(child, 0)
    if status:
        sys.exit(f"{arguments[0]} ended with status {os.waitstatus_to_exitcode(status)}")
    return {
        "command": " ".join(["intarsia", *arguments[:-2]]),
        "seconds": round(time.perf_counter() - start, 1),
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),
        "machine": harness.machine(),
    }
