"""A trained model as an ordinary checkpoint that open_clip or transformers loads by itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from intarsia.backbones.huggingface import HuggingFaceBackbone
from intarsia.backbones.openclip import OpenClipBackbone
from intarsia.errors import ConfigError, unknown
from intarsia.methods.base import Temperature
from intarsia.model import CONFIG, Model, load_model
from intarsia.runtime import atomic

Target = Literal["open_clip", "transformers"]
KINDS = {"open_clip": OpenClipBackbone, "transformers": HuggingFaceBackbone}
LOADING = {
    "open_clip": 'open_clip.create_model_and_transforms("local-dir:{folder}")',
    "transformers": 'transformers.AutoModel.from_pretrained("{folder}")',
}


def export(directory: Path, to: Target, out: Path, *, results: Sequence[Path] = ()) -> None:
    """Write the backbone of a trained model, its embeddings unchanged, with a model card.

    What the method has trained beside the backbone (registers, transformers) is not part of an
    ordinary CLIP and stays behind; the card says so.

    Args:
        directory: of the trained model.
        to: the library that is to load it; the backbone must be of that library.
        out: a new or empty folder.
        results: result files of ``intarsia evaluate`` for the card.

    Raises:
        ConfigError: the backbone is another library's, or ``out`` is not empty.
    """
    if to not in KINDS:
        raise ConfigError(unknown("export target", to, KINDS))
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty: choose another folder")
    model = load_model(directory)
    backbone = model.backbone
    if not isinstance(backbone, KINDS[to]):
        fits = [name for name, kind in KINDS.items() if isinstance(backbone, kind)]
        advice = f"export it --to {fits[0]}" if fits else "load it with intarsia.load_model"
        raise ConfigError(f"{directory}: {backbone.name} is no checkpoint of {to}: {advice}")
    assert isinstance(backbone, OpenClipBackbone | HuggingFaceBackbone)
    temperature = getattr(model.method, "temperature", None)
    if isinstance(temperature, Temperature):
        bias = getattr(temperature, "logit_bias", None)
        backbone.take_temperature(temperature.logit_scale, bias)
    backbone.export(out)
    config = yaml.safe_load((directory / CONFIG).read_text())
    with atomic(out / "README.md") as draft:
        draft.write_text(_card(model, config, to, out, results))


def _card(
    model: Model, config: dict[str, Any], to: Target, out: Path, results: Sequence[Path]
) -> str:
    method = type(model.method).__name__
    kept = any(model.method.parameters())
    data = config.get("data") or {}
    lines = [
        "---",
        f"library_name: {to}",
        "pipeline_tag: zero-shot-image-classification",
        "tags: [clip, image-text, intarsia]",
        "---",
        f"# {model.backbone.name}, fine-tuned with intarsia's `{method}`",
        "",
        "```python",
        LOADING[to].format(folder=out),
        "```",
        "",
        "## Training",
        f"* start: `{config['backbone'].get('spec')}`"
        + (f", from {config['init']}" if config.get("init") else ""),
        f"* method: `{json.dumps(config['method'])}`",
        f"* data: {data.get('name', 'unknown')}, split {data.get('split', 'unknown')}",
        f"* trainer: `{json.dumps(config.get('trainer'))}`, seed {config.get('seed')}",
    ]
    if kept and method != "Clip":
        lines.append(f"* what `{method}` has trained beside the towers is not in this checkpoint")
    lines += ["", "## Metrics", *_metrics(results)]
    lines += [
        "",
        "## Licence and intended use",
        "The weights are under the licence of the start weights and of the training data, which "
        "is yours to check. Meant for research on image-text retrieval and grounding. Like every "
        "CLIP it carries the biases of its data; do not identify or judge people with it.",
    ]
    return "\n".join(lines) + "\n"


def _metrics(results: Sequence[Path]) -> list[str]:
    if not results:
        return ["None were given; `intarsia export --results FILE ...` adds them."]
    rows = ["| data | protocol | metric | value | 95% interval |", "|---|---|---|---|---|"]
    for path in results:
        found = json.loads(path.read_text())
        rows += [
            f"| {found['data']} {found['split']} | {found['protocol']} | {name} "
            f"| {metric['value']:.2f} | {metric['ci95'][0]:.2f} to {metric['ci95'][1]:.2f} |"
            for name, metric in found["metrics"].items()
        ]
    return rows
