"""Learning-rate schedules, as pure functions of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from intarsia.errors import ConfigError, unknown

Kind = Literal["cosine", "step", "constant"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rate over the steps: linear warm-up, then ``cosine`` to 0, ``step`` or ``constant``.

    Args:
        kind: the shape after the warm-up.
        warmup: steps of warm-up; below 1 a fraction of all steps.
        step_size: for ``step``: steps between two decays; below 1 a fraction of all steps.
        gamma: for ``step``: factor of each decay.
    """

    kind: Kind = "cosine"
    warmup: float = 0.05
    step_size: float = 0.34
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigError(unknown("schedule", self.kind, get_args(Kind)))
        for name, value in (("warmup", self.warmup), ("gamma", self.gamma)):
            if not value >= 0:
                raise ConfigError(f"schedule.{name} is {value}: give at least 0")
        if not self.step_size > 0:
            raise ConfigError(f"schedule.step_size is {self.step_size}: give more than 0")

    def factor(self, step: int, total: int) -> float:
        """What the base rate is multiplied by at ``step`` of ``total``.

        >>> [Schedule(warmup=2).factor(s, 10) for s in (0, 1, 2, 6, 10)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
        >>> [Schedule(kind="step", warmup=0, step_size=4).factor(s, 10) for s in (3, 4, 9)]
        [1.0, 0.1, 0.010000000000000002]
        """
        warmup = self.warmup if self.warmup >= 1 else self.warmup * total
        if step < warmup:
            return min(1.0, (step + 1) / warmup)
        if self.kind == "constant":
            return 1.0
        if self.kind == "step":
            size = self.step_size if self.step_size >= 1 else self.step_size * total
            return float(self.gamma ** int(step // max(1.0, size)))
        done = (step - warmup) / max(1.0, total - warmup)
        return round(0.5 * (1 + math.cos(math.pi * min(1.0, done))), 12)
