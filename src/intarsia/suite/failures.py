"""Failures ready for the page: the picture, the two answers, two models' scores and alignments.

A case is plain data, so that it can be kept as JSON and shown without the models. Coordinates are
pixels of the case's small picture.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from intarsia.apps.align import align
from intarsia.evaluation.metrics import Array
from intarsia.model import Model
from intarsia.report import COLOURMAP
from intarsia.suite.questions import Inspection, Question, Scores
from intarsia.types import Box

PICTURE_SIDE = 320  # pixels of the longer side of an embedded picture
Data = dict[str, Any]


def failure_cases(
    questions: Sequence[Question], inspection: Inspection, models: Sequence[Model]
) -> list[Data]:
    """What the page shows of each question, with each model's scores and alignments."""
    if not questions:
        return []
    scores = [inspection.judge(model, questions) for model in models]
    return [
        _case(question, models, [of_model[i] for of_model in scores])
        for i, question in enumerate(questions)
    ]


def _case(question: Question, models: Sequence[Model], scores: Sequence[Scores]) -> Data:
    picture = question.picture()
    small = picture.convert("RGB")
    small.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    scale = small.width / picture.width
    return {
        "source": question.source,
        "kind": question.kind,
        "true": question.true,
        "false": question.false,
        "picture": _data_uri(small, "WEBP", quality=70),
        "width": small.width,
        "height": small.height,
        "boxes": [_scaled(box, scale) for box in question.boxes],
        "models": [
            {"true": true, "false": false, "views": _views(model, question, picture, scale)}
            for model, (true, false) in zip(models, scores, strict=True)
        ],
    }


def _views(model: Model, question: Question, picture: Image.Image, scale: float) -> list[Data]:
    """How a model aligns the picture with each of the two texts."""
    texts = [text for text in (question.true, question.false) if text]
    if "components" in model.method.needs:
        return [_matrix(model, question, text, scale) for text in texts]
    frame = _seen(model, picture.size)
    maps = model.patch_maps(picture, texts).numpy()
    return [
        {"text": text, "heat": _heat(heat), "frame": _scaled(frame, scale)}
        for text, heat in zip(texts, maps, strict=True)
    ]


def _matrix(model: Model, question: Question, text: str, scale: float) -> Data:
    """Which region matches which phrase, for a method that compares components."""
    image = question.image if question.crop is None else np.asarray(question.picture())
    found = align(model, image, text, question.regions)
    values = found.matrices.get("entity", {}).get(type(model.method).__name__, ())
    regions = found.picture.regions
    return {
        "text": text,
        "rows": [f"{i + 1} {region.label}".strip() for i, region in enumerate(regions)],
        "regions": [_scaled(region.box, scale) for region in regions],
        "columns": list(found.text.entities),
        "values": [[round(float(value), 3) for value in row] for row in values],
    }


def _seen(model: Model, size: tuple[int, int]) -> Box:
    """The part of a picture that the patches cover, in its pixels."""
    transform, (width, height) = model.backbone.transform, size
    x0, y0, x1, y1 = transform.boxes([(0, 0, width, height)], size)[0]
    x, y = width / (x1 - x0), height / (y1 - y0)
    return -x0 * x, -y0 * y, (transform.size - x0) * x, (transform.size - y0) * y


def _scaled(box: Box, scale: float) -> list[float]:
    """x, y, width and height."""
    x0, y0, x1, y1 = (round(value * scale, 1) for value in box)
    return [x0, y0, round(x1 - x0, 1), round(y1 - y0, 1)]


def _heat(cells: Array) -> str:
    """A map from its lowest to its highest cell, one pixel a cell: the browser smooths it."""
    unit = (cells - cells.min()) / (np.ptp(cells) or 1.0)
    return _data_uri(Image.fromarray(COLOURMAP(unit, bytes=True)).convert("RGB"), "PNG")


def _data_uri(image: Image.Image, kind: str, **options: int) -> str:
    target = BytesIO()
    image.save(target, format=kind, **options)
    return f"data:image/{kind.lower()};base64,{b64encode(target.getvalue()).decode()}"
