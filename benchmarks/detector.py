"""How well and how fast a detector finds the objects of COCO photos: AP50 and pictures a second.

    python benchmarks/detector.py [--spec onnx:yolox_nano.onnx] [--split train2017]

Writes ``benchmarks/results/detector.json``. AP wants the doubtful boxes as well, hence a threshold
of 0.01; ``components_*`` says what is left of them at the default threshold of components.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from intarsia.components.box_files import picture_of
from intarsia.components.detections import THRESHOLD
from intarsia.components.detectors import Detector, load_detector
from intarsia.components.regions import image_components
from intarsia.data.readers import read
from intarsia.evaluation.result import versions
from intarsia.runtime import atomic, data_root
from intarsia.types import Record, Region

RESULT = Path(__file__).parent / "results" / "detector.json"
AP_THRESHOLD = 0.01
LEAST_AP50 = 30.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spec", default="onnx:yolox_nano.onnx")
    parser.add_argument("--split", default="train2017")
    arguments = parser.parse_args()

    records = list(read("coco", split=arguments.split))
    pictures = [picture_of(record) for record in records]
    detector = load_detector(arguments.spec, threshold=AP_THRESHOLD)
    found, seconds = detect(detector, pictures)
    precision = average_precision(records, found, arguments.split)
    row = {
        "name": "detector",
        "spec": arguments.spec,
        "data": f"coco {arguments.split}",
        "n": len(records),
        **precision,
        "least_ap50": LEAST_AP50,
        "pictures_per_s": len(records) / seconds,
        **components(pictures, found),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()} {platform.system()}",
        "versions": versions() | {"onnxruntime": version("onnxruntime")},
    }
    with atomic(RESULT) as draft:
        draft.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(row, indent=1))
    if precision["ap50"] <= LEAST_AP50:
        raise SystemExit(f"AP50 {precision['ap50']:.1f} is not above {LEAST_AP50}")


def detect(detector: Detector, pictures: Sequence[Image.Image]) -> tuple[list[list[Region]], float]:
    """The regions of decoded pictures, and the seconds that took (after a warm-up)."""
    detector(pictures[:2])
    start = time.perf_counter()
    found = detector(pictures)
    return found, time.perf_counter() - start


def average_precision(
    records: Sequence[Record], found: Sequence[Sequence[Region]], split: str
) -> dict[str, float]:
    """pycocotools' AP50 and AP (50 to 95), in percent."""
    with redirect_stdout(StringIO()):
        truth = COCO(data_root() / "coco" / "annotations" / f"instances_{split}.json")
        categories = {item["name"]: key for key, item in truth.cats.items()}
        results = [
            _result(int(record.id), region, categories)
            for record, regions in zip(records, found, strict=True)
            for region in regions
        ]
        scoring = COCOeval(truth, truth.loadRes(results), "bbox")
        scoring.params.imgIds = [int(record.id) for record in records]
        scoring.evaluate()
        scoring.accumulate()
        scoring.summarize()
    return {"ap50": 100 * float(scoring.stats[1]), "ap": 100 * float(scoring.stats[0])}


def _result(image: int, region: Region, categories: dict[str, int]) -> dict[str, Any]:
    x0, y0, x1, y1 = region.box
    return {
        "image_id": image,
        "category_id": categories[region.label],
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "score": region.score,
    }


def components(
    pictures: Sequence[Image.Image], found: Sequence[Sequence[Region]]
) -> dict[str, float]:
    """At the default threshold: components a picture, and pictures without any."""
    made = [
        image_components(
            [region for region in regions if region.score >= THRESHOLD],
            picture.size,
            whole_image=False,
        )
        for picture, regions in zip(pictures, found, strict=True)
    ]
    return {
        "components_threshold": THRESHOLD,
        "components_entities": sum(len(made_of.entities) for made_of in made) / len(made),
        "components_relations": sum(len(made_of.relations) for made_of in made) / len(made),
        "components_pictures_without": sum(not made_of.entities for made_of in made),
    }


if __name__ == "__main__":
    main()
