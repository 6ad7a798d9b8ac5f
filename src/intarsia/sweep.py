"""Many runs from one file: a table's rows, several seeds each, resumable, one table and one plot.

A sweep file is YAML:

    name: comalign_layers
    config: configs/flickr8k_comalign.yaml   # of `intarsia train`
    options: {init: "runs/flickr8k/clip-{seed}", trainer.epochs: 10}
    rows:                                    # or grid: {method.init_args.layers: [1, 2, 4]}
      "1 layer": {method.init_args.layers: 1}
      "2 layers": {method.init_args.layers: 2}
    seeds: [0, 1, 2]
    tune: {data: flickr8k, split: "train[-500:]"}          # optional
    evaluate: {protocol: retrieval, data: flickr8k, split: dev}
    metrics: [i2t_r1, t2i_r1]
    published: {"1 layer": [54.78, 37.60]}   # optional, shown beside

``{seed}`` in an option stands for the seed. Differences are paired and against the first row.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from intarsia.errors import ConfigError, unknown
from intarsia.evaluation.compare import compare, compare_seeds
from intarsia.evaluation.metrics import Difference
from intarsia.evaluation.result import read_result
from intarsia.model import WEIGHTS
from intarsia.runtime import atomic

Verb = Callable[[list[str]], None]
Options = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """What a sweep file says; see the module's docstring."""

    name: str
    config: str
    evaluate: Options
    metrics: list[str]
    options: Options = field(default_factory=dict)
    rows: dict[str, Options] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    sample: int | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    tune: Options | None = None
    published: dict[str, list[float]] = field(default_factory=dict)

    @staticmethod
    def read(path: Path) -> Sweep:
        """
        Raises:
            ConfigError: not such a file, an unknown or a missing key, or neither rows nor grid.
        """
        try:
            content = yaml.safe_load(path.read_text())
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"{path} is not a sweep file: {error}") from error
        valid = [item.name for item in fields(Sweep)]
        for key in content if isinstance(content, dict) else [str(content)[:40]]:
            if key not in valid:
                raise ConfigError(f"{path}: {unknown('key', key, valid)}")
        try:
            sweep = Sweep(**content)
        except TypeError as error:
            raise ConfigError(f"{path}: {error}") from error
        if bool(sweep.rows) == bool(sweep.grid):
            raise ConfigError(f"{path}: give either rows or grid")
        return sweep

    def all_rows(self) -> dict[str, Options]:
        """Row name -> its options; ``sample`` of them at random where that is set."""
        if self.rows:
            return self.rows
        points = [
            dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())
        ]
        if self.sample is not None and self.sample < len(points):
            points = random.Random(self.name).sample(points, self.sample)
        return {
            ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in point.items()): point
            for point in points
        }


def run_sweep(sweep: Sweep, out: Path, verbs: Mapping[str, Verb]) -> Path:
    """Train, tune and evaluate every row and seed that is not done yet.

    Args:
        sweep: what to run.
        out: gets a folder a run, ``table.md``, ``table.json`` and ``table.png``.
        verbs: ``train``, ``tune`` and ``evaluate`` as the command line has them.

    Returns:
        The table.
    """
    results: dict[str, list[dict[str, Any]]] = {}
    for row, options in sweep.all_rows().items():
        for seed in sweep.seeds:
            result = out / slug(row) / f"seed-{seed}.json"
            if not result.exists():
                _run(sweep, options, seed, result, verbs)
            results.setdefault(row, []).append(read_result(result))
    rows = table_rows(sweep, results)
    with atomic(out / "table.json") as draft:
        draft.write_text(json.dumps(rows, indent=1))
    with atomic(out / "table.md") as draft:
        draft.write_text(markdown(sweep, rows))
    plot(sweep, rows, out / "table.png")
    return out / "table.md"


def _run(
    sweep: Sweep, options: Options, seed: int, result: Path, verbs: Mapping[str, Verb]
) -> None:
    folder = result.with_suffix("")
    if not (folder / WEIGHTS).is_file() or not (folder / "trained").exists():
        given = run_arguments(sweep, options, seed)
        fixed = ["--config", sweep.config, "--out", str(folder), "--seed", str(seed), "--resume"]
        verbs["train"]([*fixed, *given])
        (folder / "trained").touch()
    if sweep.tune is not None:
        verbs["tune"](["--model", str(folder), *_arguments(sweep.tune, seed)])
    rest = dict(sweep.evaluate)
    protocol = rest.pop("protocol")
    where = ["--model", str(folder), "--json", str(result)]
    verbs["evaluate"]([protocol, *where, *_arguments(rest, seed)])


def run_arguments(sweep: Sweep, row: Options, seed: int) -> list[str]:
    """What a row asks of ``intarsia train`` beside the sweep's config."""
    return _arguments(sweep.options | row, seed)


def _arguments(options: Options, seed: int) -> list[str]:
    """Options as the command line takes them."""
    given = []
    for key, value in options.items():
        text = value if isinstance(value, str) else json.dumps(value)
        given += [f"--{key}", text.replace("{seed}", str(seed))]
    return given


def table_rows(
    sweep: Sweep, results: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """One row each: mean over seeds of every metric, and the paired difference from row one."""
    first = next(iter(results.values()))
    rows = []
    for name, found in results.items():
        values = {m: _mean([r["metrics"][m]["value"] for r in found]) for m in sweep.metrics}
        gaps = {} if found is first else _gaps(found, first)
        rows.append(
            {
                "row": name,
                "seeds": len(found),
                "values": values,
                "gaps": {m: [gaps[m].value, *gaps[m].ci95] for m in sweep.metrics if m in gaps},
                "published": sweep.published.get(name),
            }
        )
    return rows


def _gaps(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> dict[str, Difference]:
    if len(a) == 1:
        return compare(a[0], b[0])
    return {name: gap.difference for name, gap in compare_seeds(a, b).items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def markdown(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> str:
    published = [f"{metric} published" for metric in sweep.metrics] if sweep.published else []
    heads = [sweep.name, *(h for m in sweep.metrics for h in (m, "against the first"))]
    lines = [_line([*heads, *published]), _line(["---"] * (len(heads) + len(published)))]
    for row in rows:
        cells = [row["row"]]
        for metric in sweep.metrics:
            cells.append(f"{row['values'][metric]:.1f}")
            gap = row["gaps"].get(metric)
            cells.append(f"{gap[0]:+.2f} [{gap[1]:+.2f}, {gap[2]:+.2f}]" if gap else "")
        theirs = row["published"] or [None] * len(sweep.metrics)
        cells += ["" if value is None else f"{value:.2f}" for value in theirs if published]
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def plot(sweep: Sweep, rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A bar a row and metric, with the interval of its difference from the first row."""
    from matplotlib.figure import Figure

    size = (4.5 * len(sweep.metrics), 0.8 + 0.4 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(sweep.metrics), sharey=True, squeeze=False)[0]
    names = [row["row"] for row in rows]
    for axis, metric in zip(axes, sweep.metrics, strict=True):
        values = [row["values"][metric] for row in rows]
        axis.barh(names, values, color="tab:blue", alpha=0.6)
        for i, row in enumerate(rows):
            if gap := row["gaps"].get(metric):
                low, high = (values[0] + end for end in gap[1:])
                axis.plot([low, high], [i, i], color="black", linewidth=1.5)
        axis.axvline(values[0], color="tab:red", linewidth=1, linestyle="--")
        axis.set(xlabel=f"{metric} (%)", xlim=(0.9 * min(values), 1.05 * max(values)))
    axes[0].invert_yaxis()
    with atomic(path) as draft:
        figure.savefig(draft, format=path.suffix[1:], dpi=120)


def slug(name: str) -> str:
    """A row's name as a folder's.

    >>> slug("layers 1, width 256")
    'layers-1-width-256'
    """
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-").lower()
