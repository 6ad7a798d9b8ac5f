"""Failures ready for the page: pictures, the two answers, two models' scores and alignments.

A case is plain data, so that it can be kept as JSON and shown without the models. Coordinates are
pixels of the case's small pictures.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from intarsia.apps.align import align
from intarsia.evaluation.metrics import Array
from intarsia.model import Model
from intarsia.report import COLOURMAP
from intarsia.suite.questions import Inspection, Question, Shot, Verdict
from intarsia.types import Box

FORMAT = 2  # of a case: kept ones of another are made again
PICTURE_SIDE = 320  # pixels of the longer side of an embedded picture
Data = dict[str, Any]


@dataclass(frozen=True)
class _Drawn:
    """A shot, what it shows, and the small copy that is ``scale`` times as wide."""

    shot: Shot
    picture: Image.Image
    small: Image.Image

    @classmethod
    def of(cls, shot: Shot) -> _Drawn:
        picture = shot.picture()
        small = picture.convert("RGB")
        small.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
        return cls(shot, picture, small)

    @property
    def scale(self) -> float:
        return self.small.width / self.picture.width

    def data(self) -> Data:
        return {
            "source": self.shot.source,
            "picture": _data_uri(self.small, "WEBP", quality=70),
            "width": self.small.width,
            "height": self.small.height,
            "boxes": [_scaled(box, self.scale) for box in self.shot.boxes],
        }


def failure_cases(
    questions: Sequence[Question], inspection: Inspection, models: Sequence[Model], items: Any
) -> list[Data]:
    """What the page shows of each question, with each model's scores and alignments.

    Args:
        questions: found by ``inspection`` among ``items``.
        inspection: of the protocol.
        models: to judge them.
        items: the protocol's records or cases.
    """
    if not questions:
        return []
    verdicts = [inspection.judge(model, items, questions) for model in models]
    return [
        _case(question, models, [of_model[i] for of_model in verdicts])
        for i, question in enumerate(questions)
    ]


def _case(question: Question, models: Sequence[Model], verdicts: Sequence[Verdict]) -> Data:
    drawn = [_Drawn.of(shot) for shot in question.shots]
    texts = [text for text in (question.true, question.false) if text]
    return {
        "kind": question.kind,
        "true": question.true,
        "false": question.false,
        "shots": [one.data() for one in drawn],
        "models": [
            asdict(verdict)
            | {"is_right": verdict.is_right}
            | {"views": [v for i, one in enumerate(drawn) for v in _views(model, one, i, texts)]}
            for model, verdict in zip(models, verdicts, strict=True)
        ],
    }


def _views(model: Model, drawn: _Drawn, number: int, texts: Sequence[str]) -> list[Data]:
    """How a model aligns the picture, which has this number, with each of the texts."""
    if "components" in model.method.needs:
        return [{"shot": number} | _matrix(model, drawn, text) for text in texts]
    frame = _scaled(_seen(model, drawn.picture.size), drawn.scale)
    maps = model.patch_maps(drawn.picture, texts).numpy(force=True)
    return [
        {"shot": number, "text": text, "heat": _heat(heat), "frame": frame}
        for text, heat in zip(texts, maps, strict=True)
    ]


def _matrix(model: Model, drawn: _Drawn, text: str) -> Data:
    """Which region matches which phrase, for a method that compares components."""
    shot = drawn.shot
    image = shot.image if shot.crop is None else np.asarray(drawn.picture)
    found = align(model, image, text, shot.regions)
    values = found.matrices.get("entity", {}).get(type(model.method).__name__, ())
    regions = found.picture.regions
    return {
        "text": text,
        "rows": [f"{i + 1} {region.label}".strip() for i, region in enumerate(regions)],
        "regions": [_scaled(region.box, drawn.scale) for region in regions],
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
