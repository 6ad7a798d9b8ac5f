"""Tables of runs: each row's metrics, and its paired differences from the first row.

Resampling takes its time, so what it gave is kept in ``docs/results/tables.json`` under a key of
the files and the question; where there is none of that key it is worked out.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from intarsia.evaluation.result import read_result
from intarsia.runtime import atomic
from intarsia.sweep import Sweep, slug
from intarsia.sweep.table import Results, as_markdown, cells, table_rows

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
KEPT = RESULTS / "tables.json"
SEEDS = (0, 1, 2)

Values = Mapping[str, float]  # of a row, by metric


@dataclass(frozen=True)
class Paired:
    """A table of rows that answered the same questions.

    ``files`` are a row's result files below ``docs/results``, without their suffix and with ``{}``
    in place of the seed. ``values`` are of rows that nothing can be paired with. A ``turned`` table
    has a column a row and a line a metric.
    """

    name: str
    files: Mapping[str, Sequence[str]]
    metrics: Sequence[str]
    seeds: Sequence[int] = SEEDS
    values: Callable[[], Mapping[str, Values]] = dict
    published: Mapping[str, list[float]] = field(default_factory=dict)
    turned: bool = False

    def __call__(self) -> str:
        lines = cells(self._sweep, [*self.rows, *self._unpaired()])
        if self.turned:
            lines = [list(line) for line in zip(*lines, strict=True)]
        return f"{as_markdown(lines)}\n{self._about()}\n"

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """As :func:`intarsia.sweep.table.table_rows` gives them."""
        return kept_rows().get(self.key) or self.compared()

    def compared(self) -> list[dict[str, Any]]:
        return table_rows(self._sweep, self._results)

    @cached_property
    def key(self) -> str:
        """Of the result files and what is asked of them."""
        asked = [list(self.files.items()), list(self.metrics), list(self.seeds), self.published]
        found = hashlib.sha256(json.dumps(asked).encode())
        paths = [path_of(f, s) for files in self.files.values() for f in files for s in self.seeds]
        for path in paths:
            found.update(hashlib.sha256(path.read_bytes()).digest())
        return found.hexdigest()[:16]

    @property
    def _sweep(self) -> Sweep:
        return Sweep(self.name, "", [], list(self.metrics), published=dict(self.published))

    @cached_property
    def _results(self) -> Results:
        return {
            row: [[read_result(path_of(file, seed)) for file in files] for seed in self.seeds]
            for row, files in self.files.items()
        }

    def _unpaired(self) -> list[dict[str, Any]]:
        return [
            {"row": row, "values": values, "gaps": {}, "published": self.published.get(row)}
            for row, values in self.values().items()
        ]

    def _about(self) -> str:
        """How many queries, seeds and differences there are."""
        sizes: dict[int, list[str]] = {}
        for metric in self.metrics:
            sizes.setdefault(self._size(metric), []).append(f"`{metric}`")
        counts = "; ".join(f"{n:,} ({', '.join(names)})" for n, names in sizes.items())
        seeds = "seed " if len(self.seeds) == 1 else "seeds "
        seeds += ", ".join(str(seed) for seed in self.seeds)
        gaps = sum(len(row["gaps"]) for row in self.rows)
        over = "one difference" if gaps == 1 else f"Holm over {gaps} differences"
        return f"n = {counts}; {seeds}; {over}."

    def _size(self, metric: str) -> int:
        results = next(iter(self._results.values()))[0]
        found = next(result["metrics"] for result in results if metric in result["metrics"])
        return int(found[metric]["n"])


@cache
def kept_rows() -> dict[str, Any]:
    """The rows of tables by their keys."""
    return dict(json.loads(KEPT.read_text(encoding="utf-8"))) if KEPT.exists() else {}


def keep_rows(tables: Iterable[Paired]) -> None:
    """Work out the rows of all tables anew, and keep these alone."""
    lines = (f"{json.dumps(table.key)}: {json.dumps(table.compared())}" for table in tables)
    with atomic(KEPT) as draft:
        draft.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    kept_rows.cache_clear()


def path_of(file: str, seed: int = 0) -> Path:
    return RESULTS / f"{file.format(seed)}.json"


def swept(
    name: str, evaluations: Sequence[int] | None = None, rows: Sequence[str] = (), **changes: Any
) -> Paired:
    """The table of ``configs/ablations/NAME.yaml``, from the results in the folder of that name.

    Args:
        evaluations: those whose results are kept; None = all.
        rows: likewise; none = all.
        changes: of :class:`Paired`.
    """
    sweep = Sweep.read(ROOT / "configs" / "ablations" / f"{name}.yaml")
    numbers = range(len(sweep.evaluate)) if evaluations is None else evaluations
    asked = [shlex.split(str(one["protocol"]))[0] for one in sweep.evaluate]
    ends = [f"{f'{i}-' if i else ''}{asked[i]}" for i in numbers]
    files = {
        row: [f"{name}/{slug(row)}-{{}}-{end}" for end in ends] for row in rows or sweep.all_rows()
    }
    paired = Paired(sweep.name, files, sweep.metrics, sweep.seeds, published=sweep.published)
    return replace(paired, **changes)
