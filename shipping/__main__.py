"""Put models into the package.

python -m shipping vision        MobileNetV2 of $INTARSIA_DATA/../models in half precision, once
python -m shipping mini RUN      what `intarsia train --config configs/mini.yaml` left
python -m shipping scenes RUN    what `intarsia train --config configs/scenes_base.yaml` left
"""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModel

from intarsia.backbones.processing import load_image_processor
from intarsia.model import CONFIG, WEIGHTS, dump_config
from intarsia.runtime import models_root
from intarsia.shipped import FOLDER
from intarsia.training.run import learnt_from

VISION = FOLDER / "mobilenet" / "model"
SOURCE = "mobilenet_v2_1.0_224"


def ship_vision() -> None:
    """The tower without its classifier; its config without the classifier's thousand names."""
    folder = models_root() / SOURCE
    model = AutoModel.from_pretrained(folder)
    model.config.id2label, model.config.label2id = {}, {}
    model.half().save_pretrained(VISION)
    (VISION / WEIGHTS).chmod(0o644)
    load_image_processor(str(folder)).save_pretrained(VISION)


def ship_run(name: str, run: Path) -> None:
    """A run's weights in half precision, and of its config what says how to build the model."""
    folder = FOLDER / name
    folder.mkdir(exist_ok=True)
    with safe_open(run / WEIGHTS, framework="pt") as file:
        kept = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        save_file({key: x.half() for key, x in kept.items()}, folder / WEIGHTS, file.metadata())
    (folder / WEIGHTS).chmod(0o644)
    config = learnt_from(yaml.safe_load((run / CONFIG).read_text()))
    (folder / CONFIG).write_text(dump_config(config))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m shipping", description=__doc__)
    parser.add_argument("name", choices=["vision", "mini"])
    parser.add_argument("run", type=Path, nargs="?")
    options = parser.parse_args()
    if options.name == "vision":
        ship_vision()
    elif options.run is None:
        parser.error(f"{options.name} needs the folder of a run")
    else:
        ship_run(options.name, options.run)


if __name__ == "__main__":
    main()
