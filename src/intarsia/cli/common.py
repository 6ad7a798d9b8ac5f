"""What several verbs share: options of the data and the device, models, bad records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from intarsia.cli.options import explain, hide
from intarsia.cli.trouble import reading

screen = Console(markup=False)  # names and captions have brackets of their own


def add_data_arguments(parser: ArgumentParser, split: str) -> None:
    told = _data_help()
    parser.add_argument("--data", required=True, help=told["name"])
    parser.add_argument("--root", type=Path | None, default=None, help=told["root"])
    parser.add_argument("--split", default=split, help=told["split"])
    add_bad_fraction_argument(parser)


def add_bad_fraction_argument(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--max-bad-fraction", type=float, default=0.01, help=_data_help()["max_bad_fraction"]
    )


def add_data_class(parser: ArgumentParser) -> None:
    """The same options, nested under ``data`` in configs."""
    from intarsia.training.run import DataSpec

    parser.add_class_arguments(DataSpec, "data", as_positional=False)
    hide(parser, "--data")
    for name, told in _data_help().items():
        explain(parser, f"--data.{name}", told)


def _data_help() -> dict[str, str]:
    from intarsia.data.readers import READERS

    return {
        "name": f"name of the data set: {', '.join(READERS)}",
        "root": "where its files lie; default: the folder of its name in $INTARSIA_DATA",
        "split": "split or a part of it, as train[-500:]",
        "max_bad_fraction": "largest share of bad records, of bad boxes, ..., each of its own kind",
    }


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


def open_model(name: str) -> tuple[Any, dict[str, Any]]:
    """A trained folder with its config, or a backbone alone, compared by its global vectors."""
    from intarsia.model import CONFIG, WEIGHTS, config_of, load_model
    from intarsia.shipped import shipped

    folder = shipped(name)
    is_run = (folder / CONFIG).is_file()
    with reading(folder / CONFIG):
        config = config_of(name) if is_run else None
    with reading(folder / WEIGHTS if is_run else name):
        return load_model(name), config or config_of(name)
