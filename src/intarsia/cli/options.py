"""Parsers of the verbs: options of one name in all of them, mistakes told in one line."""

from __future__ import annotations

import re
import textwrap
from argparse import SUPPRESS, ArgumentError, HelpFormatter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from intarsia.cli.mistakes import FLAT, mistake
from intarsia.cli.outputs import require_file, require_folder, require_result
from intarsia.cli.trouble import not_yaml
from intarsia.errors import ConfigError

LABEL = 10  # characters of the labels in a description
NESTED = {flat: nested for nested, flat in FLAT.items()}


class _Formatter(DefaultHelpFormatter):
    """Keeps the lines of a description."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        wrapper = textwrap.TextWrapper(width, initial_indent=indent, break_on_hyphens=False)
        lines = []
        for line in text.splitlines():
            wrapper.subsequent_indent = indent + _hang(line)
            lines.append(wrapper.fill(line))
        return "\n".join(lines)


def _hang(line: str) -> str:
    """What the lines below one that begins with a label are indented by.

    >>> _hang("files:    a.json"), _hang("Example: a line")
    ('          ', '')
    """
    label = re.match(r"\w+: +", line)
    return " " * LABEL if label and len(label[0]) == LABEL else ""


class Parser(ArgumentParser):
    """Shows the data's options by the names that all verbs have for them."""

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        with self._flat():
            return super().format_help(formatter)

    @contextmanager
    def _flat(self) -> Iterator[None]:
        nested = [action for action in self._actions if {*action.option_strings} & FLAT.keys()]
        kept = [action.option_strings for action in nested]
        for action in nested:
            action.option_strings = [FLAT[name] for name in action.option_strings]
        try:
            yield
        finally:
            for action, names in zip(nested, kept, strict=True):
                action.option_strings = names


def command(verb: str, description: str) -> Parser:
    """The parser of a verb, which takes its options from YAML files, too."""
    parser = Parser(
        prog=f"intarsia {verb}",
        description=description,
        exit_on_error=False,
        formatter_class=_Formatter,
    )
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    return parser


def parsed(
    parser: ArgumentParser,
    arguments: Sequence[str],
    *,
    files: Sequence[str] = (),
    results: Sequence[str] = (),
    folders: Sequence[str] = (),
) -> Namespace:
    """The options, whose device is there and whose outputs can be written.

    Args:
        parser: of :func:`command`.
        arguments: as the user has typed them; an option may be spelt with ``-`` or ``_``, and the
            data's as they are nested in configs or not.
        files: options that name a file to be written, if they are given.
        results: the same of results, which take no other file's place.
        folders: options that name a folder.

    Raises:
        ConfigError: anything is wrong with them.
    """
    given = list(_spelt(parser, arguments))
    configs = _configs(given)
    for config in configs:
        _require_config(config)
    try:
        options = parser.parse_args(given)
    except ArgumentError as error:
        raise ConfigError(mistake(str(error), parser, configs)) from error
    if "device" in options:
        from intarsia.runtime import device_of

        device_of(options.device)
    outputs = (files, require_file), (results, require_result), (folders, require_folder)
    for names, require in outputs:
        for name in names:
            if options[name] is not None:
                require(options[name])
    return options


def hide(parser: ArgumentParser, option: str) -> None:
    """Leave an option out of the help."""
    explain(parser, option, SUPPRESS)


def explain(parser: ArgumentParser, option: str, text: str) -> None:
    """Give an option another help."""
    parser._option_string_actions[option].help = text


def _spelt(parser: ArgumentParser, arguments: Sequence[str]) -> Iterator[str]:
    """The arguments by the names that the parser has for them."""
    known = parser._option_string_actions
    others = NESTED if "--data.name" in known else FLAT
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            body = name[2:]
            spellings = (name, f"--{body.replace('-', '_')}", f"--{body.replace('_', '-')}")
            called = (others.get(one, one) for one in spellings)
            name = next((one for one in called if one in known), name)
        yield f"{name}{equals}{value}"


def _configs(arguments: Sequence[str]) -> list[Path]:
    following = zip(arguments, [*arguments, ""][1:], strict=True)
    pairs = [[a, b] if a == "--config" else a.split("=", 1) for a, b in following]
    return [Path(value) for name, *rest in pairs if name == "--config" for value in rest if value]


def _require_config(path: Path) -> None:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}") from error
    except (UnicodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--config {path}: {not_yaml(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"--config {path}: must be a mapping of options, is {type(content).__name__}"
        )


def plain_options(parser: ArgumentParser, options: Namespace) -> dict[str, Any]:
    dumped: dict[str, Any] = yaml.safe_load(parser.dump(options, skip_none=False))
    return dumped
