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
        help="openclip:ARCH[:TAG_OR_FILE], hf:NAME_OR_FOLDER, dual:VISION+TEXT, scenes-clip, "
        "scenes-resnet or a folder; with options of its kind: {spec: ..., embed_dim: 256}",
    )
    parser.add_subclass_arguments(
        Method, "method", skip={"dims"}, instantiate=False, required=False, as_group=True
    )
    parser.set_defaults({"method": "Clip"})


def train_parser() -> ArgumentParser:
    """The parser of ``intarsia train``; every config file is checked against it."""
    from intarsia.features.components import ComponentSpec
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
    parser.add_class_arguments(ComponentSpec, "components", as_positional=False)
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
    spec = ModelSpec(
        backbone, plain["method"], plain["freeze"], plain["dense"], plain["components"]
    )
    ready = parser.instantiate(options)
    validate, listed = None, None
    if ready.validation is not None:
        held_out: DataSpec = ready.validation
        problems = listed = held_out.problems()
        records = held_out.read(problems)

        def validate(model: Model) -> dict[str, float]:
            metrics = evaluate_retrieval(model, records, problems).metrics
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
        validation_problems=listed,
        config=kept,
    )
    screen.print(f"trained model in {options.out}")


def _add_data_arguments(parser: ArgumentParser, split: str) -> None:
    parser.add_argument("--data", required=True, help="name of the data set")
    parser.add_argument("--root", type=Path | None, default=None, help="folder of the data set")
    parser.add_argument("--split", default=split, help="split or part of it, as train[-500:]")
    parser.add_argument("--max-bad-fraction", type=float, default=0.01)


def _add_device_argument(parser: ArgumentParser) -> None:
    from intarsia.runtime import best_device

    parser.add_argument("--device", default=str(best_device()), help="cpu, cuda, ...")


def _data_of(options: Namespace) -> Any:
    from intarsia.training.run import DataSpec

    return DataSpec(options.data, options.root, options.split, options.max_bad_fraction)


def _extract(arguments: list[str]) -> None:
    from intarsia.features.components import ComponentSpec, ComponentStore

    parser = _parser(
        "extract",
        "Find the components of pictures and captions and embed each once, into a folder that "
        "training and evaluation read. May be stopped and started again at any time.",
    )
    _add_data_arguments(parser, "train")
    parser.add_argument("--model", required=True, help="trained folder, or a backbone (hf:NAME...)")
    parser.add_class_arguments(ComponentSpec, "components", as_positional=False)
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument(
        "--part", default="1/1", help="k/n: only every n-th record, for n processes side by side"
    )
    _add_device_argument(parser)
    options = parser.parse_args(arguments)
    data, (part, parts) = _data_of(options), _part(options.part)
    problems = data.problems()
    records = data.read(problems)[part - 1 :: parts]
    model, _ = open_model(options.model)
    model.to(options.device)
    spec: ComponentSpec = parser.instantiate(options).components
    store = ComponentStore(model.backbone, spec, options.cache / "components")
    found = [picture for picture in store.add_pictures(records, problems) if picture]
    texts = store.add_texts([caption for record in records for caption in record.captions])
    store.close()
    _report_problems(problems, options.cache / "extract.problems.jsonl")
    regions = sum(len(picture.entities) for picture in found)
    pairs = sum(len(picture.relations) for picture in found)
    screen.print(
        f"{len(found)} pictures with {regions} regions and {pairs} pairs of regions; {len(texts)} "
        f"captions with {sum(len(t.entities) for t in texts)} entities and "
        f"{sum(len(t.relations) for t in texts)} relations; {len(store.images)} crops and "
        f"{len(store.texts)} phrases in {options.cache / 'components'}"
    )


def _part(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise ConfigError(f"--part {text}: write k/n, from 1/n to n/n")
    return int(part), int(parts)


def _tune(arguments: list[str]) -> None:
    import json

    from intarsia.evaluation.tune import plot, tune
    from intarsia.model import WEIGHTS, load_model
    from intarsia.runtime import atomic

    parser = _parser(
        "tune",
        "Find the weights of ComAlign's similarity on pictures of the TRAINING split and keep "
        "them in the model; writes tune.json and tune.png beside it.",
    )
    parser.add_argument("--model", type=Path, required=True, help="trained folder")
    _add_data_arguments(parser, "train[-500:]")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    _add_device_argument(parser)
    options = parser.parse_args(arguments)
    data = _data_of(options)
    problems = data.problems()
    model = load_model(options.model, device=options.device)
    model.cache = options.cache
    found = tune(model, data.read(problems), problems)
    model.save(options.model / WEIGHTS)
    with atomic(options.model / "tune.json") as draft:
        draft.write_text(json.dumps(found.as_dict(), indent=1))
    plot(found, options.model / "tune.png")
    screen.print(
        f"alpha1 {found.alpha1:g}, alpha2 {found.alpha2:g}, beta1 {found.beta1:g} on "
        f"{found.n} pictures: {options.model / 'tune.png'}"
    )


def _evaluate(arguments: list[str]) -> None:
    from intarsia.evaluation.harness import PROTOCOLS
    from intarsia.evaluation.result import make_result, table, write_result

    protocols = ", ".join(PROTOCOLS)
    if not arguments or arguments[0] not in PROTOCOLS:
        if arguments and arguments[0] not in ("-h", "--help"):
            raise ConfigError(unknown("protocol", arguments[0], PROTOCOLS))
        screen.print(f"intarsia evaluate PROTOCOL ..., where PROTOCOL is one of {protocols}")
        return
    protocol, *rest = arguments
    parser = _parser(f"evaluate {protocol}", (PROTOCOLS[protocol].__doc__ or "").split("\n")[0])
    parser.add_argument("--model", required=True, help="trained folder, or a backbone (hf:NAME...)")
    _add_data_arguments(parser, "test")
    parser.add_argument("--json", type=Path | None, default=None, help="write the result here")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    _add_device_argument(parser)
    if protocol == "boxes":
        _add_box_arguments(parser)
    options = parser.parse_args(rest)
    data, name = _data_of(options), protocol
    settings: dict[str, Any] = {}
    if protocol == "boxes":
        data, settings = _box_data(options, data)
        name = f"boxes-{options.protocol}-{options.features}"
    problems = data.problems()
    model, config = open_model(options.model)
    model.to(options.device)
    model.cache = options.cache
    evaluation = PROTOCOLS[protocol](model, data.read(problems), problems, **settings)
    config |= {"evaluation": {k: v for k, v in settings.items() if k != "categories"}}
    result = make_result(
        protocol=name,
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


def _add_box_arguments(parser: ArgumentParser) -> None:
    from intarsia.evaluation.boxes import BoxFeatures, ClassText, ProtocolName

    parser.add_argument(
        "--protocol",
        type=ProtocolName,
        default="instances",
        help="instances: micro; clipself: panoptic boxes, macro, things and stuff apart; "
        "fineclip: the same, together",
    )
    parser.add_argument(
        "--features",
        type=BoxFeatures,
        default="roi",
        help="of a box: pooled from the whole picture's patches, or its crop's global vector",
    )
    parser.add_argument(
        "--text",
        type=ClassText,
        default="method",
        help="of a category's name: what the method compares regions with, the prompt's global "
        "vector, or the mean of the name's tokens",
    )
    parser.add_argument(
        "--input-size", type=int | None, default=None, help="pixels a side, for finer patches"
    )


def _box_data(options: Namespace, data: Any) -> tuple[Any, dict[str, Any]]:
    """The data as a box protocol reads them, and its settings."""
    from dataclasses import replace

    from intarsia.data.coco import PANOPTIC, coco_categories
    from intarsia.evaluation.boxes import BOX_PROTOCOLS
    from intarsia.runtime import data_root

    names = ("protocol", "features", "text", "input_size")
    settings = {name: options[name] for name in names}
    if BOX_PROTOCOLS[options.protocol].source == "panoptic":
        if data.name != "coco":
            raise ConfigError(f"--protocol {options.protocol} reads coco, not {data.name!r}")
        data = replace(data, split=PANOPTIC + data.split)
    if data.name == "coco":
        root, split = data.root or data_root() / "coco", data.split.partition("[")[0]
        settings["categories"] = coco_categories(root, split)
    return data, settings


def open_model(name: str) -> tuple[Any, dict[str, Any]]:
    """A trained folder with its config, or a backbone alone, compared by its global vectors."""
    import yaml

    from intarsia.model import CONFIG, ModelSpec, load_model

    if (Path(name) / CONFIG).is_file():
        return load_model(name), yaml.safe_load((Path(name) / CONFIG).read_text())
    spec = ModelSpec({"spec": name})
    return spec.build().eval(), asdict(spec)


def _align(arguments: list[str]) -> None:
    from intarsia.apps.align import align, write
    from intarsia.model import load_model

    parser = _parser(
        "align",
        "Draw which region of a picture matches which phrase of a caption, as PNG and HTML.",
    )
    parser.add_argument("image", type=Path, help="picture")
    parser.add_argument("caption", help="text")
    parser.add_argument("--model", type=Path, required=True, help="trained ComAlign folder")
    parser.add_argument("--out", type=Path, default=Path("align.png"), help="the PNG")
    options = parser.parse_args(arguments)
    write(align(load_model(options.model), options.image, options.caption), options.out)
    screen.print(f"{options.out} and {options.out.with_suffix('.html')}")


def _sweep(arguments: list[str]) -> None:
    from intarsia.sweep import Sweep, run_sweep, slug

    parser = _parser(
        "sweep",
        "Train, tune and evaluate every row of a sweep file (configs/ablations/*.yaml), several "
        "seeds each; what is done already is not done again.",
    )
    parser.add_argument("file", type=Path, help="the sweep file")
    parser.add_argument("--out", type=Path | None, default=None, help="default: runs/sweeps/NAME")
    options = parser.parse_args(arguments)
    sweep = Sweep.read(options.file)
    out = options.out or Path("runs/sweeps") / slug(sweep.name)
    written = run_sweep(sweep, out, {"train": _train, "tune": _tune, "evaluate": _evaluate})
    screen.print(written.read_text(), markup=False)
    screen.print(f"in {written.parent}")


def _export(arguments: list[str]) -> None:
    from intarsia.export import Target, export

    parser = _parser(
        "export",
        "Write the fine-tuned CLIP as an ordinary checkpoint, with a model card, that open_clip "
        "or transformers loads by itself.",
    )
    parser.add_argument("--model", type=Path, required=True, help="trained folder")
    parser.add_argument("--to", type=Target, required=True, help="the library that is to load it")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument(
        "--results", type=list[Path], default=[], help="result files for the model card"
    )
    options = parser.parse_args(arguments)
    export(options.model, options.to, options.out, results=options.results)
    screen.print(f"checkpoint of {options.to} in {options.out}")


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
    "extract": (_extract, "components and their features, once, for ComAlign"),
    "train": (_train, "train a method on a backbone"),
    "evaluate": (_evaluate, "retrieval, negatives, pointing: table and JSON"),
    "tune": (_tune, "weights of ComAlign's similarity, on training pictures"),
    "align": (_align, "a picture of which region matches which phrase"),
    "sweep": (_sweep, "a whole ablation table from one file"),
    "export": (_export, "an ordinary open_clip or transformers checkpoint"),
    "compare": (_compare, "paired differences of two models"),
}
