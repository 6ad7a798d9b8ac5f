"""What jsonargparse finds wrong with options, in one line where it takes up to sixteen."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from jsonargparse import ArgumentParser

from intarsia.errors import nearest, unknown

FLAT = {
    "--data.name": "--data",
    "--data.root": "--root",
    "--data.split": "--split",
    "--data.max_bad_fraction": "--max-bad-fraction",
}
"""Settings of the data as configs nest them, and what they are called on the command line."""
NO_SETTINGS = ("-h", "--help", "--config", "--print_config", "--print_shtab")


def mistake(message: str, parser: ArgumentParser, configs: Sequence[Path]) -> str:
    """The mistake that a message of jsonargparse is about, and what would be valid.

    Args:
        message: of its ``ArgumentError``.
        parser: whose options they are.
        configs: the files that options were read from.
    """
    key = _group(r'Parser key "(\S+)"', message)
    found = _unknown(message, parser) or _unknown_inside(message, parser, key, configs)
    return found or _wrong_value(message, key) or " ".join(message.split())


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
        keys = [name[2:] for name in parser._option_string_actions if name not in NO_SETTINGS]
        place = f"{group}." if group else ""
        valid = {k.removeprefix(place).partition(".")[0] for k in keys if k.startswith(place)}
        where = f"{', '.join(map(str, configs))}: " if configs else ""
        return where + unknown(f"option of {group or parser.prog}", wrong, valid)
    return ""


def _wrong_value(message: str, key: str) -> str:
    option, value = _option(key), _group(r"Given value: (.*)|Got value: (.*)", message)
    name = _group(r"Expected a dot import path string: (\S+)", message)
    if key == "method" and name:
        methods = import_module("intarsia.methods").__all__
        return unknown("method", name, [one for one in methods if one != "Method"])
    if why := _group(r"Problem with given class_path '[\w.]+':\s+(.*)", message):
        return f"{option} {value}: {why}"
    if literals := _group(r"Expected a typing.Literal\[(.*?)\]", message):
        return unknown(option, value, re.findall(r"'(.*?)'", literals))
    if kinds := _group(r"Subtypes: (.*)|Expected a (.*?)\. Got", message):
        return f"{option} {value}: must be {_plain(kinds)}"
    return ""


def _option(key: str) -> str:
    return FLAT.get(f"--{key}", f"--{key}")


def _group(pattern: str, text: str) -> str:
    """The first group that is found, or nothing."""
    found = re.search(pattern, text)
    return next((group for group in found.groups() if group), "") if found else ""


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
