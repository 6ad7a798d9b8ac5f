"""What a run writes down while it trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from intarsia.runtime import atomic


class RunLog:
    """``metrics.jsonl`` and TensorBoard; lines after the step resumed from are dropped."""

    def __init__(self, out: Path, step: int) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.path = out / "metrics.jsonl"
        kept = [line for line in self._lines() if json.loads(line)["step"] <= step]
        with atomic(self.path) as draft:
            draft.write_text("".join(kept))
        self.file = self.path.open("a", buffering=1)
        self.board = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1 if step else None)

    def _lines(self) -> list[str]:
        if not self.path.exists():
            return []
        return [line for line in self.path.read_text().splitlines(True) if line.endswith("}\n")]

    def write(self, values: dict[str, Any]) -> None:
        self.file.write(json.dumps(values) + "\n")
        for name, value in values.items():
            if name != "step" and isinstance(value, float):
                self.board.add_scalar(name, value, values["step"])

    def close(self) -> None:
        self.file.close()
        self.board.close()
