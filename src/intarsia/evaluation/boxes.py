"""Box classification: of which category is what a box holds? (METHODS.md section 5)

Every labelled box is compared with the names of all categories, without training on them. Pictures
are seen whole: the longer side is scaled to the input, what is left of the square is black, as in
CLIPSelf's evaluation; so no box is cut away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil, floor, inf
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intarsia.backbones.base import ImageTransform
from intarsia.data.coco import Category
from intarsia.data.problems import Problems
from intarsia.errors import ConfigError, DataError
from intarsia.evaluation.metrics import Array, Outcomes, require_no_nan
from intarsia.evaluation.prompts import TEMPLATES, prompts
from intarsia.methods.base import normalised
from intarsia.model import Model
from intarsia.ops.regions import CROP_FACTOR, pool_phrase
from intarsia.runtime import chunks, progress
from intarsia.types import Box, Features, Record

ProtocolName = Literal["instances", "clipself", "fineclip"]
BoxFeatures = Literal["roi", "crop"]
ClassText = Literal["method", "global", "tokens"]
TOP = (1, 5)
TEXTS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class BoxProtocol:
    """Which boxes count and what their hits are averaged over.

    Args:
        source: the annotation that the boxes and categories come from.
        macro: the mean over the categories that occur, not over the boxes.
        apart: things and stuff have figures of their own.
        most: boxes a picture, the first ones of its record.
        area: least and greatest area of a box in pixels of the original picture.
    """

    source: Literal["instances", "panoptic"]
    macro: bool = False
    apart: bool = False
    most: int | None = None
    area: tuple[float, float] = (0, inf)


BOX_PROTOCOLS: dict[ProtocolName, BoxProtocol] = {
    "instances": BoxProtocol("instances"),
    "clipself": BoxProtocol("panoptic", True, apart=True, most=100, area=(8**2, 1024**2)),
    "fineclip": BoxProtocol("panoptic", True, most=100, area=(8**2, 1024**2)),
}


def labelled_boxes(
    record: Record,
    size: tuple[int, int],
    numbers: Mapping[str, int],
    protocol: BoxProtocol,
    problems: Problems,
) -> tuple[list[Box], list[int]]:
    """The boxes of a picture that count, cut at its border, and the numbers of their categories.

    A box that misses the picture, or a label that is no category, goes to ``problems``; what the
    protocol leaves out is counted there as skipped.

    Args:
        record: whose regions are labelled with names of categories.
        size: (width, height) of its picture.
        numbers: of the categories, by name.
    """
    boxes: list[Box] = []
    labels: list[int] = []
    regions = record.regions[: protocol.most]
    if more := len(record.regions) - len(regions):
        problems.skip(f"box after the first {protocol.most} of its picture", more)
    for index, region in enumerate(regions):
        x0, y0, x1, y1 = region.box
        box = (max(x0, 0.0), max(y0, 0.0), min(x1, size[0]), min(y1, size[1]))
        where = f"regions[{index}]"
        if not region.label:
            problems.skip("box without a label")
        elif region.label not in numbers:
            problems.add(record.id, where, f"{region.label!r} is not one of the categories")
        elif not (box[0] < box[2] and box[1] < box[3]):
            reason = f"box {region.box} misses the picture of {size[0]} x {size[1]} pixels"
            problems.add(record.id, where, reason)
        elif not protocol.area[0] <= (x1 - x0) * (y1 - y0) <= protocol.area[1]:
            problems.skip("box smaller or larger than the protocol counts")
        else:
            boxes.append(box)
            labels.append(numbers[region.label])
    return boxes, labels


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """Every box that counts: how many wrong categories beat the true one, which that is, and in
    which picture it is; (R,) each."""

    ranks: Array
    labels: Array
    pictures: Array


def rank_boxes(
    model: Model,
    pictures: Iterable[tuple[Record, Image.Image]],
    categories: Sequence[Category],
    protocol: BoxProtocol,
    problems: Problems,
    *,
    features: BoxFeatures,
    text: ClassText,
    input_size: int | None,
) -> Ranked:
    """Compare every box with every category; pictures go through the backbone a few at a time.

    Raises:
        DataError: there are no categories, no box counts, or too many are bad.
    """
    if not categories:
        raise DataError("there are no categories: no region of any record has a label")
    names = [category.name for category in categories]
    numbers = {name: number for number, name in enumerate(names)}
    cases = (
        (picture, image, *found)
        for picture, (record, image) in enumerate(pictures)
        if (found := labelled_boxes(record, image.size, numbers, protocol, problems))[0]
    )
    parts = []
    with square_input(model, input_size):
        classes = class_vectors(model, names, text)
        for some in chunks(cases, model.backbone.images_at_once):
            rows, images, boxes, labels = zip(*some, strict=True)
            if features == "roi":
                vectors = roi_vectors(model, images, boxes)
            else:
                factors = [[_crop_factor(categories[n]) for n in ns] for ns in labels]
                vectors = crop_vectors(model, images, boxes, factors)
            true = np.concatenate(labels)
            owner = np.repeat(rows, [len(own) for own in boxes])
            parts.append((class_ranks(vectors, classes, true), true, owner))
    problems.check()
    if not parts:
        raise DataError("no picture has a labelled box that counts")
    return Ranked(*(np.concatenate(column) for column in zip(*parts, strict=True)))


@contextmanager
def square_input(model: Model, size: int | None) -> Iterator[None]:
    """Inside, the backbone takes squares of ``size`` pixels (None = its own) and cuts nothing off;
    the model is in evaluation mode.

    Vision transformers interpolate their positions; the patch grid grows with the input.

    Raises:
        ConfigError: ``size`` does not give a whole number of patches.
    """
    backbone, method = model.backbone, model.method
    transform, dims = backbone.transform, backbone.dims
    h, w = dims.grid
    size = transform.size if size is None else size
    if size < 1 or size * h % transform.size or size * w % transform.size:
        side = transform.size // h
        raise ConfigError(
            f"input size {size} does not hold whole patches: take a multiple of {side}"
        )
    grid = (size * h // transform.size, size * w // transform.size)
    backbone.transform = replace(transform, size=size, mode="squash")
    backbone.dims = method.dims = replace(dims, grid=grid)
    try:
        with model.asked():
            yield
    finally:
        backbone.transform = transform
        backbone.dims = method.dims = dims


@torch.inference_mode()
def roi_vectors(
    model: Model, images: Sequence[Image.Image], boxes: Sequence[Sequence[Box]]
) -> Tensor:
    """The method's own region vectors of all boxes of whole pictures, picture by picture, (R,D)."""
    squares = [_letterboxed(image, model.backbone.transform) for image in images]
    features = model.image_features(squares, patches=True)
    vectors = []
    for row, (image, some) in enumerate(zip(images, boxes, strict=True)):
        unit = torch.tensor([some], device=model.device) / max(image.size)
        picture = features.rows(slice(row, row + 1))
        vectors.append(model.method.region_vectors(picture, unit)[0])
    return torch.cat(vectors)


@torch.inference_mode()
def crop_vectors(
    model: Model,
    images: Sequence[Image.Image],
    boxes: Sequence[Sequence[Box]],
    factors: Sequence[Sequence[float]],
) -> Tensor:
    """Global vectors of the boxes' crops, each cut from the original picture, (R,D) normalised.

    Args:
        factors: by which each box is enlarged about its centre; what then lies outside the picture
            is cut off. The crop is scaled to the square input, whatever its aspect ratio.
    """
    crops = (
        image.crop(_enlarged(box, factor, image.size))
        for image, some, by in zip(images, boxes, factors, strict=True)
        for box, factor in zip(some, by, strict=True)
    )
    vectors = []
    for part in chunks(crops, model.backbone.images_at_once):
        vectors.append(normalised(model.image_features(part).require("image_global")))
    return torch.cat(vectors)


@torch.inference_mode()
def class_vectors(model: Model, names: Sequence[str], text: ClassText) -> Tensor:
    """The normalised mean, over all prompts of a name, of the prompts' vectors, (C,D) normalised.

    Args:
        text: the vector of a prompt: what the ``method`` compares regions with, the ``global``
            vector, or the mean of the ``tokens`` of the name inside the prompt.
    """
    backbone = model.backbone
    filled = [prompt for name in names for prompt in prompts(name)]
    vectors = []
    for start in progress(range(0, len(filled), TEXTS_AT_ONCE), f"names, by {TEXTS_AT_ONCE}"):
        some = filled[start : start + TEXTS_AT_ONCE]
        tokens = backbone.tokenize([sentence for sentence, _ in some])
        spans = torch.tensor([span for _, span in some])[:, None]
        touched = (tokens.offsets[..., 0] < spans[..., 1]) & (
            tokens.offsets[..., 1] > spans[..., 0]
        )
        features = backbone.encode_text(tokens.to(model.device))
        features = replace(features, text_mask=(touched & tokens.mask).to(model.device))
        vectors.append(_phrase_vectors(model, features, text))
    return normalised(torch.cat(vectors).view(len(names), len(TEMPLATES), -1).mean(1))


def _phrase_vectors(model: Model, features: Features, text: ClassText) -> Tensor:
    if text == "method":
        return model.method.phrase_vectors(features)
    if text == "global":
        return normalised(features.require("text_global"))
    return pool_phrase(features.require("text_tokens"), features.require("text_mask"))


def class_ranks(vectors: Tensor, classes: Tensor, labels: Array) -> Array:
    """How many other classes score at least as high as the true one, (R,): ties count against it.

    Args:
        vectors: (R,D) of the boxes.
        classes: (C,D) of the categories.
        labels: (R,) the true category of each box.

    Raises:
        DataError: a score is NaN.

    >>> vectors = torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.5, 0.0]])
    >>> class_ranks(vectors, torch.eye(3), np.array([2, 1])).tolist()
    [2, 1]
    """
    return label_ranks(vectors.float() @ classes.float().mT, labels, of="categories")


def label_ranks(scores: Tensor, labels: Array, *, of: str = "classes") -> Array:
    """How many other classes score at least as high as the true one, (R,): ties count against it.

    Args:
        scores: (R,C).
        labels: (R,) the true class.
        of: what the classes are called in an error.

    Raises:
        DataError: a score is NaN.

    >>> label_ranks(torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.2, 0.1]]), np.array([2, 1])).tolist()
    [1, 1]
    """
    require_no_nan(scores.numpy(force=True), f"the scores of the {of}")
    own = scores.gather(1, torch.from_numpy(labels).to(scores.device)[:, None])
    return np.asarray(((scores >= own).sum(1) - 1).numpy(force=True))


def box_outcomes(
    found: Ranked, categories: Sequence[Category], protocol: BoxProtocol
) -> dict[str, Outcomes]:
    """Hits among the best 1 and 5 categories, of all boxes or of things and stuff apart.

    A picture's boxes are drawn as one by the bootstrap; a macro average's strata are categories.
    """
    names = np.array([category.name for category in categories])[found.labels]
    is_thing = np.array([category.is_thing for category in categories])[found.labels]
    groups = {"thing_": is_thing, "stuff_": ~is_thing}
    if not protocol.apart:
        groups = {"": np.full(len(is_thing), True)}
    return {
        f"{prefix}top{k}": replace(
            Outcomes.of_hits(found.ranks[mine] < k, found.pictures[mine]),
            strata=names[mine] if protocol.macro else None,
        )
        for prefix, mine in groups.items()
        for k in TOP
    }


def _crop_factor(category: Category) -> float:
    """Things are shown with their surroundings, stuff as it is (CLIPSelf's evaluation)."""
    return CROP_FACTOR if category.is_thing else 1.0


def _letterboxed(image: Image.Image, transform: ImageTransform) -> Image.Image:
    scale = transform.size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    square = Image.new("RGB", (transform.size, transform.size))
    square.paste(image.resize((width, height), transform.resample))
    return square


def _enlarged(box: Box, factor: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """
    >>> _enlarged((10, 10, 30, 20), 1.5, (32, 100))
    (5, 7, 32, 23)
    """
    x0, y0, x1, y1 = box
    more_x, more_y = (x1 - x0) * (factor - 1) / 2, (y1 - y0) * (factor - 1) / 2
    left, top = max(floor(x0 - more_x), 0), max(floor(y0 - more_y), 0)
    return left, top, min(ceil(x1 + more_x), size[0]), min(ceil(y1 + more_y), size[1])
