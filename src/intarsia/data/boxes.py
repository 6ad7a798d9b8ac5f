"""Boxes as annotators drew them -> boxes inside their picture."""

from __future__ import annotations

from intarsia.data.problems import Problems
from intarsia.types import Box

LEAST_SIDE = 1.0  # pixels


def cut(box: Box, size: tuple[int, int], source: str, field: str, problems: Problems) -> Box | None:
    """The part of a box inside its picture of ``size`` (width, height).

    None, and told to ``problems`` as ``field`` of ``source``, where less than a pixel is left.

    >>> cut((-3.0, 2.0, 40.0, 9.5), (32, 24), "a.xml", "bndbox", Problems())
    (0.0, 2.0, 32.0, 9.5)
    """
    width, height = size
    x0, y0, x1, y1 = box
    inside = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    if inside[2] - inside[0] >= LEAST_SIDE and inside[3] - inside[1] >= LEAST_SIDE:
        return inside
    problems.add(source, field, f"{box} holds no pixel of the {width} x {height} picture")
    return None
