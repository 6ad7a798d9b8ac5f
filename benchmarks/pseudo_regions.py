"""How often a phrase of a caption is matched to the right box, where nobody has drawn any.

    python -m benchmarks.pseudo_regions [--root DIR]       # DIR: a Flickr8k folder
    python -m benchmarks.pseudo_regions --sheets DIR       # draw the pairs, to judge them by eye

Writes ``benchmarks/results/pseudo_regions.json``: precision with a Wilson 95% interval, on

* flickr8k: 100 pairs, drawn with seed 1 from those that labels alone make for one caption each of
  400 pictures of the training split. ``data/pseudo_regions.jsonl`` holds the judgement of each, by
  eye. ``num_made_again`` is how many of them the present code still makes. Pairs of seed 0 were
  looked at while the rules were made.
* scenes: all pairs of the validation split's first 300 scenes, whose true regions, labelled "small
  red circle", take the detector's place; a pair is right if the scene says so.

Guideline of the judgements: right, if the box shows the thing that the phrase names in this caption
(of several, "two dogs", one of them or all), and mostly that thing: it covers at least half of what
is visible of it and about half of the box is it. Wrong, if it shows another thing, even one of the
same kind, or if the picture shows no such thing.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.harness import machine
from PIL import Image, ImageDraw

from intarsia.components.box_files import picture_of
from intarsia.components.detectors import load_detector
from intarsia.components.pseudo import pseudo_regions
from intarsia.components.text import TextParser
from intarsia.data.readers import read
from intarsia.runtime import data_root
from intarsia.types import Record, Region

HERE = Path(__file__).parent
JUDGED = HERE / "data" / "pseudo_regions.jsonl"
RESULT = HERE / "results" / "pseudo_regions.json"
SPEC = "onnx:yolox_nano.onnx"
NUM_PICTURES, NUM_PAIRS, NUM_SCENES = 400, 100, 300
COLUMNS, CELL = 4, 320
SEED = 1

Pair = dict[str, Any]


class TrueRegions:
    """In the place of a detector: the regions that each of a list of records knows, in order."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._regions = iter([list(record.regions) for record in records])

    def __call__(
        self, images: Sequence[Image.Image], texts: Sequence[Sequence[str]] | None = None
    ) -> list[list[Region]]:
        return list(islice(self._regions, len(images)))

    def fingerprint(self) -> str:
        return "true"


def wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of a rate, in percent.

    >>> [round(side, 1) for side in wilson(90, 100)]
    [82.6, 94.5]
    """
    rate, denominator = right / n, 1 + z**2 / n
    centre = (rate + z**2 / (2 * n)) / denominator
    spread = z * math.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2)) / denominator
    return 100 * (centre - spread), 100 * (centre + spread)


def precision(right: Sequence[bool]) -> dict[str, Any]:
    n = len(right)
    return {"precision": 100 * sum(right) / n, "ci95": wilson(sum(right), n), "n": n}


def with_one_caption(root: Path) -> list[Record]:
    """The pictures that pairs are drawn from, each with one caption."""
    rng = random.Random(SEED)
    chosen = rng.sample(list(read("flickr8k", root, "train")), NUM_PICTURES)
    return [replace(record, captions=(rng.choice(record.captions),)) for record in chosen]


def pairs(records: Iterable[Record]) -> list[Pair]:
    """Every link of a phrase to a region."""
    return [
        {
            "image": record.id,
            "caption": record.captions[phrase.caption],
            "phrase": record.phrase_text(phrase),
            "label": record.regions[index].label,
            "score": round(record.regions[index].score, 3),
            "box": [round(side, 1) for side in record.regions[index].box],
        }
        for record in records
        for phrase in record.phrases
        for index in phrase.regions
    ]


def key(pair: Pair) -> tuple[str, str, str]:
    return pair["image"], pair["phrase"], str([round(side) for side in pair["box"]])


def sheets(folder: Path, records: Sequence[Record], drawn: Sequence[Pair]) -> None:
    """Twelve pairs a picture, their phrase above them, and all of them as lines to be judged."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {record.id: record for record in records}
    for start in range(0, len(drawn), 3 * COLUMNS):
        sheet = Image.new("RGB", (COLUMNS * CELL, 3 * (CELL + 40)), "white")
        for place, pair in enumerate(drawn[start : start + 3 * COLUMNS]):
            cell = _cell(picture_of(pictures[pair["image"]]), pair, start + place)
            sheet.paste(cell, (place % COLUMNS * CELL, place // COLUMNS * (CELL + 40)))
        sheet.save(folder / f"sheet{start // (3 * COLUMNS)}.png")
    lines = (json.dumps(pair, ensure_ascii=False) for pair in drawn)
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")


def _cell(picture: Image.Image, pair: Pair, number: int) -> Image.Image:
    scale = CELL / max(picture.size)
    cell = Image.new("RGB", (CELL, CELL + 40), "white")
    cell.paste(picture.resize((int(picture.width * scale), int(picture.height * scale))), (0, 40))
    draw = ImageDraw.Draw(cell)
    x0, y0, x1, y1 = (side * scale for side in pair["box"])
    draw.rectangle((x0, y0 + 40, x1, y1 + 40), outline="magenta", width=3)
    draw.text((3, 1), f"{number}: {pair['phrase']} -> {pair['label']}", fill="red", font_size=14)
    draw.text((3, 17), pair["caption"][:60], fill="black", font_size=10)
    draw.text((3, 28), pair["caption"][60:], fill="black", font_size=10)
    return cell


def on_flickr8k(made: Sequence[Pair]) -> dict[str, Any]:
    judged = [json.loads(line) for line in JUDGED.read_text().splitlines()]
    again = {key(pair) for pair in made} & {key(pair) for pair in judged}
    return precision([pair["right"] for pair in judged]) | {"num_made_again": len(again)}


def on_scenes(parser: TextParser) -> dict[str, Any]:
    records = list(islice(read("scenes", split="val"), NUM_SCENES))
    truth = {
        (record.id, phrase.caption, record.phrase_text(phrase)): phrase.regions
        for record in records
        for phrase in record.phrases
    }
    found = list(pseudo_regions(records, TrueRegions(records), parser))
    right = [
        truth.get((record.id, phrase.caption, record.phrase_text(phrase))) == phrase.regions
        for record in found
        for phrase in record.phrases
    ]
    return precision(right) | {"recall": 100 * sum(right) / len(truth), "num_phrases": len(truth)}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--root", type=Path, default=data_root() / "flickr8k")
    arguments.add_argument("--sheets", type=Path)
    chosen = arguments.parse_args()
    parser = TextParser()
    records = with_one_caption(chosen.root)
    made = pairs(pseudo_regions(records, load_detector(SPEC), parser))
    if chosen.sheets:
        sheets(chosen.sheets, records, random.Random(SEED).sample(made, NUM_PAIRS))
        return
    result: dict[str, Any] = {
        "spec": SPEC,
        "flickr8k": on_flickr8k(made) | {"pairs_a_caption": len(made) / len(records)},
        "scenes": on_scenes(parser),
        "machine": machine(),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
