"""What a device can hold: sizes of blocks are shares of it, never constants."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec

import torch

CPU_MEMORY = 2**32  # bytes: of a CPU that stands in for a GPU


def memory_of(device: torch.device) -> int:
    """Bytes of memory that the device has, whoever uses them now."""
    if device.type != "cuda":
        return CPU_MEMORY
    return int(torch.cuda.get_device_properties(device).total_memory)


def processors_of(device: torch.device) -> int:
    """Multiprocessors of the device, which run many programs of a kernel each."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def registers(most: int) -> dict[str, int]:
    """A kernel's option that bounds a thread's registers, which only one make of GPU knows."""
    return {"maxnreg": most} if torch.version.hip is None else {}


def on(device: torch.device) -> AbstractContextManager[object]:
    """Kernels of Triton started inside run on ``device``, whichever is the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@cache
def has_triton() -> bool:
    """Whether Triton is installed, which comes with torch for GPUs."""
    return find_spec("triton") is not None
