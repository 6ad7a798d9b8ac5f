"""What jsonargparse finds wrong with options, in one line where it takes up to sixteen."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from intarsia.errors import nearest, unknown

FLAT = {
    "--data.name": "--data",
    "--data.root": "--root",
    "--data.split": "--split",
    "--data.max_bad_fraction": "--max-bad-fraction",
}
"""Settings of the data as configs nest them, and what they are called on the command line."""
CALLED_BY = ("name", "kind")
"""Settings that a group may be called by where it has others, too."""
NO_SETTINGS = ("-h", "--help", "--config", "--print_config", "--print_shtab")


def mistake(message: str, parser: ArgumentParser, configs: Sequence[Path]) -> str:
    """The mistake that a message of jsonargparse is about, and what would be valid.

    Args:
        message: of its ``ArgumentError``.
        parser: whose options they are.
        configs: the files that options were read from.
    """
    key = _group(r'Parser key "(\S+)"', message)
    found = (
        _no_group(message, parser, key, configs)
        or _unknown(message, parser)
        or _unknown_inside(message, parser, key, configs)
    )
    return found or _wrong_value(*_innermost(message, key), configs) or " ".join(message.split())


def _no_group(message: str, parser: ArgumentParser, key: str, configs: Sequence[Path]) -> str:
    """Of one value where a group of settings belongs."""
    group = _group(r"Subtypes: \[<class '([\w.]+)'>, <class 'NoneType'>\]", message)
    value: Any = _group(r"Unable to load config '(.*)'\n", message)
    if missing := _group(r"arguments are required: .*?(\w+)\.\w+", message):
        key, value = missing, _given(missing, configs)
    elif group and key != "method":
        one = r"Expected a dot import path string: .*|Not a valid subclass of"
        value = _group(r"Given value: (.*)", message) if re.search(one, message) else ""
    if value in ("", None) or isinstance(value, dict):
        return ""
    names = _options(group) if group else _inside(parser, key)
    return _as_group(key, value, names, _source(key, value, configs))


def _as_group(key: str, value: Any, names: Sequence[str], source: str) -> str:
    """How the settings of a group, which have these names, are to be written."""
    name = next((name for name in CALLED_BY if name in names), "")
    meant = value if isinstance(value, str) else "..."
    if not source:
        cure = f"--{key}.{name} {meant}" if name else f"--{key}.{min(names)} ..."
        return f"--{key} {value}: must be settings of {key}, as {cure}"
    cure = f"{key.rpartition('.')[2]}: {{{name or min(names)}: {meant if name else '...'}}}"
    others = "" if name else f" (there are {', '.join(sorted(names))})"
    return f"{source}{key}: {value}: must be a mapping of settings, as {cure}{others}"


def _unknown(message: str, parser: ArgumentParser) -> str:
    """Of an option that there is not, or that is not given."""
    advice = f"`{parser.prog} --help` explains the options"
    if wrong := _group(r"unrecognized arguments: (\S+)", message):
        names = [FLAT.get(name, name) for name in parser._option_string_actions]
        near = nearest(wrong.partition("=")[0], names)
        return f"unknown option {wrong}: " + (f"did you mean {near}? " if near else "") + advice
    if missing := _group(r"arguments are required: (.*)", message):
        return f"missing {', '.join(map(_option, missing.split(', ')))}: {advice}"
    return ""


def _unknown_inside(message: str, parser: ArgumentParser, key: str, configs: Sequence[Path]) -> str:
    """Of a setting that a method, a spec or a config does not have."""
    if found := re.search(r"class_path '([\w.]+)':\s+Option '(\w+)' is not accepted", message):
        path, wrong = found.groups()
        return unknown(f"option of {_option(key)} {path.rpartition('.')[2]}", wrong, _options(path))
    if found := re.search(r"^(?:Group '(\S+)' does not accept option|Option) '(\S+)'", message):
        group, wrong = found.groups()
        where = f"{', '.join(map(str, configs))}: " if configs else ""
        return where + unknown(f"option of {group or parser.prog}", wrong, _inside(parser, group))
    return ""


def _innermost(message: str, key: str) -> tuple[str, str]:
    """The message about a setting of a setting, and what it is called."""
    inside = r"""Problem with given class_path '[\w.]+':\s+Parser key "(\S+)":\s+(.*)"""
    found = re.search(inside, message, re.DOTALL)
    return _innermost(found[2], f"{key}.{found[1]}") if found else (message, key)


def _wrong_value(message: str, key: str, configs: Sequence[Path]) -> str:
    option, value = _option(key), _group(r"Given value: (.*)|Got value: (.*)", message)
    source = _source(key, value, configs)
    name = _group(r"Expected a dot import path string: (\S+)", message)
    if key == "method" and (name or "Not a valid subclass of" in message):
        methods = import_module("intarsia.methods").__all__
        return source + unknown("method", name or value, [m for m in methods if m != "Method"])
    if why := _group(r"Problem with given class_path '[\w.]+':\s+(.*)", message):
        if "object has no attribute 'keys'" in why:
            return f"{source}{option}.init_args: must be a mapping of settings"
        return f"{source}{option} {value}: {why}"
    if literals := _group(r"Expected a typing.Literal\[(.*?)\]", message):
        return source + unknown(option, value, re.findall(r"'(.*?)'", literals))
    if kinds := _group(r"Subtypes: (.*)|Expected a (.*?)\. Got", message):
        finite = "finite " if re.fullmatch(r"[+-]?(nan|inf|infinity)", value.lower()) else ""
        return f"{source}{option} {value}: must be {finite}{_plain(kinds)}"
    return ""


def _source(key: str, value: Any, configs: Sequence[Path]) -> str:
    """The file that gives a setting this value, as the beginning of a message; or nothing."""
    given = [path for path in configs if _told(path, key) == str(value)]
    return f"{given[-1]}: " if given else ""


def _given(key: str, configs: Sequence[Path]) -> Any:
    """What the last of the files says of a setting; None if none does."""
    return next(
        (found for path in reversed(configs) if (found := _at(path, key)) is not None), None
    )


def _told(path: Path, key: str) -> str | None:
    found = _at(path, key)
    return None if found is None else str(found)


def _at(path: Path, key: str) -> Any:
    """What a file says of a setting, whose class may keep it in ``init_args``."""
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    for part in key.split("."):
        inner = found.get("init_args", found) if isinstance(found, dict) else None
        found = inner.get(part) if isinstance(inner, dict) else None
    return found


def _option(key: str) -> str:
    return FLAT.get(f"--{key}", f"--{key}")


def _group(pattern: str, text: str) -> str:
    """The first group that is found, or nothing."""
    found = re.search(pattern, text)
    return next((group for group in found.groups() if group), "") if found else ""


def _inside(parser: ArgumentParser, group: str) -> list[str]:
    """The settings of a group, or of the verb."""
    keys = [name[2:] for name in parser._option_string_actions if name not in NO_SETTINGS]
    place = f"{group}." if group else ""
    inside = (key.removeprefix(place) for key in keys if key.startswith(place))
    return list(dict.fromkeys(key.partition(".")[0] for key in inside))


def _options(path: str) -> list[str]:
    """The keyword arguments of a class; ``dims`` are the backbone's."""
    module, _, name = path.rpartition(".")
    names = inspect.signature(getattr(import_module(module), name)).parameters
    return [name for name in names if name != "dims"]


def _plain(kinds: str) -> str:
    """
    >>> _plain("[<class 'float'>, <class 'NoneType'>]"), _plain("<class 'pathlib.Path'>")
    ('float or null', 'Path')
    """
    names = re.findall(r"class '(?:\w+\.)*(\w+)'", kinds) or [kinds]
    return " or ".join({"NoneType": "null"}.get(name, name) for name in names)
