"""What a sweep file says: its rows, their names and their arguments."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from intarsia.errors import ConfigError, unknown

INTERPOLATE = "interpolate"  # an option of rows that is none of training
Options = dict[str, Any]
SHAPES: dict[str, tuple[type, type | None]] = {
    "name": (str, None),
    "config": (str, None),
    "evaluate": (list, dict),
    "metrics": (list, str),
    "options": (dict, None),
    "rows": (dict, dict),
    "grid": (dict, list),
    "sample": (int, None),
    "seeds": (list, int),
    "tune": (dict, None),
    "published": (dict, list),
}
"""Of each key, what it holds: a list or mapping of what."""
MAY_BE_EMPTY = ("sample", "tune")
CALLED = {
    str: "text",
    int: "a whole number",
    list: "a list",
    dict: "a mapping",
    float: "a number",
    bool: "yes or no",
    type(None): "empty",
}


class _Loader(yaml.SafeLoader):
    """Refuses a mapping that has a key twice, of which YAML keeps the last."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        where = node.start_mark.line + 1
        raise yaml.YAMLError(f"the name {twice!r} is used twice, in what begins at line {where}")
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


@dataclass(frozen=True)
class Sweep:
    """What a sweep file says; see :mod:`intarsia.sweep`."""

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
            content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        except OSError as error:
            raise ConfigError(f"cannot read the sweep file {path}: {error.strerror}") from error
        except (UnicodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path} is not a sweep file: {error}") from error
        valid = [item.name for item in fields(Sweep)]
        for key in content if isinstance(content, dict) else [str(content)[:40]]:
            if key not in valid:
                raise ConfigError(f"{path}: {unknown('key', key, valid)}")
        if isinstance(content.get("evaluate"), dict):
            content["evaluate"] = [content["evaluate"]]
        for key, value in content.items():
            if value is not None or key not in MAY_BE_EMPTY:
                _require_shape(value, *SHAPES[key], f"{path}: {key}")
        for asked in content.get("evaluate", ()):
            if "protocol" not in asked:
                raise ConfigError(f"{path}: evaluate: lacks a protocol, as retrieval")
        try:
            sweep = Sweep(**content)
        except TypeError as error:
            raise ConfigError(f"{path}: {error}") from error
        if not sweep.seeds or len(set(sweep.seeds)) < len(sweep.seeds):
            raise ConfigError(f"{path}: seeds are {sweep.seeds}: give at least one, each once")
        if bool(sweep.rows) == bool(sweep.grid):
            raise ConfigError(f"{path}: give either rows or grid")
        sweep.require_folders(path)
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

    def require_folders(self, path: Path) -> None:
        """
        Raises:
            ConfigError: Two rows would share a folder, or two points of the grid a name.
        """
        rows: dict[str, str] = {}
        for row in self.all_rows():
            other = rows.setdefault(folder_name(row), row)
            if other != row:
                raise ConfigError(f"{path}: rows {other!r} and {row!r}: give one another name")
        num = len(list(product(*self.grid.values()))) if self.grid and self.sample is None else 0
        if num > len(rows):
            raise ConfigError(f"{path}: points of the grid have the same name or values")

    def trained_row(self, row: str) -> str | None:
        """The row whose training gives ``row`` its weights: itself, unless it interpolates."""
        rows = self.all_rows()
        wanted = {key: value for key, value in rows[row].items() if key != INTERPOLATE}
        return next((name for name, options in rows.items() if options == wanted), None)


def _require_shape(value: Any, kind: type, of: type | None, where: str) -> None:
    if type(value) is not kind:
        raise ConfigError(f"{where}: must be {CALLED[kind]}, is {_called(value)}")
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{where}: the name {key!r} must be text: write it in quotes")
    if of is not None:
        for name, entry in _entries(value):
            _require_shape(entry, of, None, f"{where}: {name}")


def _entries(value: Any) -> Iterable[tuple[Any, Any]]:
    return value.items() if isinstance(value, dict) else enumerate(value, 1)


def _called(value: Any) -> str:
    return CALLED.get(type(value), type(value).__name__)


def run_arguments(sweep: Sweep, row: Options, seed: int) -> list[str]:
    """What a row asks of ``intarsia train`` beside the sweep's config."""
    return arguments(sweep.options | row, seed)


def arguments(options: Options, seed: int) -> list[str]:
    """Options as the command line takes them."""
    given = []
    for key, value in options.items():
        text = value if isinstance(value, str) else json.dumps(value)
        given += [f"--{key}", text.replace("{seed}", str(seed))]
    return given


def slug(name: str) -> str:
    """
    >>> slug("layers 1, width 256")
    'layers-1-width-256'
    """
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-").lower()


def folder_name(row: str) -> str:
    """A row's name as a folder's, which no other row has: where the slug does not say everything,
    a hash of the name is added.

    >>> folder_name("lr 0.01")
    'lr-0.01'
    >>> folder_name("weight -1"), folder_name("A")
    ('weight-1-b5d709', 'a-559aea')
    """
    plain = slug(row)
    if row == plain.replace("-", " "):
        return plain
    return f"{plain}-{hashlib.sha256(row.encode()).hexdigest()[:6]}".strip("-")
