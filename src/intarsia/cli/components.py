"""Verbs about components: extract, align."""

from __future__ import annotations

from pathlib import Path

from intarsia.cli.common import (
    add_data_arguments,
    add_device_argument,
    data_of,
    open_model,
    report_problems,
    screen,
)
from intarsia.cli.options import command, parsed
from intarsia.cli.outputs import require_file
from intarsia.errors import ConfigError


def extract(arguments: list[str]) -> None:
    from intarsia.encode.component_pairs import read_components, see_components
    from intarsia.encode.components import Components, ComponentSpec
    from intarsia.encode.towers import Towers

    parser = command(
        "extract",
        "Find the components of pictures and captions and embed each once, into a folder that "
        "training and evaluation read. May be stopped and started again at any time.",
    )
    add_data_arguments(parser, "train")
    parser.add_argument("--model", required=True, help="trained folder, or a backbone (hf:NAME...)")
    parser.add_class_arguments(ComponentSpec, "components", as_positional=False)
    parser.add_argument(
        "--cache", type=Path, default=Path("runs/cache"), help="folder that keeps what is found"
    )
    parser.add_argument(
        "--part", default="1/1", help="k/n: only every n-th record, for n processes side by side"
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the image tower first: twice as fast on CPU after a minute (C++ compiler)",
    )
    add_device_argument(parser)
    options = parsed(parser, arguments, folders=["cache"])
    data, (part, parts) = data_of(options), _part(options.part)
    problems = data.problems()
    records = data.read(problems)[part - 1 :: parts]
    model, _ = open_model(options.model)
    model.to(options.device)
    spec: ComponentSpec = parser.instantiate(options).components
    model.cache = options.cache
    components = Components(spec, options.cache / "components")
    towers, store = Towers(model.backbone.eval(), compiled=options.compile), model.store
    seen = see_components(components, records, towers, store, problems)
    found = [picture for picture in seen if picture]
    texts = read_components(components, records.captions, towers, store, problems=problems)
    store.close()
    report_problems(problems, options.cache / "extract.problems.jsonl")
    regions = sum(len(picture.entities) for picture in found)
    pairs = sum(len(picture.relations) for picture in found)
    screen.print(
        f"{len(found)} pictures with {regions} regions and {pairs} pairs of regions; {len(texts)} "
        f"captions with {sum(len(t.entities) for t in texts)} entities and "
        f"{sum(len(t.relations) for t in texts)} relations; {len(store['image_global'])} "
        f"crops and {len(store['text_global'])} phrases in {store.folder}"
    )


def _part(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise ConfigError(f"--part {text}: write k/n, from 1/n to n/n")
    return int(part), int(parts)


def align(arguments: list[str]) -> None:
    from intarsia.apps import align, maps
    from intarsia.model import load_model

    parser = command(
        "align",
        "Draw which place of a picture matches which phrase of a caption, as PNG and HTML: heat "
        "maps, or for ComAlign its regions and phrases.",
    )
    parser.add_argument("image", type=Path, help="picture")
    parser.add_argument("caption", help="text")
    parser.add_argument("--model", default="mini", help="trained folder, or a shipped model")
    parser.add_argument("--out", type=Path, default=Path("align.png"), help="the PNG")
    options = parsed(parser, arguments, files=["out"])
    require_file(options.out.with_suffix(".html"))
    model = load_model(options.model)
    pair = model, options.image, options.caption
    if model.matches_components:
        align.write(align.align(*pair), options.out)
    else:
        maps.write(maps.phrase_maps(*pair), options.out)
    screen.print(f"{options.out} and {options.out.with_suffix('.html')}")
