"""Verbs that make models: demo, import, train, interpolate, tune, sweep, export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from intarsia.cli.common import (
    add_data_arguments,
    add_data_class,
    add_device_argument,
    data_of,
    open_model,
    report_problems,
    screen,
)
from intarsia.cli.evaluating import evaluate
from intarsia.cli.options import command, parsed, plain_options
from intarsia.cli.outputs import require_folder, require_new
from intarsia.cli.trouble import reading
from intarsia.errors import ConfigError, IntarsiaError

if TYPE_CHECKING:
    from intarsia.model import ModelSpec
    from intarsia.sweep import Sweep
    from intarsia.training.run import DataSpec


def demo(arguments: list[str]) -> None:
    from intarsia.demo import demo

    parser = command("demo", "Pretrain a small CLIP on generated scenes and adapt it.")
    parser.add_function_arguments(demo, as_positional=False, skip={"fast"})
    parser.add_argument("--fast", action="store_true", help="a tenth of the training: 90 seconds")
    options = parsed(parser, arguments, folders=["out"])
    options.pop("config")
    demo(**options.as_dict())


def import_(arguments: list[str]) -> None:
    from intarsia.data.table import write_table
    from intarsia.runtime import progress

    parser = command("import", "Copy any data set into the native table, checking each picture.")
    add_data_class(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder of the new table")
    options = parsed(parser, arguments)
    require_new(options.out)
    spec: DataSpec = parser.instantiate(options).data
    problems = spec.problems()
    records = progress(spec.read(problems), "importing")
    count = write_table(options.out, records, problems)
    report_problems(problems, options.out.with_suffix(".problems.jsonl"))
    screen.print(f"{count} records in {options.out}")


def train_parser() -> ArgumentParser:
    """The parser of ``intarsia train``; every config file is checked against it."""
    from intarsia.components.hard_negatives import HardNegatives
    from intarsia.encode.components import ComponentSpec
    from intarsia.model import Freeze
    from intarsia.training.loop import Trainer
    from intarsia.training.lora import LoraSpec
    from intarsia.training.pseudo import PseudoSpec
    from intarsia.training.run import DataSpec
    from intarsia.types import Dense

    parser = command("train", "Train a method on a backbone; see configs/ for whole examples.")
    add_data_class(parser)
    parser.add_argument(
        "--validation",
        type=DataSpec | None,
        default=None,
        help="records for validation by retrieval; never the split that you report",
    )
    _add_model_arguments(parser)
    parser.add_argument("--freeze", type=Freeze, default="none", help="what does not train")
    parser.add_argument("--dense", type=Dense, default="value", help="how a ViT gives its patches")
    parser.add_argument(
        "--lora", type=LoraSpec | None, default=None, help="adapters instead of the towers' weights"
    )
    parser.add_class_arguments(ComponentSpec, "components", as_positional=False)
    parser.add_argument(
        "--pseudo",
        type=PseudoSpec | None,
        default=None,
        help="match phrases to boxes, for methods that need links",
    )
    parser.add_argument(
        "--hard_negatives",
        type=HardNegatives | None,
        default=None,
        help="false captions in every batch: swapped attributes and roles, replaced words",
    )
    parser.add_class_arguments(Trainer, "trainer", as_positional=False)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the weights, the order of the pairs and dropout"
    )
    parser.add_argument(
        "--init", type=Path | None, default=None, help="trained model to start from"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path("runs/cache"),
        help="where frozen towers' states are kept",
    )
    parser.add_argument(
        "--resume",
        type=bool,
        nargs="?",
        const=True,
        default=False,
        help="go on from the last checkpoint in --out",
    )
    return parser


def _add_model_arguments(parser: ArgumentParser) -> None:
    from intarsia.methods import Method

    parser.add_argument(
        "--backbone",
        type=str | dict[str, Any],
        required=True,
        help="openclip:ARCH[:TAG_OR_FILE], hf:NAME_OR_FOLDER, dual:VISION+TEXT, scenes-clip, "
        "scenes-resnet or a folder; with options of its kind: {spec: ..., embed_dim: 256}",
    )
    parser.add_subclass_arguments(
        Method, "method", skip={"dims"}, instantiate=False, required=False, as_group=True
    )
    parser.set_defaults({"method": "Clip"})


def _run_asked_for(arguments: list[str]) -> tuple[Any, ModelSpec, dict[str, Any]]:
    """Of ``intarsia train``: its options, the model to build and what else its config keeps."""
    from intarsia.model import ModelSpec

    parser = train_parser()
    options = parsed(parser, arguments, folders=["out"])
    keeps = options.pseudo is not None or options.hard_negatives is not None
    if keeps or options.freeze in ("towers", "backbone"):
        require_folder(options.cache)
    plain = plain_options(parser, options)
    backbone = plain["backbone"]
    backbone = {"spec": backbone} if isinstance(backbone, str) else backbone
    spec = ModelSpec(
        backbone, plain["method"], plain["freeze"], plain["dense"], plain["components"]
    )
    names = ("data", "trainer", "init", "seed", "validation", "lora", "pseudo", "hard_negatives")
    ready, kept = _instantiated(parser, options), {key: plain[key] for key in names}
    return ready, spec, kept


def _instantiated(parser: ArgumentParser, options: Namespace) -> Any:
    """The specs and the trainer; what Fabric does not find here is a setting's fault."""
    try:
        return parser.instantiate(options)
    except IntarsiaError:
        raise
    except Exception as error:
        names = ("accelerator", "devices", "precision")
        asked = ", ".join(f"trainer.{name} {options.trainer[name]}" for name in names)
        raise ConfigError(f"{asked}: {error}") from error


def _trained_from(arguments: list[str]) -> dict[str, str]:
    """The keys of what ``intarsia train`` would train from."""
    from intarsia.identity import run_keys
    from intarsia.training.run import resolved_config

    ready, spec, kept = _run_asked_for(arguments)
    return run_keys(resolved_config(spec, kept), _key_of(ready.data), ready.init)


@cache
def _key_of(data: DataSpec) -> str:
    """Data do not change while a sweep runs: the records of all its rows are read once."""
    from intarsia.identity import data_key

    return data_key(data.read(data.problems()))


def train(arguments: list[str]) -> None:
    from intarsia.evaluation.harness import evaluate_retrieval
    from intarsia.model import Model
    from intarsia.training.checks import check_out
    from intarsia.training.run import train

    ready, spec, kept = _run_asked_for(arguments)
    if ready.trainer.validate_every is not None and ready.validation is None:
        raise ConfigError("trainer.validate_every: nothing to validate on; give --validation too")
    check_out(ready.out, resume=ready.resume)
    validate, listed = None, None
    if ready.validation is not None:
        held_out: DataSpec = ready.validation
        problems = listed = held_out.problems()
        records = held_out.read(problems)

        def validate(model: Model) -> dict[str, float]:
            metrics = evaluate_retrieval(model, records, problems).metrics
            return {name: metrics[name].value for name in ("i2t_r1", "t2i_r1")}

    train(
        spec,
        ready.data,
        ready.trainer,
        ready.out,
        seed=ready.seed,
        init=ready.init,
        lora=ready.lora,
        pseudo=ready.pseudo,
        hard_negatives=ready.hard_negatives,
        resume=ready.resume,
        cache=ready.cache,
        validate=validate,
        validation_problems=listed,
        config=kept,
    )
    screen.print(f"trained model in {ready.out}")


def interpolate(arguments: list[str]) -> None:
    from intarsia.model import CONFIG, WEIGHTS, dump_config
    from intarsia.runtime import atomic
    from intarsia.training.interpolate import interpolate

    parser = command(
        "interpolate",
        "Write the model whose weights lie between those of a start and of what fine-tuning has "
        "made of it (WiSE-FT): often better than either on data unlike the training data.",
    )
    parser.add_argument("--start", required=True, help="trained folder, or a backbone (hf:NAME...)")
    parser.add_argument("--model", type=Path, required=True, help="fine-tuned folder")
    parser.add_argument("--weight", type=float, default=0.5, help="of the model: 0 is the start")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    options = parsed(parser, arguments, folders=["out"])
    if (options.out / WEIGHTS).exists():
        raise ConfigError(f"{options.out} already holds a model: choose another --out")
    model, config = open_model(str(options.model))
    interpolate(open_model(options.start)[0], model, options.weight)
    given = {key: str(options[key]) for key in ("start", "model", "weight")}
    model.save(options.out / WEIGHTS)
    with atomic(options.out / CONFIG) as draft:
        draft.write_text(dump_config(config | {"interpolate": given}), encoding="utf-8")
    screen.print(f"interpolated model in {options.out}")


def tune_parser() -> ArgumentParser:
    parser = command(
        "tune",
        "Find the weights of ComAlign's similarity on pictures of the TRAINING split and keep "
        "them in the model; writes tune.json and tune.png beside it.",
    )
    parser.add_argument("--model", type=Path, required=True, help="trained folder")
    add_data_arguments(parser, "train[-500:]")
    parser.add_argument(
        "--cache", type=Path, default=Path("runs/cache"), help="where components are kept"
    )
    add_device_argument(parser)
    return parser


def tune(arguments: list[str]) -> None:
    import json

    from intarsia.evaluation.tune import plot, tune
    from intarsia.model import WEIGHTS
    from intarsia.runtime import atomic

    options = parsed(tune_parser(), arguments, folders=["model", "cache"])
    data = data_of(options)
    problems = data.problems()
    model = open_model(str(options.model))[0].to(options.device)
    model.cache = options.cache
    found = tune(model, data.read(problems), problems)
    model.save(options.model / WEIGHTS)
    with atomic(options.model / "tune.json") as draft:
        draft.write_text(json.dumps(found.as_dict(), indent=1), encoding="utf-8")
    plot(found, options.model / "tune.png")
    screen.print(
        f"alpha1 {found.alpha1:g}, alpha2 {found.alpha2:g}, beta1 {found.beta1:g} on "
        f"{found.n} pictures: {options.model / 'tune.png'}"
    )


def sweep(arguments: list[str]) -> None:
    from intarsia.sweep import Sweep, Verbs, run_sweep, slug
    from intarsia.training.run import DataSpec

    parser = command(
        "sweep",
        "Train, tune and evaluate every row of a sweep file (configs/ablations/*.yaml), several "
        "seeds each. What is done already is not done again: runs of the same data, start and "
        "options, and results of these by the same code.",
    )
    parser.add_argument("file", type=Path, help="the sweep file")
    parser.add_argument("--out", type=Path | None, default=None, help="default: runs/sweeps/NAME")
    options = parsed(parser, arguments)
    sweep = Sweep.read(options.file)
    out = options.out or Path("runs/sweeps") / slug(sweep.name)
    require_folder(out)
    _require_options(options.file, sweep)

    def key_of(name: str, root: Path | None, split: str) -> str:
        return _key_of(DataSpec(name, root, split))

    verbs = Verbs(train, interpolate, tune, evaluate, _trained_from, key_of)
    written = run_sweep(sweep, out, verbs)
    screen.print(written.read_text(encoding="utf-8"))
    screen.print(f"in {written.parent}")


def _require_options(file: Path, sweep: Sweep) -> None:
    """Before anything is trained: every row, the tuning and every evaluation have options and data
    that there are, and the evaluations the sweep's metrics.

    Raises:
        ConfigError: One has not; it is named.
    """
    import shlex

    from intarsia.cli.evaluating import protocol_parser
    from intarsia.sweep import metrics_of, require_metrics
    from intarsia.sweep.file import arguments, run_arguments
    from intarsia.training.run import DataSpec

    read = cache(lambda data: data.read(data.problems()))
    base = ["--config", sweep.config, "--out", "out"]
    metrics: set[str] = set()
    for seed in sweep.seeds:
        for name, options in sweep.all_rows().items():
            if sweep.trained_row(name) == name:
                with _named(f"{file}: row {name!r}"):
                    row = parsed(train_parser(), [*base, *run_arguments(sweep, options, seed)])
                    _key_of(DataSpec(**row.data.as_dict()))
                    if row.validation is not None:
                        read(DataSpec(**row.validation.as_dict()))
        if sweep.tune is not None:
            with _named(f"{file}: tune"):
                given = ["--model", "model", *arguments(sweep.tune, seed)]
                read(data_of(parsed(tune_parser(), given)))
        for asked in sweep.evaluate:
            rest = dict(asked)
            protocol, *given = shlex.split(str(rest.pop("protocol")))
            with _named(f"{file}: evaluate {protocol}"):
                given += ["--model", "model", *arguments(rest, seed)]
                found = parsed(protocol_parser(protocol), given)
                metrics |= metrics_of(protocol, found.as_dict(), read)
    with _named(str(file)):
        require_metrics(sweep, metrics)


@contextmanager
def _named(what: str) -> Iterator[None]:
    try:
        yield
    except IntarsiaError as error:
        raise ConfigError(f"{what}: {error}") from error


def export(arguments: list[str]) -> None:
    from intarsia.evaluation.result import read_result
    from intarsia.export import Target, export

    parser = command(
        "export",
        "Write the fine-tuned CLIP as an ordinary checkpoint, with a model card, that open_clip "
        "or transformers loads by itself.",
    )
    parser.add_argument("--model", type=Path, required=True, help="trained folder")
    parser.add_argument("--to", type=Target, required=True, help="the library that is to load it")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument(
        "--results", type=Path, nargs="+", default=[], help="result files for the model card"
    )
    options = parsed(parser, arguments, folders=["out"])
    for path in options.results:
        read_result(path)
    with reading(options.model):
        export(options.model, options.to, options.out, results=options.results)
    screen.print(f"checkpoint of {options.to} in {options.out}")
