"""The components of a picture: entities are boxes, relations the minimal boxes of their pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from intarsia.data.problems import Problems
from intarsia.errors import ConfigError
from intarsia.types import Box, Region

CHUNK = 1024  # pairs looked at together


@dataclass(frozen=True, slots=True)
class PairRegion:
    """The minimal box that holds two regions, ``first`` < ``second`` (indices into their list).

    ``score`` is the product of the two scores.
    """

    box: Box
    score: float
    first: int
    second: int


@dataclass(frozen=True, slots=True)
class ImageComponents:
    """Entities and relations of a picture, best first; a relation's indices are into entities."""

    entities: tuple[Region, ...]
    relations: tuple[PairRegion, ...]


def image_components(
    regions: Sequence[Region],
    size: tuple[int, int],
    *,
    num_entities: int = 10,
    num_relations: int = 10,
    whole_image: bool = True,
    problems: Problems | None = None,
    source: str = "",
) -> ImageComponents:
    """The best regions of a picture and the best pairs of them (METHODS.md 2, ComAlign III-A).

    Boxes are cut to the picture. Of boxes that are then the same, only the best is kept, for they
    are the same crop. Our reading of the paper: pairs are made of the kept entities, so that both
    ends of a relation have a vector of their own.

    Args:
        regions: In pixels, in any order.
        size: (width, height) of the picture.
        num_entities, num_relations: At most so many of each.
        whole_image: A picture without a region has itself as its one entity.
        problems: Counts the regions left out because their box or score is not finite, or less
            than a pixel of them lies in the picture.
        source: The record's id, for ``problems``.

    Raises:
        ConfigError: A negative number of components.
    """
    for name, number in (("num_entities", num_entities), ("num_relations", num_relations)):
        if number < 0:
            raise ConfigError(f"{name} is {number}: choose 0 or more")
    inside = _inside(regions, size, Problems() if problems is None else problems, source)
    unique: dict[Box, Region] = {}
    for region in sorted(inside, key=lambda region: -region.score):
        unique.setdefault(region.box, region)
    if not unique and whole_image:
        frame = (0.0, 0.0, float(size[0]), float(size[1]))
        unique[frame] = Region(frame)
    entities = tuple(unique.values())[:num_entities]
    return ImageComponents(entities, tuple(pair_regions(entities, num_relations)))


def pair_regions(regions: Sequence[Region], num: int) -> list[PairRegion]:
    """The ``num`` best pairs of regions, best first; of equals the earlier regions' pair first.

    Two regions make one pair, whatever their order. Of pairs with the same minimal box, only the
    best is kept.

    >>> a, b, c = Region((0, 0, 2, 2)), Region((4, 0, 6, 2), score=0.5), Region((1, 0, 5, 2))
    >>> [(p.box, p.score, p.first, p.second) for p in pair_regions([a, b, c], 2)]
    [((0.0, 0.0, 5.0, 2.0), 1.0, 0, 2), ((0.0, 0.0, 6.0, 2.0), 0.5, 0, 1)]
    """
    boxes, scores = _arrays(regions)
    first, second = np.triu_indices(len(regions), k=1)
    products = scores[first] * scores[second]
    order = np.argsort(-products, kind="stable")
    best: dict[Box, int] = {}
    for start in range(0, len(order), CHUNK):
        if len(best) >= num:
            break
        part = order[start : start + CHUNK]
        one, two = boxes[first[part]], boxes[second[part]]
        hulls = np.hstack([np.minimum(one, two)[:, :2], np.maximum(one, two)[:, 2:]])
        for pair, hull in zip(part.tolist(), hulls.tolist(), strict=True):
            best.setdefault(tuple(hull), pair)
    return [
        PairRegion(box, float(products[pair]), int(first[pair]), int(second[pair]))
        for box, pair in list(best.items())[:num]
    ]


def _inside(
    regions: Sequence[Region], size: tuple[int, int], problems: Problems, source: str
) -> list[Region]:
    """What lies in the picture of the sound regions, their boxes cut to it."""
    boxes, scores = _arrays(regions)
    finite = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
    cut = boxes.clip(0, [*size, *size])
    seen = finite & ((cut[:, 2:] - cut[:, :2]).min(axis=1) >= 1)
    for index in np.flatnonzero(~seen).tolist():
        box, score = regions[index].box, regions[index].score
        reason = (
            f"box {box} holds no pixel of the {size[0]} x {size[1]} picture"
            if finite[index]
            else f"box {box}, score {score} is not finite"
        )
        problems.add(source, f"regions[{index}]", reason)
    return [
        replace(regions[index], box=tuple(cut[index].tolist()))
        for index in np.flatnonzero(seen).tolist()
    ]


def _arrays(regions: Sequence[Region]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    boxes = np.array([region.box for region in regions], dtype=np.float64).reshape(-1, 4)
    return boxes, np.array([region.score for region in regions], dtype=np.float64)
