"""Boxes as annotators drew them -> boxes inside their picture."""

from __future__ import annotations

import math
from typing import Any

from intarsia.data.problems import BadField, Problems
from intarsia.types import Box

LEAST_SIDE = 1.0  # pixels


def spanned(bbox: Any) -> Box:
    """``[x, y, width, height]`` as COCO has it -> corners.

    >>> spanned([1.5, 2, 10, 20])
    (1.5, 2, 11.5, 22)

    Raises:
        BadField: These are not four finite numbers, or the box holds no pixel.
    """
    if not isinstance(bbox, list | tuple) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        raise BadField("bbox", f"must be x, y, width and height, is {bbox!r}")
    x, y, width, height = bbox
    if width <= 0 or height <= 0:
        raise BadField("bbox", f"{bbox} holds no pixel")
    return x, y, x + width, y + height


def size_of(picture: Any) -> tuple[int, int] | None:
    """``width`` and ``height`` of an entry of a JSON file; None where they are no pixels.

    >>> size_of({"width": 640, "height": 427}), size_of({"width": 640}), size_of({})
    ((640, 427), None, None)
    """
    found = [picture.get(name) for name in ("width", "height")]
    if not all(_is_number(side) and side > 0 for side in found):
        return None
    return int(found[0]), int(found[1])


def inside(box: Box, size: tuple[int, int], field: str) -> Box:
    """The part of a box inside its picture of ``size`` (width, height).

    >>> inside((-3.0, 2.0, 40.0, 9.5), (32, 24), "bbox")
    (0.0, 2.0, 32.0, 9.5)

    Raises:
        BadField: Of ``field``, where less than a pixel is left.
    """
    width, height = size
    x0, y0, x1, y1 = box
    kept = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    if not (kept[2] - kept[0] >= LEAST_SIDE and kept[3] - kept[1] >= LEAST_SIDE):  # NaN is not
        raise BadField(field, f"{box} holds no pixel of the {width} x {height} picture")
    return kept


def cut(box: Box, size: tuple[int, int], source: str, field: str, problems: Problems) -> Box | None:
    """As :func:`inside`, but None, and told to ``problems``, where less than a pixel is left."""
    try:
        return inside(box, size, field)
    except BadField as error:
        problems.leave_out(source, error.field, error.reason, "boxes")
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
