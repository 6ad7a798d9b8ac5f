"""The runs of a sweep: what stands, what is made anew and why."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from intarsia.evaluation.result import read_result
from intarsia.identity import (
    Keys,
    config_key,
    differing,
    keep_run_keys,
    kept_run_keys,
    weights_key,
)
from intarsia.model import WEIGHTS
from intarsia.runtime import atomic
from intarsia.sweep.file import INTERPOLATE, Options, Sweep, arguments, folder_name, run_arguments
from intarsia.sweep.table import markdown, metric_sources, plot, table_rows

logger = logging.getLogger(__name__)

TUNE_SPLIT = "train[-500:]"  # of `intarsia tune`, where none is named
TUNED = "tuned.json"  # in a run's folder: what its similarity was tuned on
Verb = Callable[[list[str]], None]


@dataclass(frozen=True)
class Verbs:
    """Of the command line, by their arguments; and what they would work on.

    ``trained_from`` gives the keys of what ``train`` would train from, ``data_key`` that of a data
    set by its name, root and split.
    """

    train: Verb
    interpolate: Verb
    tune: Verb
    evaluate: Verb
    trained_from: Callable[[list[str]], Keys]
    data_key: Callable[[str, Path | None, str], str]


def run_sweep(sweep: Sweep, out: Path, verbs: Verbs) -> Path:
    """Train, tune and evaluate every row and seed that is not done yet, or was done otherwise.

    Args:
        sweep: what to run.
        out: gets a folder a run, ``table.md``, ``table.json`` and ``table.png``.
        verbs: as the command line has them.

    Returns:
        The table.

    Raises:
        ConfigError: no evaluation has a metric of the sweep; told after the first run, where
            :func:`~intarsia.sweep.checks.require_metrics` could not know it before.
    """
    results: dict[str, list[list[dict[str, Any]]]] = {}
    for row in sweep.all_rows():
        for seed in sweep.seeds:
            files = _Cell(sweep, row, seed, out, verbs).results()
            found = [read_result(file) for file in files]
            metric_sources(sweep, found)
            results.setdefault(row, []).append(found)
    rows = table_rows(sweep, results)
    with atomic(out / "table.json") as draft:
        draft.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    with atomic(out / "table.md") as draft:
        draft.write_text(markdown(sweep, rows), encoding="utf-8")
    plot(sweep, rows, out / "table.png")
    return out / "table.md"


@dataclass(frozen=True)
class _Cell:
    """One row and seed of a sweep."""

    sweep: Sweep
    row: str
    seed: int
    out: Path
    verbs: Verbs

    @property
    def folder(self) -> Path:
        return self.out / folder_name(self.row) / f"seed-{self.seed}"

    @property
    def options(self) -> Options:
        return self.sweep.all_rows()[self.row]

    def results(self) -> list[Path]:
        """The result files, of which those that do not stand are made."""
        self.make()
        files = []
        for number, asked in enumerate(self.sweep.evaluate):
            rest = dict(asked)
            protocol = shlex.split(str(rest.pop("protocol")))
            name = f"{number}-" if number else ""
            files.append(self.folder.with_name(f"{self.folder.name}-{name}{protocol[0]}.json"))
            where = ["--model", str(self.folder), "--json", str(files[-1]), "--reuse"]
            self.verbs.evaluate([*protocol, *where, *arguments(rest, self.seed)])
        return files

    def make(self) -> None:
        """The weights, if those that are there are not the ones that are asked for."""
        if INTERPOLATE in self.options:
            self._interpolate()
        else:
            given = run_arguments(self.sweep, self.options, self.seed)
            given = ["--config", self.sweep.config, "--seed", str(self.seed), *given]
            given += ["--out", str(self.folder)]
            keys = self.verbs.trained_from(given)
            if not self._stands(keys):
                self.verbs.train([*given, "--resume"])
        self._tune()

    def _interpolate(self) -> None:
        row = self.sweep.trained_row(self.row)
        assert row is not None
        source = replace(self, row=row)
        source.make()
        start = str((self.sweep.options | self.options)["init"]).replace("{seed}", str(self.seed))
        weight = self.options[INTERPOLATE]
        is_folder = (Path(start) / WEIGHTS).is_file()
        keys = {
            "config": config_key({"weight": weight}),
            "start": weights_key(Path(start)) if is_folder else start,
            "model": weights_key(source.folder),
        }
        if self._stands(keys):
            return
        (self.folder / WEIGHTS).unlink(missing_ok=True)
        ends = ["--start", start, "--model", str(source.folder), "--weight", str(weight)]
        self.verbs.interpolate([*ends, "--out", str(self.folder)])
        keep_run_keys(self.folder, keys)

    def _stands(self, keys: Keys) -> bool:
        """Whether the folder's weights are made from what these keys are of; a run of others, or
        one that is tuned and should not be, is set aside."""
        if not self.folder.exists():
            return False
        kept = kept_run_keys(self.folder)
        reason = differing(kept, keys)
        if not reason and self.sweep.tune is None and (self.folder / TUNED).exists():
            reason = "a tuned similarity"
        if not reason:
            is_whole = (self.folder / WEIGHTS).is_file()
            self._tell("stands" if is_whole else "goes on where it was stopped")
            return is_whole
        places = (self.folder.with_name(f"{self.folder.name}-old-{n}") for n in count())
        old = self.folder.rename(next(place for place in places if not place.exists()))
        self._tell(f"made anew: what is there has {reason} (now in {old})")
        return False

    def _tune(self) -> None:
        """Tune the similarity, unless these very weights were tuned as asked."""
        asked = self.sweep.tune
        if asked is None:
            return
        root = None if asked.get("root") is None else Path(asked["root"])
        data = self.verbs.data_key(asked["data"], root, asked.get("split", TUNE_SPLIT))
        wanted = {"data": data, "options": config_key(asked | {"root": None})}
        path = self.folder / TUNED
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        reason = differing(kept, wanted)
        if not reason:
            return
        if kept:
            self._tell(f"tuned anew: what is there has {reason}")
        self.verbs.tune(["--model", str(self.folder), *arguments(asked, self.seed)])
        with atomic(path) as draft:
            draft.write_text(json.dumps(wanted), encoding="utf-8")

    def _tell(self, what: str) -> None:
        logger.info("%s, row %r, seed %s: %s", self.sweep.name, self.row, self.seed, what)
