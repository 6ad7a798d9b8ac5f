"""The command line. A verb's options are the signatures of what it runs; YAML files give the same.

Each verb builds its own parser when it is called, so that ``--help`` of one does not import all.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from intarsia.errors import ConfigError, IntarsiaError, unknown

for name, value in {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",  # no load reports
    "TQDM_DISABLE": "1",  # other libraries' progress bars
}.items():
    os.environ.setdefault(name, value)
screen = Console()

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
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _overview() -> None:
    screen.print("[bold]intarsia[/]: fine-grained image-text alignment\n")
    for name, (_, line) in VERBS.items():
        screen.print(f"  intarsia [bold]{name:10}[/] {line}", highlight=False)
    screen.print("\n`intarsia VERB --help` explains the options of a verb.")


def _parser(verb: str, description: str) -> ArgumentParser:
    parser = ArgumentParser(prog=f"intarsia {verb}", description=description, exit_on_error=True)
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    return parser


def _demo(arguments: list[str]) -> None:
    from intarsia.demo import demo

    parser = _parser("demo", "Pretrain a small CLIP on generated scenes and adapt it.")
    parser.add_function_arguments(demo, as_positional=False, skip={"fast"})
    parser.add_argument("--fast", action="store_true", help="a tenth of the training: 90 seconds")
    options = parser.parse_args(arguments)
    options.pop("config")
    demo(**options.as_dict())


def _import(arguments: list[str]) -> None:
    from intarsia.data.table import write_table
    from intarsia.training.run import DataSpec

    parser = _parser("import", "Copy any data set into the native table, checking each picture.")
    parser.add_class_arguments(DataSpec, "data", as_positional=False)
    parser.add_argument("--out", type=Path, required=True, help="folder of the new table")
    options = parser.parse_args(arguments)
    spec: DataSpec = parser.instantiate(options).data
    problems = spec.problems()
    count = write_table(options.out, iter(spec.read(problems)), problems)
    _report_problems(problems, options.out.with_suffix(".problems.jsonl"))
    screen.print(f"{count} records in {options.out}")


def _add_model_arguments(parser: ArgumentParser) -> None:
    from intarsia.methods import Method

    parser.add_argument(
        "--backbone",
        type=str | dict[str, Any],
        required=True,
        help="openclip:ARCH[:TAG_OR_FILE], hf:NAME_OR_FOLDER, dual:VISION+TEXT, scenes-clip or a "
        "folder; with options of its kind: {spec: ..., embed_dim: 256}",
    )
    parser.add_subclass_arguments(
        Method, "method", skip={"dims"}, instantiate=False, required=False, as_group=True
    )
    parser.set_defaults({"method": "Clip"})


def train_parser() -> ArgumentParser:
    """The parser of ``intarsia train``; every config file is checked against it."""
    from intarsia.model import Freeze
    from intarsia.training.loop import Trainer
    from intarsia.training.run import DataSpec
    from intarsia.types import Dense

    parser = _parser("train", "Train a method on a backbone; see configs/ for whole examples.")
    parser.add_class_arguments(DataSpec, "data", as_positional=False)
    parser.add_argument(
        "--validation",
        type=DataSpec | None,
        default=None,
        help="records for validation by retrieval; never the split that you report",
    )
    _add_model_arguments(parser)
    parser.add_argument("--freeze", type=Freeze, default="none", help="what does not train")
    parser.add_argument("--dense", type=Dense, default="value", help="how a ViT gives its patches")
    parser.add_class_arguments(Trainer, "trainer", as_positional=False)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--init", type=Path | None, default=None, help="trained model to start from"
    )
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--resume", type=bool, nargs="?", const=True, default=False)
    return parser


def _train(arguments: list[str]) -> None:
    from intarsia.evaluation.harness import evaluate_retrieval
    from intarsia.model import Model, ModelSpec
    from intarsia.training.run import DataSpec, train

    parser = train_parser()
    options = parser.parse_args(arguments)
    plain = _plain(parser, options)
    backbone = plain["backbone"]
    backbone = {"spec": backbone} if isinstance(backbone, str) else backbone
    spec = ModelSpec(backbone, plain["method"], plain["freeze"], plain["dense"])
    ready = parser.instantiate(options)
    validate = None
    if ready.validation is not None:
        held_out: DataSpec = ready.validation
        records = held_out.read()

        def validate(model: Model) -> dict[str, float]:
            metrics = evaluate_retrieval(model, records, held_out.problems()).metrics
            return {name: metrics[name].value for name in ("i2t_r1", "t2i_r1")}

    kept = {key: plain[key] for key in ("data", "trainer", "init", "seed", "validation")}
    train(
        spec,
        ready.data,
        ready.trainer,
        ready.out,
        seed=ready.seed,
        init=ready.init,
        resume=ready.resume,
        cache=ready.cache,
        validate=validate,
        config=kept,
    )
    screen.print(f"trained model in {options.out}")


def _evaluate(arguments: list[str]) -> None:
    from intarsia.evaluation.harness import PROTOCOLS
    from intarsia.evaluation.result import make_result, table, write_result
    from intarsia.training.run import DataSpec

    protocols = ", ".join(PROTOCOLS)
    if not arguments or arguments[0] not in PROTOCOLS:
        if arguments and arguments[0] not in ("-h", "--help"):
            raise ConfigError(unknown("protocol", arguments[0], PROTOCOLS))
        screen.print(f"intarsia evaluate PROTOCOL ..., where PROTOCOL is one of {protocols}")
        return
    protocol, *rest = arguments
    parser = _parser(f"evaluate {protocol}", (PROTOCOLS[protocol].__doc__ or "").split("\n")[0])
    parser.add_argument("--model", required=True, help="trained folder, or a backbone (hf:NAME...)")
    parser.add_argument("--data", required=True, help="name of the data set")
    parser.add_argument("--root", type=Path | None, default=None, help="folder of the data set")
    parser.add_argument("--split", default="test")
    parser.add_argument("--max-bad-fraction", type=float, default=0.01)
    parser.add_argument("--json", type=Path | None, default=None, help="write the result here")
    options = parser.parse_args(rest)
    data = DataSpec(options.data, options.root, options.split, options.max_bad_fraction)
    problems = data.problems()
    model, config = open_model(options.model)
    evaluation = PROTOCOLS[protocol](model, data.read(problems), problems)
    result = make_result(
        protocol=protocol,
        split=options.split,
        metrics=evaluation.metrics,
        per_query=evaluation.per_query,
        model=options.model,
        data=options.data,
        seed=config.get("seed"),
        config=config,
    )
    screen.print(table([result]))
    if options.json:
        write_result(options.json, result)
    _report_problems(problems, options.json and options.json.with_suffix(".problems.jsonl"))


def open_model(name: str) -> tuple[Any, dict[str, Any]]:
    """A trained folder with its config, or a backbone alone, compared by its global vectors."""
    import yaml

    from intarsia.model import CONFIG, ModelSpec, load_model

    if (Path(name) / CONFIG).is_file():
        return load_model(name), yaml.safe_load((Path(name) / CONFIG).read_text())
    spec = ModelSpec({"spec": name})
    return spec.build().eval(), asdict(spec)


def _compare(arguments: list[str]) -> None:
    from intarsia.evaluation.compare import comparison_table
    from intarsia.evaluation.result import read_result

    parser = _parser("compare", "Paired differences of two models from their result files.")
    parser.add_argument("--a", type=Path, nargs="+", required=True, help="results, one a seed")
    parser.add_argument("--b", type=Path, nargs="+", required=True, help="results to subtract")
    options = parser.parse_args(arguments)
    sides = [[read_result(path) for path in paths] for paths in (options.a, options.b)]
    screen.print(comparison_table(*sides))


def _plain(parser: ArgumentParser, options: Namespace) -> dict[str, Any]:
    import yaml

    dumped: dict[str, Any] = yaml.safe_load(parser.dump(options, skip_none=False))
    return dumped


def _report_problems(problems: Any, path: Path | None) -> None:
    if len(problems):
        where = ""
        if path is not None:
            problems.write(path)
            where = f" (listed in {path})"
        Console(stderr=True).print(problems.summary() + where, style="yellow", markup=False)


VERBS: dict[str, tuple[Verb, str]] = {
    "demo": (_demo, "the whole story on generated scenes: table and HTML report"),
    "import": (_import, "any data set -> the native table"),
    "train": (_train, "train a method on a backbone"),
    "evaluate": (_evaluate, "retrieval, negatives, pointing: table and JSON"),
    "compare": (_compare, "paired differences of two models"),
}
