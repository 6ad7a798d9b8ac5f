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
from intarsia.cli.trouble import tell
from intarsia.errors import ConfigError, unknown

__all__ = ["main", "train_parser"]

for name, value in {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",  # no load reports
    "TQDM_DISABLE": "1",  # other libraries' progress bars
}.items():
    os.environ.setdefault(name, value)

DEBUG = "--debug"
Verb = Callable[[list[str]], None]


def main(arguments: list[str] | None = None) -> None:
    """Run one verb. What goes wrong is one line, and the exit code 2 (1 if it is a bug of ours);
    ``--debug``, or INTARSIA_DEBUG=1, shows the traceback, too."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False)],
    )
    for chatty in ("httpx", "httpx2", "transformers", "absl", "lightning_fabric"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    given = sys.argv[1:] if arguments is None else arguments
    debug = DEBUG in given or os.environ.get("INTARSIA_DEBUG", "0") not in ("", "0")
    try:
        _run([argument for argument in given if argument != DEBUG])
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        raise SystemExit(tell(error, debug=debug)) from error


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        _overview()
        return
    verb, *rest = arguments
    if verb not in VERBS:
        raise ConfigError(unknown("verb", verb, VERBS))
    VERBS[verb][0](rest)


def _overview() -> None:
    screen.print("[bold]intarsia[/]: fine-grained image-text alignment\n", markup=True)
    for name, (_, line) in VERBS.items():
        screen.print(f"  intarsia [bold]{name:11}[/] {line}", highlight=False, markup=True)
    screen.print("\n`intarsia VERB --help` explains the options of a verb; with --debug an error")
    screen.print("shows its traceback.")


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
