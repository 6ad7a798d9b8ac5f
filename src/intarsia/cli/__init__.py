"""The command line. A verb's options are the signatures of what it runs; YAML files give the same.

Each verb builds its own parser when it is called, so that ``--help`` of one does not import all.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from intarsia.cli.common import screen
from intarsia.cli.components import align, extract
from intarsia.cli.data import data
from intarsia.cli.evaluating import compare, evaluate
from intarsia.cli.training import (
    demo,
    export,
    import_,
    interpolate,
    sweep,
    train,
    train_parser,
    tune,
)
from intarsia.errors import ConfigError, IntarsiaError, unknown

__all__ = ["main", "train_parser"]

for name, value in {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",  # no load reports
    "TQDM_DISABLE": "1",  # other libraries' progress bars
}.items():
    os.environ.setdefault(name, value)

Verb = Callable[[list[str]], None]


def main(arguments: list[str] | None = None) -> None:
    """Run one verb; errors of the user are one line, not a traceback."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False)],
    )
    for chatty in ("httpx", "httpx2", "transformers", "absl", "lightning_fabric"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        _overview()
        return
    verb, *rest = arguments
    try:
        if verb not in VERBS:
            raise ConfigError(unknown("verb", verb, VERBS))
        VERBS[verb][0](rest)
    except IntarsiaError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        raise SystemExit(2) from error
    except OSError as error:
        where = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        Console(stderr=True).print(f"[bold red]error:[/] {escape(where)}", highlight=False)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _overview() -> None:
    screen.print("[bold]intarsia[/]: fine-grained image-text alignment\n")
    for name, (_, line) in VERBS.items():
        screen.print(f"  intarsia [bold]{name:11}[/] {line}", highlight=False)
    screen.print("\n`intarsia VERB --help` explains the options of a verb.")


VERBS: dict[str, tuple[Verb, str]] = {
    "demo": (demo, "the whole story on generated scenes: table and HTML report"),
    "data": (data, "what is there of each data set, and where to get the rest"),
    "import": (import_, "any data set -> the native table"),
    "extract": (extract, "components and their features, once, for ComAlign"),
    "train": (train, "train a method on a backbone"),
    "interpolate": (interpolate, "a model between its start and what it became"),
    "evaluate": (evaluate, "one protocol, or the suite of all: tables and JSON"),
    "tune": (tune, "weights of ComAlign's similarity, on training pictures"),
    "align": (align, "a picture of which region matches which phrase"),
    "sweep": (sweep, "a whole ablation table from one file"),
    "export": (export, "an ordinary open_clip or transformers checkpoint"),
    "compare": (compare, "paired differences of two models"),
}
