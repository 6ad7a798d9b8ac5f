"""Many runs from one file: a table's rows, several seeds each, resumable, one table and one plot.

A sweep file is YAML:

    name: comalign_layers
    config: configs/comalign_flickr8k.yaml   # of `intarsia train`
    options: {init: "runs/flickr8k/clip-{seed}", trainer.epochs: 10}
    rows:                                    # or grid: {method.init_args.layers: [1, 2, 4]}
      "1 layer": {method.init_args.layers: 1}
      "2 layers": {method.init_args.layers: 2}
    seeds: [0, 1, 2]
    tune: {data: flickr8k, split: "train[-500:]"}          # optional
    evaluate: {protocol: retrieval, data: flickr8k, split: dev}   # or a list of such
    metrics: [i2t_r1, t2i_r1]                # of whichever evaluation has it first
    published: {"1 layer": [54.78, 37.60]}   # optional, shown beside

``{seed}`` in an option stands for the seed. Differences are paired and against the first row. A
protocol may bring arguments (``boxes --protocol clipself``). A row with ``interpolate: W`` is not
trained: its weights lie between the ``init`` (0) and the result (1) of the row of the same options.
"""

from __future__ import annotations

import json
import random
import re
import shlex
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

INTERPOLATE = "interpolate"  # an option of rows that is none of training
Verb = Callable[[list[str]], None]
Options = dict[str, Any]
Results = Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]
"""Of each row and seed, the result of each evaluation."""


@dataclass(frozen=True)
class Sweep:
    """What a sweep file says; see the module's docstring."""

    name: str
    config: str
    evaluate: list[Options]
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
        if isinstance(content.get("evaluate"), dict):
            content["evaluate"] = [content["evaluate"]]
        try:
            sweep = Sweep(**content)
        except TypeError as error:
            raise ConfigError(f"{path}: {error}") from error
        if bool(sweep.rows) == bool(sweep.grid):
            raise ConfigError(f"{path}: give either rows or grid")
        for row, options in sweep.all_rows().items():
            if INTERPOLATE in options and "init" not in sweep.options | options:
                raise ConfigError(f"{path}: row {row!r}: interpolate needs an init to start from")
            if INTERPOLATE in options and sweep.trained_row(row) is None:
                raise ConfigError(
                    f"{path}: row {row!r}: interpolate needs a row of the same options without it"
                )
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

    def trained_row(self, row: str) -> str | None:
        """The row whose training gives ``row`` its weights: itself, unless it interpolates."""
        rows = self.all_rows()
        wanted = {key: value for key, value in rows[row].items() if key != INTERPOLATE}
        return next((name for name, options in rows.items() if options == wanted), None)


def run_sweep(sweep: Sweep, out: Path, verbs: Mapping[str, Verb]) -> Path:
    """Train, tune and evaluate every row and seed that is not done yet.

    Args:
        sweep: what to run.
        out: gets a folder a run, ``table.md``, ``table.json`` and ``table.png``.
        verbs: ``train``, ``interpolate``, ``tune`` and ``evaluate`` as the command line has them.

    Returns:
        The table.
    """
    results: dict[str, list[list[dict[str, Any]]]] = {}
    for row in sweep.all_rows():
        for seed in sweep.seeds:
            files = _run(sweep, row, seed, out, verbs)
            results.setdefault(row, []).append([read_result(file) for file in files])
    rows = table_rows(sweep, results)
    with atomic(out / "table.json") as draft:
        draft.write_text(json.dumps(rows, indent=1))
    with atomic(out / "table.md") as draft:
        draft.write_text(markdown(sweep, rows))
    plot(sweep, rows, out / "table.png")
    return out / "table.md"


def _run(sweep: Sweep, row: str, seed: int, out: Path, verbs: Mapping[str, Verb]) -> list[Path]:
    """The result files of one row and seed, of which those that are missing are made."""
    folder = _folder(out, row, seed)
    asked = [dict(options) for options in sweep.evaluate]
    names = [f"{n}-" if n else "" for n in range(len(asked))]
    protocols = [shlex.split(str(rest.pop("protocol"))) for rest in asked]
    files = [
        folder.with_name(f"{folder.name}-{name}{protocol[0]}.json")
        for name, protocol in zip(names, protocols, strict=True)
    ]
    if all(file.exists() for file in files):
        return files
    _make(sweep, row, seed, out, verbs)
    for file, protocol, rest in zip(files, protocols, asked, strict=True):
        if not file.exists():
            where = ["--model", str(folder), "--json", str(file)]
            verbs["evaluate"]([*protocol, *where, *_arguments(rest, seed)])
    return files


def _make(sweep: Sweep, row: str, seed: int, out: Path, verbs: Mapping[str, Verb]) -> None:
    """The weights of one row and seed, if they are not there."""
    folder, options = _folder(out, row, seed), sweep.all_rows()[row]
    if (folder / WEIGHTS).is_file() and (folder / "trained").exists():
        return
    if INTERPOLATE in options:
        source = sweep.trained_row(row)
        assert source is not None
        _make(sweep, source, seed, out, verbs)
        ends = {"start": (sweep.options | options)["init"], "weight": options[INTERPOLATE]}
        given = _arguments(ends, seed)
        (folder / WEIGHTS).unlink(missing_ok=True)
        fixed = ["--model", str(_folder(out, source, seed)), "--out", str(folder)]
        verbs["interpolate"]([*fixed, *given])
    else:
        given = run_arguments(sweep, options, seed)
        fixed = ["--config", sweep.config, "--out", str(folder), "--seed", str(seed), "--resume"]
        verbs["train"]([*fixed, *given])
    if sweep.tune is not None:
        verbs["tune"](["--model", str(folder), *_arguments(sweep.tune, seed)])
    (folder / "trained").touch()


def _folder(out: Path, row: str, seed: int) -> Path:
    return out / slug(row) / f"seed-{seed}"


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


def table_rows(sweep: Sweep, results: Results) -> list[dict[str, Any]]:
    """One row each: mean over seeds of every metric, and the paired difference from row one.

    Raises:
        ConfigError: no evaluation has such a metric.
    """
    first = next(iter(results.values()))
    sources = {metric: _source(metric, first[0]) for metric in sweep.metrics}
    rows = []
    for name, found in results.items():
        values, gaps = {}, {}
        for metric, source in sources.items():
            own = [seed[source] for seed in found]
            values[metric] = _mean([result["metrics"][metric]["value"] for result in own])
            if found is not first:
                gap = _gaps(own, [seed[source] for seed in first]).get(metric)
                if gap is not None:
                    gaps[metric] = [gap.value, *gap.ci95]
        rows.append(
            {
                "row": name,
                "seeds": len(found),
                "values": values,
                "gaps": gaps,
                "published": sweep.published.get(name),
            }
        )
    return rows


def _source(metric: str, results: Sequence[Mapping[str, Any]]) -> int:
    """Which of the evaluations has a metric."""
    for source, result in enumerate(results):
        if metric in result["metrics"]:
            return source
    known = [name for result in results for name in result["metrics"]]
    raise ConfigError(unknown("metric of a sweep", metric, known))


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
    """A bar a row and metric, or a curve where the rows are numbers; with the interval of each
    difference from the first row."""
    from matplotlib.figure import Figure

    try:
        at: list[float] | None = [float(row["row"]) for row in rows]
    except ValueError:
        at = None
    height = 3.2 if at else 0.8 + 0.4 * len(rows)
    figure = Figure(figsize=(4.5 * len(sweep.metrics), height), layout="constrained")
    axes = figure.subplots(1, len(sweep.metrics), sharey=at is None, squeeze=False)[0]
    for axis, metric in zip(axes, sweep.metrics, strict=True):
        if at:
            _curve(axis, metric, rows, at)
            axis.set(xlabel=sweep.name)
        else:
            _bars(axis, metric, rows)
    if at is None:
        axes[0].invert_yaxis()
    with atomic(path) as draft:
        figure.savefig(draft, format=path.suffix[1:], dpi=120)


def _bars(axis: Any, metric: str, rows: Sequence[Mapping[str, Any]]) -> None:
    values = [row["values"][metric] for row in rows]
    axis.barh([row["row"] for row in rows], values, color="tab:blue", alpha=0.6)
    for i, (low, high) in _intervals(metric, rows).items():
        axis.plot([low, high], [i, i], color="black", linewidth=1.5)
    axis.axvline(values[0], color="tab:red", linewidth=1, linestyle="--")
    axis.set(xlabel=f"{metric} (%)", xlim=(0.9 * min(values), 1.05 * max(values)))


def _curve(axis: Any, metric: str, rows: Sequence[Mapping[str, Any]], at: list[float]) -> None:
    values = [row["values"][metric] for row in rows]
    axis.plot(at, values, marker="o", color="tab:blue")
    for i, (low, high) in _intervals(metric, rows).items():
        axis.plot([at[i], at[i]], [low, high], color="black", linewidth=1.5)
    axis.axhline(values[0], color="tab:red", linewidth=1, linestyle="--")
    if 0 in at:
        least = min((abs(x) for x in at if x), default=1.0)
        axis.set_xscale("symlog", linthresh=least)
        axis.set_xlim(min(at) - 0.3 * least, 1.2 * max(at))
    else:
        axis.set_xscale("log")
    axis.set(title=f"{metric} (%)", xticks=at)
    axis.xaxis.set_major_formatter("{x:g}")


def _intervals(metric: str, rows: Sequence[Mapping[str, Any]]) -> dict[int, tuple[float, float]]:
    """Of each row's difference from the first one, which has none, put at the first one's value."""
    first = rows[0]["values"][metric]
    return {
        i: (first + row["gaps"][metric][1], first + row["gaps"][metric][2])
        for i, row in enumerate(rows)
        if metric in row["gaps"]
    }


def slug(name: str) -> str:
    """A row's name as a folder's.

    >>> slug("layers 1, width 256")
    'layers-1-width-256'
    """
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-").lower()
