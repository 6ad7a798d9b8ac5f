"""What a run writes down while it trains."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch.utils.tensorboard import SummaryWriter

from intarsia.data.problems import Problems
from intarsia.runtime import atomic

PROBLEMS = "problems.jsonl"


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


@contextmanager
def problems_listed(out: Path, problems: Problems) -> Iterator[None]:
    """Whatever the block finds is in ``problems.jsonl`` afterwards, also when it raises."""
    try:
        yield
    finally:
        if len(problems):
            _list_problems(out, problems)


def _list_problems(out: Path, problems: Problems) -> None:
    """Append what is not in the file yet: all processes, and runs that resume, share it."""
    out.mkdir(parents=True, exist_ok=True)
    path, draft = out / PROBLEMS, out / f".{PROBLEMS}.draft"
    with FileLock(out / f".{PROBLEMS}.lock"):
        problems.write(draft)
        found = draft.read_text(encoding="utf-8").splitlines(True)
        draft.unlink()
        with path.open("a+", encoding="utf-8") as file:
            file.seek(0)
            known = {_key(line) for line in file}
            file.write("".join(line for line in found if _key(line) not in known))


def _key(line: str) -> tuple[str | None, ...]:
    """What a line of the file is about, whoever words the reason."""
    row = json.loads(line)
    return row.get("source"), row.get("field"), row.get("skipped")
