"""JSON by key in a file that only grows, one line an entry; half a line at its end is dropped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock


class JsonLines:
    """Results worth keeping whose keys are hex strings. None as folder keeps them in memory."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.entries: dict[str, Any] = {}
        if path is not None and path.exists():
            whole, _, _ = path.read_text().rpartition("\n")
            for line in whole.splitlines():
                key, value = json.loads(line)
                self.entries[key] = value

    def add(self, entries: Mapping[str, Any]) -> None:
        fresh = {key: value for key, value in entries.items() if key not in self.entries}
        self.entries.update(fresh)
        if self.path is None or not fresh:
            return
        lines = "".join(json.dumps(entry) + "\n" for entry in fresh.items())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"), self.path.open("ab+") as file:
            self._drop_half_line(file)
            file.write(lines.encode())

    @staticmethod
    def _drop_half_line(file: Any) -> None:
        end = file.seek(0, 2)
        if not end:
            return
        file.seek(end - 1)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
