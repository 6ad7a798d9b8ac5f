"""Whether a picture is the one that its boxes were drawn in; its size tells.

A copy that somebody has made smaller would be scored with boxes that lie elsewhere, and so would a
file that EXIF data turn while its boxes are those of the pixels as stored (COCO's annotators saw
them so). The first kind is scaled, the second turned, and both are counted; what is neither loses
its regions and is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from intarsia.data.images import QUARTER_TURNS, stored_size
from intarsia.data.problems import EARLY, Problems
from intarsia.errors import DataError
from intarsia.runtime import in_threads
from intarsia.types import Box, Record

Size = tuple[int, int]
Frame = Literal["shown", "stored"]

MIRRORED_X = (2, 3, 7, 8)
MIRRORED_Y = (3, 4, 6, 7)
"""Orientations whose pixels are mirrored along an axis of the file as stored."""
ROUNDING = 1.0  # pixels that the side of a scaled copy may differ by
SCALED = "picture of another size than annotated, to which its boxes were scaled"
TURNED = "picture turned by its EXIF data, with which its boxes were turned"
UNKNOWN = "picture with boxes whose annotated size is not known"


@dataclass(frozen=True, slots=True)
class _Picture:
    """A file: the size of its pixels as stored, and how EXIF data turn them."""

    stored: Size
    orientation: int

    @property
    def shown(self) -> Size:
        width, height = self.stored
        return (height, width) if self.orientation in QUARTER_TURNS else (width, height)

    def frame(self, annotated: Size) -> Frame | None:
        """In which of the two the boxes were drawn; None if it is neither, or may be either."""
        if self.orientation == 1:
            return "shown" if is_scaled(annotated, self.shown) else None
        sizes: dict[Frame, Size] = {"shown": self.shown, "stored": self.stored}
        exact = [frame for frame, size in sizes.items() if size == annotated]
        close = [frame for frame, size in sizes.items() if is_scaled(annotated, size)]
        found = exact or close
        return found[0] if len(found) == 1 else None

    def __str__(self) -> str:
        turned = f", turned by EXIF orientation {self.orientation}" if self.orientation != 1 else ""
        return f"{self.stored[0]} x {self.stored[1]} pixels{turned}"


def fitted(records: Iterable[Record], problems: Problems) -> Iterator[Record]:
    """Records whose boxes are in the pixels of their pictures as these are shown.

    ``size`` of a record with regions is what its annotation says; it becomes the picture's. What
    cannot be decoded stays as it is: who looks at it tells.

    Raises:
        DataError: too many pictures are of other sizes, judged from the hundredth on and at the
            end.
    """
    for record, picture in in_threads(_measured, records):
        problems.check(at_least=EARLY)
        yield replace(record, size=None) if picture is None else _fit(record, picture, problems)
    problems.check()


def _measured(record: Record) -> tuple[Record, _Picture | None]:
    if not record.regions:
        return record, None
    try:
        return record, _Picture(*stored_size(record.image))
    except DataError:
        return record, None


def _fit(record: Record, picture: _Picture, problems: Problems) -> Record:
    annotated = record.size
    found = replace(record, size=picture.shown)
    if annotated is None:
        problems.skip(UNKNOWN)
        return found
    if annotated == picture.shown and picture.orientation == 1:
        return found
    frame = picture.frame(annotated)
    if frame is None:
        width, height = annotated
        reason = f"{picture}, but its boxes were drawn in {width} x {height}"
        why = "no telling which way" if is_scaled(annotated, picture.shown) else "not a scaled copy"
        problems.add(record.image, "size", f"{reason}: {why}")
        phrases = tuple(replace(phrase, regions=()) for phrase in record.phrases)
        return replace(found, regions=(), phrases=phrases)
    seen = picture.shown if frame == "shown" else picture.stored
    boxes = [scaled(region.box, annotated, seen) for region in record.regions]
    if annotated != seen:
        problems.skip(SCALED)
    if frame == "stored":
        problems.skip(TURNED)
        boxes = [turned(box, picture.stored, picture.orientation) for box in boxes]
    pairs = zip(record.regions, boxes, strict=True)
    return replace(found, regions=tuple(replace(region, box=box) for region, box in pairs))


def is_scaled(old: Size, new: Size) -> bool:
    """Whether pictures of the two sizes may be copies: of one shape up to rounding.

    >>> is_scaled((640, 427), (320, 214)), is_scaled((640, 427), (224, 224))
    (True, False)
    """
    by_width, by_height = old[1] * new[0] / old[0], old[0] * new[1] / old[1]
    return min(abs(new[1] - by_width), abs(new[0] - by_height)) <= ROUNDING


def scaled(box: Box, old: Size, new: Size) -> Box:
    """
    >>> scaled((10, 20, 30, 40), (100, 80), (50, 40))
    (5.0, 10.0, 15.0, 20.0)
    """
    if old == new:
        return box
    x, y = new[0] / old[0], new[1] / old[1]
    return box[0] * x, box[1] * y, box[2] * x, box[3] * y


def turned(box: Box, stored: Size, orientation: int) -> Box:
    """A box of the pixels as stored -> the same in the picture as shown.

    >>> turned((0, 0, 10, 20), (100, 80), 6)  # a quarter to the right: the corner is on the right
    (60, 0, 80, 10)
    """
    (width, height), (x0, y0, x1, y1) = stored, box
    if orientation in MIRRORED_X:
        x0, x1 = width - x1, width - x0
    if orientation in MIRRORED_Y:
        y0, y1 = height - y1, height - y0
    return (y0, x0, y1, x1) if orientation in QUARTER_TURNS else (x0, y0, x1, y1)
