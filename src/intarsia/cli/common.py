"""What several verbs share: parsers, common options, where bad records are listed."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from intarsia.errors import ConfigError

screen = Console()


def command(verb: str, description: str) -> ArgumentParser:
    parser = ArgumentParser(prog=f"intarsia {verb}", description=description, exit_on_error=True)
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    return parser


def parsed(parser: ArgumentParser, arguments: list[str], *outputs: str) -> Namespace:
    """The options, after a look whether the files and folders of ``outputs`` can be written: what
    takes hours to compute must not be lost at the end."""
    options = parser.parse_args(arguments)
    for name in outputs:
        if options[name] is not None:
            require_writable(options[name])
    return options


def require_writable(path: Path) -> None:
    """
    Raises:
        ConfigError: A file cannot be written at ``path``.
    """
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir():
        raise ConfigError(f"cannot write {path}: it is a folder")
    try:
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {folder}: {error.strerror}") from error


def add_data_arguments(parser: ArgumentParser, split: str) -> None:
    parser.add_argument("--data", required=True, help="name of the data set")
    parser.add_argument("--root", type=Path | None, default=None, help="folder of the data set")
    parser.add_argument("--split", default=split, help="split or part of it, as train[-500:]")
    parser.add_argument("--max-bad-fraction", type=float, default=0.01)


def data_of(options: Namespace) -> Any:
    from intarsia.training.run import DataSpec

    return DataSpec(options.data, options.root, options.split, options.max_bad_fraction)


def add_device_argument(parser: ArgumentParser) -> None:
    from intarsia.runtime import best_device

    parser.add_argument("--device", default=str(best_device()), help="cpu, cuda, ...")


def report_problems(problems: Any, path: Path | None) -> None:
    if len(problems):
        where = ""
        if path is not None:
            problems.write(path)
            where = f" (listed in {path})"
        Console(stderr=True).print(problems.summary() + where, style="yellow", markup=False)


def plain_options(parser: ArgumentParser, options: Namespace) -> dict[str, Any]:
    import yaml

    dumped: dict[str, Any] = yaml.safe_load(parser.dump(options, skip_none=False))
    return dumped


def open_model(name: str) -> tuple[Any, dict[str, Any]]:
    """A trained folder with its config, or a backbone alone, compared by its global vectors."""
    from intarsia.model import config_of, load_model

    return load_model(name), config_of(name)
