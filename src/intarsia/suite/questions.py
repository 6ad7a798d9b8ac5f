"""Single failures of a protocol: which questions a model got wrong, and how any model judges them.

A protocol says how often a model fails; here are the failures themselves. Each is a question with a
true answer and the false one that the model preferred.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from intarsia.data.images import AnyImage, load_image
from intarsia.data.problems import Problems
from intarsia.errors import DataError
from intarsia.model import Model
from intarsia.types import Box, ImageSource, Record, Region


@dataclass(frozen=True)
class Shot:
    """A picture as it is shown, with the boxes of an answer; ``regions`` are those of the record.

    With ``crop`` only this part of it is shown.
    """

    source: str
    image: ImageSource
    crop: Box | None = None
    boxes: tuple[Box, ...] = ()
    regions: tuple[Region, ...] = ()

    @classmethod
    def of(cls, record: Record, boxes: Sequence[Box] = ()) -> Shot:
        return cls(record.id, record.image, None, tuple(boxes), record.regions)

    def picture(self) -> Image.Image:
        image = load_image(self.image)
        if self.crop is None:
            return image
        x0, y0, x1, y1 = (round(value) for value in self.crop)
        return image.crop((max(x0, 0), max(y0, 0), min(x1, image.width), min(y1, image.height)))

    def shown(self, model: Model) -> AnyImage:
        """The same, as the model takes it: a method that cuts its own crops wants the file."""
        as_stored = "components" in model.method.needs and self.crop is None
        return self.image if as_stored else self.picture()


@dataclass(frozen=True)
class Question:
    """A picture, the true text, and the false one that was preferred.

    ``false`` is empty where the answers are places: the boxes of the picture, or outside of them;
    or those of the ``rival``, a picture that was preferred.
    """

    shot: Shot
    true: str
    false: str = ""
    kind: str = ""
    rival: Shot | None = None

    @property
    def shots(self) -> list[Shot]:
        return [self.shot] if self.rival is None else [self.shot, self.rival]


@dataclass(frozen=True)
class Verdict:
    """A model's scores of the true and of the false answer.

    Where it has compared all answers there are: the ``rank`` of the true one, from 1, and of names
    the ``answer`` that it ranks first, with its score.
    """

    true: float
    false: float
    rank: int | None = None
    answer: str = ""
    answer_score: float = 0.0

    @property
    def is_right(self) -> bool:
        return self.true > self.false if self.rank is None else self.rank == 1


Mistake = tuple[float, Question]  # the lead of the false answer, at least 0


@dataclass(frozen=True)
class Inspection:
    """``find`` all mistakes of a model among a protocol's records or cases; ``judge`` questions
    about these with any model."""

    find: Callable[[Model, Any], Iterator[Mistake]]
    judge: Callable[[Model, Any, Sequence[Question]], list[Verdict]]


def worst(inspection: Inspection, model: Model, items: Any, num: int) -> list[Question]:
    """The ``num`` mistakes with the greatest lead of the false answer, worst first."""
    mistakes = sorted(inspection.find(model, items), key=lambda mistake: -mistake[0])
    return [question for _, question in mistakes[:num]]


def forgiving() -> Problems:
    """Takes note of bad records without judging: the protocol has counted them already."""
    return Problems(max_fraction=1.0)


def still_readable(records: Sequence[Record]) -> Iterator[tuple[Record, Image.Image]]:
    for record in records:
        try:
            yield record, load_image(record.image)
        except DataError:
            continue
