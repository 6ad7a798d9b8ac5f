"""Result files: what was measured, on what, by what, so that a table can be trusted later."""

from __future__ import annotations

import json
import platform
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.table import Table

from intarsia.errors import DataError
from intarsia.evaluation.metrics import Metric, Outcomes
from intarsia.evaluation.packing import Array, pack, unpack
from intarsia.runtime import atomic

PACKAGE = Path(__file__).parents[1]
PACKAGES = ("intarsia", "torch", "transformers", "open_clip_torch", "numpy")
KEYS = (
    *("protocol", "split", "n", "metrics", "per_query", "model", "data", "seed", "config", "keys"),
    *("counted", "versions", "revision"),
)
COLUMNS = tuple(item.name for item in fields(Outcomes))
SINCE: dict[str, Any] = {"keys": {}, "counted": {}}  # what older files lack
OLD_NAMES = {
    "retrieval": "retrieval (5 captions)",
    "retrieval (row-max)": "retrieval (5 captions, row-max)",
    "pointing": "pointing (distinct)",
}
"""Protocols that did not say how they count, which they did in one way."""


def make_result(
    *,
    protocol: str,
    split: str,
    metrics: Mapping[str, Metric],
    per_query: Mapping[str, Outcomes],
    model: str,
    data: str,
    seed: int | None,
    config: Mapping[str, Any],
    keys: Mapping[str, str],
    counted: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """What a result file holds, the outcomes not yet packed.

    ``n`` is the greatest n of the metrics; ``keys`` are those of
    :func:`intarsia.identity.result_keys`; ``counted`` says of what the figures are, where n does
    not. ``versions`` and ``revision`` are added: the git
    commit of the source tree, marked ``+dirty`` when the package differs from it, null when the
    package does not run from a checkout.
    """
    return {
        "protocol": protocol,
        "split": split,
        "n": max(metric.n for metric in metrics.values()),
        "metrics": {name: asdict(metric) for name, metric in metrics.items()},
        "per_query": dict(per_query),
        "model": model,
        "data": data,
        "seed": seed,
        "config": config,
        "keys": keys,
        "counted": dict(counted or {}),
        "versions": versions(),
        "revision": revision(PACKAGE),
    }


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write what :func:`make_result` gave as JSON, whole or not at all; the columns of outcomes are
    packed (:mod:`intarsia.evaluation.packing`)."""
    packed = {name: _packed(outcomes) for name, outcomes in result["per_query"].items()}
    content = {**result, "per_query": packed}
    text = json.dumps(content, default=str, allow_nan=False) + "\n"
    with atomic(Path(path)) as draft:
        draft.write_text(text, encoding="utf-8")


def read_result(path: Path) -> dict[str, Any]:
    """Read what :func:`write_result` wrote; ``keys`` and ``counted`` are empty in files older
    than these, whose protocols get the names that they have now.

    Raises:
        DataError: There is no such file, it is not JSON, or it lacks keys of a result; or a column
            of outcomes is not one.
    """
    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read the result file {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path} is not a result file: no JSON ({error})") from error
    found = SINCE | result if isinstance(result, dict) else {}
    missing = [key for key in KEYS if key not in found]
    if missing:
        raise DataError(f"{path} is not a result file: it lacks {', '.join(missing)}")
    rest = [key for key in found if key not in KEYS]
    outcomes = {"per_query": _outcomes(found["per_query"], f"{path}: per_query")}
    name = found["protocol"]
    renamed = {"protocol": OLD_NAMES.get(name, name)}
    return {key: found[key] for key in (*KEYS, *rest)} | outcomes | renamed


def versions() -> dict[str, str]:
    """Of Python and the packages that a figure depends on."""
    return {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()}


def _version(name: str) -> str:
    """As installed; of a package that runs from its checkout, what the checkout says."""
    try:
        return version(name)
    except PackageNotFoundError:
        project = PACKAGE.parents[1] / "pyproject.toml"
        if name != PACKAGE.name or not project.is_file():
            return "not installed"
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])


def table(results: Sequence[Mapping[str, Any]]) -> Table:
    """A row a metric, a column a result: value ± half its interval, ``-`` where it has none."""
    first = results[0]
    title = f"{first['protocol']} on {first['data']} {first['split']}, n = {first['n']}"
    counts = (f"{n:,} {name.replace('_', ' ')}" for name, n in first["counted"].items())
    view = Table("metric", title=title, caption=", ".join(counts))
    for result in results:
        seed = "" if result["seed"] is None else f"\nseed {result['seed']}"
        view.add_column(f"{result['model']}{seed}", justify="right")
    for name in dict.fromkeys(name for result in results for name in result["metrics"]):
        view.add_row(name, *(_cell(result["metrics"].get(name)) for result in results))
    return view


def revision(folder: Path) -> str | None:
    """The git commit that ``folder`` is checked out from, or None.

    A folder that git does not track (a package installed below someone's repository) has none.
    """
    try:
        if not _git(folder, "ls-files", "."):
            return None
        dirty = "+dirty" if _git(folder, "status", "--porcelain", ".") else ""
        return _git(folder, "rev-parse", "HEAD") + dirty
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _packed(outcomes: Outcomes) -> dict[str, Any]:
    return {name: pack(column) for name, column in _columns(outcomes).items()}


def _columns(outcomes: Outcomes) -> dict[str, Array]:
    columns = {name: getattr(outcomes, name) for name in COLUMNS}
    return {name: column for name, column in columns.items() if column is not None}


def _outcomes(per_query: Any, where: str) -> dict[str, Outcomes]:
    if not isinstance(per_query, dict):
        raise DataError(f"{where} is no object of metrics")
    return {name: _unpacked(columns, f"{where}.{name}") for name, columns in per_query.items()}


def _unpacked(columns: Any, where: str) -> Outcomes:
    if not isinstance(columns, dict) or not {"values"} <= columns.keys() <= set(COLUMNS):
        raise DataError(f"{where} holds other columns than {', '.join(COLUMNS)}")
    arrays = {name: unpack(column, f"{where}.{name}") for name, column in columns.items()}
    n = len(arrays["values"])
    for name, array in arrays.items():
        if len(array) != n:
            raise DataError(f"{where}.{name} has {len(array)} entries where values has {n}")
    return Outcomes(**arrays)


def _cell(metric: Mapping[str, Any] | None) -> str:
    if metric is None:
        return "-"
    low, high = metric["ci95"]
    return f"{metric['value']:.1f} ± {(high - low) / 2:.1f}"
