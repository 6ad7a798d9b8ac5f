"""Phrase grounding: where in its picture is what a phrase names? (METHODS.md section 5)

A picture is scaled to the backbone's square input, whatever its aspect ratio, so that no box is cut
away (the protocol ``pointing`` cuts it as in training). ``maps`` finds boxes in the method's own
map of the phrase (slots, or patches against the phrase), upsampled to the input's pixels;
``proposals`` ranks given boxes by how well the method's region vectors match the phrase; ``both``
ranks them by the sum of that and of the map's contrast (:mod:`intarsia.evaluation.heat`), each
standardised over the picture's proposals.

Counted as in published tables: every phrase of every sentence that has a box (Flickr30k Entities),
every expression (RefCOCO); right where any of its boxes is hit (``any``) or the one around them all
(``merged``): the any-box and merged-box protocols of MDETR (Kamath et al. 2021). Given boxes are
all that are annotated in the picture. Each distinct phrase once (``counting="distinct"``) is ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou

from intarsia.components.detectors import Detector
from intarsia.components.regions import image_components
from intarsia.data.problems import Problems
from intarsia.data.records import chosen
from intarsia.errors import DataError
from intarsia.evaluation.boxes import square_input
from intarsia.evaluation.harness import MAPS_AT_ONCE, Evaluation
from intarsia.evaluation.heat import boxes_from_map, contrast, upsampled
from intarsia.evaluation.mentions import Counting, asked_of, readable, regions_inside
from intarsia.evaluation.metrics import Array, Outcomes, require_no_nan, summarise
from intarsia.evaluation.pointing import pointing_chance, pointing_hits, pointing_outcomes
from intarsia.model import Model
from intarsia.runtime import chunks
from intarsia.types import Box, Record, Region

Source = Literal["maps", "proposals", "both"]
Targets = Literal["any", "merged"]
RECALL_AT = (1, 5, 10)
LEAST_IOU = 0.5
NOWHERE = np.iinfo(np.int64).max
Goals = Sequence[tuple[str, Sequence[Box]]]
"""Texts, and the boxes that are right for each."""


@dataclass(frozen=True, slots=True, eq=False)
class Grounded:
    """Of every phrase: whether the point hits, the place of the first right box (``NOWHERE`` if
    there is none), the share of boxes that are right, a random point's chance to hit, and in which
    picture it is; (P,) each."""

    hits: Array
    places: Array
    shares: Array
    chance: Array
    pictures: Array


def evaluate_grounding(
    model: Model,
    records: Sequence[Record],
    problems: Problems,
    *,
    source: Source = "maps",
    targets: Targets = "any",
    counting: Counting = "mentions",
    detector: Detector | None = None,
    num_proposals: int = 100,
) -> Evaluation:
    """Phrases found in their pictures: pointing game and Recall@1/5/10 at IoU 0.5.

    A record without phrases has the names of its regions' categories instead. What is not asked,
    since it has no box in the picture, is ``counted``.

    Args:
        model: what gives maps and vectors.
        records: pictures with regions that phrases or labels speak of.
        problems: collects unreadable pictures and boxes outside their picture.
        source: what boxes are found from. The point is the centre of the map's greatest patch, as
            in the protocol ``pointing`` (upsampled, a border patch would peak at the very border),
            or the centre of the best proposal. What the model sees is not the same as there
            (:data:`intarsia.evaluation.pointing.VIEWS`).
        targets: of a phrase with several boxes any is right, or the one that holds them all
            (``merged``).
        counting: every mention, as published, or each distinct text of a picture once; of these
            one that means several sets of regions is left out and counted.
        detector: finds the proposals; None takes the record's own regions, right ones among them.
        num_proposals: a picture, best first.

    Raises:
        DataError: no phrase has a box, too many pictures are bad, or a score is NaN.
    """
    parts = []
    counted: Counter[str] = Counter(pictures=0, phrases=0)
    with square_input(model, None):
        asked = (item for item in _asked(records, targets, counting, problems, counted) if item[3])
        for some in chunks(asked, MAPS_AT_ONCE):
            maps: Iterable[Tensor | None] = repeat(None)
            if source != "proposals":
                maps = model.maps_of(
                    [x[1] for x in some], [[text for text, _ in x[3]] for x in some]
                )
            for (picture, image, own, goals), heat in zip(some, maps, strict=False):
                if source == "maps":
                    assert heat is not None
                    hit = _from_maps(model, image, goals, heat)
                else:
                    texts = list(dict.fromkeys(text for text, _ in goals))
                    boxes = _proposals(image, own, texts, detector, num_proposals)
                    hit = _from_proposals(model, image, goals, boxes, heat)
                right = [boxes for _, boxes in goals]
                chance = pointing_chance(right, model.backbone.dims.grid, image.size)
                parts.append((*hit, chance, np.full(len(goals), picture)))
    problems.check()
    if not parts:
        raise DataError(f"none of {len(records)} records has a phrase or a label with a box")
    found = Grounded(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    outcomes = grounding_outcomes(found, source)
    variant = _variant(source, targets, counting, detector)
    return Evaluation(summarise(outcomes), outcomes, variant, counted=counted)


def grounding_outcomes(found: Grounded, source: Source) -> dict[str, Outcomes]:
    """``pointing`` with its chance, ``r1``, ``r5``, ``r10``; of proposals also ``r1_chance``, what
    a random order scores, and ``bound``, whether any of them is right, which no order can exceed.
    A picture's phrases are drawn as one."""
    outcomes = pointing_outcomes(found.hits, found.chance, found.pictures)
    for k in RECALL_AT:
        outcomes[f"r{k}"] = Outcomes.of_hits(found.places < k, found.pictures)
    if source != "maps":
        outcomes["r1_chance"] = Outcomes(100 * found.shares, found.pictures)
        outcomes["bound"] = Outcomes.of_hits(found.shares > 0, found.pictures)
    return outcomes


def judged(ranked: Array, goals: Sequence[Box]) -> tuple[int, float]:
    """The place of the first right box of ``ranked`` (K,4), and the share of them that are right.

    Right is a box that overlaps any of ``goals`` by IoU >= 0.5.

    >>> judged(np.array([[0, 0, 4, 4], [5, 0, 9, 4]]), [(5.0, 0.0, 9.0, 8.0)])
    (1, 0.5)
    """
    overlaps = box_iou(torch.from_numpy(ranked).double(), torch.tensor(goals, dtype=torch.double))
    right = (overlaps >= LEAST_IOU).any(1)
    places = right.nonzero()
    return int(places[0]) if len(places) else NOWHERE, float(right.double().mean())


def _asked(
    records: Sequence[Record],
    targets: Targets,
    counting: Counting,
    problems: Problems,
    counted: Counter[str],
) -> Iterator[tuple[int, Image.Image, list[Region], Goals]]:
    """The number of each readable picture, itself, its regions, and what is to be found in it.

    ``counted`` grows by what is asked and what is not.
    """
    kept = chosen(records, lambda record: bool(record.regions))
    for picture, (record, image) in enumerate(readable(kept, problems)):
        regions = regions_inside(record, image.size, problems)
        goals, left_out = _goals(record, regions, targets, counting)
        counted.update(pictures=bool(goals), phrases=len(goals))
        for reason, number in left_out.items():
            problems.skip(reason, number)
            counted[f"{reason.replace(' ', '_')}_left_out"] += number
        yield picture, image, list(regions.values()), goals


def _goals(
    record: Record, regions: Mapping[int, Region], targets: Targets, counting: Counting
) -> tuple[Goals, dict[str, int]]:
    """The boxes that are right for each text that is asked, and how many are not, and why."""
    asked, ambiguous = asked_of(record, counting)
    goals = []
    for text, indices in asked:
        boxes = [regions[index].box for index in indices if index in regions]
        if boxes:
            goals.append((text, [_hull(boxes)] if targets == "merged" else boxes))
    left_out = {
        "phrase without a box": sum(not phrase.regions for phrase in record.phrases),
        "phrase that means several sets of boxes": ambiguous,
        "phrase whose boxes miss the picture": len(asked) - len(goals),
    }
    return goals, {reason: number for reason, number in left_out.items() if number}


def _hull(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds all."""
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def _from_maps(
    model: Model, image: Image.Image, goals: Goals, maps: Tensor
) -> tuple[Array, Array, Array]:
    """Whether each phrase's point hits, the place of its first right box and their share."""
    right = [boxes for _, boxes in goals]
    hits = pointing_hits(maps, right, image.size)
    side = model.backbone.transform.size
    to_pixels = np.array([*image.size, *image.size]) / side
    verdicts = [
        judged(boxes_from_map(heat) * to_pixels, boxes)
        for heat, boxes in zip(upsampled(maps, side).numpy(force=True), right, strict=True)
    ]
    places, shares = zip(*verdicts, strict=True)
    return hits, np.array(places), np.array(shares)


def _from_proposals(
    model: Model, image: Image.Image, goals: Goals, boxes: Array, maps: Tensor | None
) -> tuple[Array, Array, Array]:
    """The same as :func:`_from_maps`, the maps helping where there are any."""
    scores = _region_scores(model, image, [text for text, _ in goals], boxes)
    if maps is not None:
        side = model.backbone.transform.size
        cells = boxes * side / np.array([*image.size, *image.size])
        heats = upsampled(maps, side).numpy(force=True)
        hot = np.stack([contrast(heat, cells) for heat in heats])
        scores = _standardised(scores) + _standardised(hot)
    require_no_nan(scores, "the scores of the proposals")
    order = np.argsort(-scores, axis=1, kind="stable")
    verdicts = [
        (_centre_inside(ranked[0], right), *judged(ranked, right))
        for ranked, (_, right) in zip(boxes[order], goals, strict=True)
    ]
    hits, places, shares = zip(*verdicts, strict=True)
    return np.array(hits), np.array(places), np.array(shares)


def _proposals(
    image: Image.Image,
    regions: Sequence[Region],
    phrases: Sequence[str],
    detector: Detector | None,
    most: int,
) -> Array:
    """(K,4) different boxes inside the picture, best first; the whole picture if there are none."""
    found = regions if detector is None else detector([image], [phrases])[0]
    kept = image_components(found, image.size, num_entities=most, num_relations=0)
    return np.array([region.box for region in kept.entities], dtype=np.float64)


@torch.inference_mode()
def _region_scores(model: Model, image: Image.Image, phrases: Sequence[str], boxes: Array) -> Array:
    """How well each box matches each phrase, (P,K)."""
    unit = boxes / np.array([*image.size, *image.size])
    features = model.image_features([image], patches=True)
    places = torch.from_numpy(unit).float().to(model.device)[None]
    regions = model.method.region_vectors(features, places)[0]
    texts = model.method.phrase_vectors(model.text_features(phrases))
    return np.asarray((texts.float() @ regions.float().mT).numpy(force=True))


def _standardised(scores: Array) -> Array:
    """Each row with mean 0 and deviation 1; zero where all are equal."""
    centred = scores - scores.mean(1, keepdims=True)
    deviation = centred.std(1, keepdims=True)
    even = np.zeros_like(centred)
    return np.asarray(np.divide(centred, deviation, out=even, where=deviation > 0))


def _centre_inside(box: Array, goals: Sequence[Box]) -> bool:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in goals)


def _variant(
    source: Source, targets: Targets, counting: Counting, detector: Detector | None
) -> str:
    """What makes the figures of two runs incomparable."""
    parts: list[str] = [source]
    if source != "maps":
        parts.append("regions" if detector is None else "detector")
    parts.append(f"{targets}-box")
    if counting != "mentions":
        parts.append(counting)
    return "-".join(parts)
