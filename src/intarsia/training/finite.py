"""Losses and gradients that are not finite, found without waiting for the device at each step."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Seen:
    """A number () on the device, what it is, and the step and the pairs (B,) that it comes from."""

    what: str
    value: Tensor
    step: int
    pairs: Tensor


class FiniteWatch:
    """Keeps a run's losses and gradient norms on the device until :meth:`first_failure` is asked.

    ``failed`` () is 1 on the device from the first of them on that is not finite: an optimiser's
    ``found_inf``, with which a fused one leaves the weights as they are.
    """

    def __init__(self, device: torch.device) -> None:
        self.failed = torch.zeros((), device=device)
        self._seen: list[Seen] = []

    def see(self, what: str, value: Tensor, step: int, pairs: Tensor) -> None:
        """Note a number; ``pairs`` are on the CPU."""
        self.failed.masked_fill_(~value.isfinite(), 1.0)
        self._seen.append(Seen(what, value, step, pairs))

    def first_failure(self) -> Seen | None:
        """The first that was not finite since this was last asked; waits for the device."""
        seen, self._seen = self._seen, []
        if not seen:
            return None
        values = torch.stack([one.value.reshape(()) for one in seen]).tolist()
        return next((s for s, v in zip(seen, values, strict=True) if not math.isfinite(v)), None)


class Stopwatch:
    """Seconds that steps take, without what is done inside :meth:`paused`."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def lap(self) -> float:
        """Since the last lap."""
        before, self._since = self._since, time.perf_counter()
        return self._since - before

    @contextmanager
    def paused(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start
