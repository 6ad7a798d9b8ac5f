"""A true caption against false ones of the same picture: the cases of every benchmark, scored."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from intarsia.data.images import AnyImage, load_image
from intarsia.data.problems import EARLY, HALF, BadField, Problems, is_unicode
from intarsia.errors import DataError
from intarsia.evaluation.metrics import Array
from intarsia.evaluation.vectors import both_ways, distinct
from intarsia.model import Model
from intarsia.runtime import progress
from intarsia.types import Box

CASES_AT_ONCE = 128  # bounds the memory: pictures and embeddings of one block are kept
MOST = 10**9  # of a number: what is greater, infinite or none at all is no place in a picture
CALLED = {str: "text", int: "a whole number", float: "a number", list: "a list"}
Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One question of a benchmark: which of ``texts`` describes the picture?

    ``source`` says where the case stands (file and row). The first of ``texts`` is true. ``kind``
    is the part of the benchmark it counts for, ``stratum`` what that part is macro-averaged over.
    With ``box`` only this part of the picture is shown.
    """

    source: str
    image: Path
    texts: tuple[str, ...]
    kind: str
    stratum: str = ""
    box: Box | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A case that the protocol does not ask: why, and what such are called in a result's counts."""

    name: str
    reason: str


class Cases(list[Case]):
    """The cases of a benchmark, and how many others its protocol leaves out (``left_out``)."""

    def __init__(self, cases: Iterable[Case] = (), left_out: Mapping[str, int] | None = None):
        super().__init__(cases)
        self.left_out = dict(left_out or {})


def require_fields(row: Any, kinds: Mapping[str, type]) -> Entry:
    """``row`` if it is a JSON object with these fields of these types; ``float`` is any number.

    Raises:
        BadField: It is not.
    """
    if not isinstance(row, dict):
        raise BadField("entry", f"must be an object, is {type(row).__name__}")
    for name, kind in kinds.items():
        if name not in row:
            raise BadField(name, f"is missing; the entry has {', '.join(row) or 'no fields'}")
        if not _is(kind, row[name]):
            raise BadField(name, f"must be {CALLED[kind]}, is {row[name]!r}")
    return row


def box_of(sides: Sequence[Any]) -> Box:
    """``x``, ``y``, width and height of a JSON file -> the corners.

    Raises:
        BadField: They are not four numbers.
    """
    if len(sides) != 4 or not all(_is(float, side) for side in sides):
        raise BadField("bbox", f"must be x, y, width and height, is {sides}")
    x, y, width, height = sides
    return x, y, x + width, y + height


def _is(kind: type, value: Any) -> bool:
    """Whether a JSON value is of a kind of :data:`CALLED`: true and false are no numbers.

    >>> [_is(float, value) for value in (3, 0.5, math.nan, math.inf, True, "3")]
    [True, True, False, False, False, False]
    """
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST
    return isinstance(value, kind) and not isinstance(value, bool)


def screened_cases(
    candidates: Iterable[Case | LeftOut], problems: Problems, where: Path | None = None
) -> Cases:
    """The sound ones; those with an unusable text or a box without area go to ``problems``.

    Raises:
        DataError: Too many are bad, judged from the hundredth on and at the end, or none is left
            of what ``where`` (a file or folder) holds.
    """
    kept: list[Case] = []
    left_out: Counter[LeftOut] = Counter()
    for case in candidates:
        if isinstance(case, LeftOut):
            left_out[case] += 1
            continue
        problems.seen()
        problems.check(at_least=EARLY)
        if found := _fault(case):
            problems.add(case.source, *found)
        else:
            kept.append(case)
    for item, number in left_out.items():
        problems.skip(item.reason, number)
    problems.check()
    if not kept:
        raise DataError(f"{where or 'the benchmark'}: no case is left to ask: {problems.summary()}")
    counts: Counter[str] = Counter()
    for item, number in left_out.items():
        counts[item.name] += number
    return Cases(kept, counts)


def _fault(case: Case) -> tuple[str, str] | None:
    """The field of a case that cannot be used, and what is wrong with it."""
    if not all(text.strip() for text in case.texts):
        return "caption", "empty"
    if not all(map(is_unicode, (*case.texts, str(case.image)))):
        return "text", HALF
    if case.box is not None and not (case.box[0] < case.box[2] and case.box[1] < case.box[3]):
        return "bbox", f"{case.box} holds no pixel"
    return None


def score_cases(
    model: Model, cases: Sequence[Case], problems: Problems
) -> tuple[list[Case], Tensor]:
    """The cases whose picture can be shown, and the scores (C,T) of their texts as of
    :func:`by_case`.

    A score is the mean of image-to-text and text-to-image similarity. A picture that is missing,
    broken or has nothing inside the box goes to ``problems``, once a case.

    Raises:
        DataError: Too many cases are bad, or none is left.
    """
    problems.expect(len(cases))
    good: list[Case] = []
    scores: list[Tensor] = []
    starts = range(0, len(cases), CASES_AT_ONCE)
    for start in progress(starts, f"cases, by {CASES_AT_ONCE}"):
        pictures: dict[tuple[Path, Box | None], Image.Image] = {}
        block = [
            case
            for case in cases[start : start + CASES_AT_ONCE]
            if _shown(case, pictures, problems)
        ]
        problems.check()
        if block:
            good += block
            scores.append(_score_block(model, block, pictures))
    if not good:
        raise DataError(f"none of {len(cases)} cases has a picture that can be shown")
    return good, by_case(torch.cat(scores), good)


def by_case(scores: Tensor, cases: Sequence[Case]) -> Tensor:
    """(P,) scores of all texts, case after case -> (C,T); T is the most that a case has, and what
    others have fewer is ``-inf``, which nothing is behind.

    >>> cases = [Case("", Path(), ("true", "false"), ""), Case("", Path(), ("true",), "")]
    >>> by_case(torch.tensor([0.3, 0.2, 0.1]), cases)
    tensor([[0.3000, 0.2000],
            [0.1000,   -inf]])
    """
    rows = scores.split([len(case.texts) for case in cases])
    return pad_sequence(rows, batch_first=True, padding_value=-math.inf)


def true_wins(scores: Tensor) -> Array:
    """(C,T) scores, the true text's first -> (C,) bool; a tie is wrong.

    >>> true_wins(torch.tensor([[0.3, 0.2, 0.1], [0.3, 0.1, 0.3], [0.1, 0.2, 0.0]]))
    array([ True, False, False])
    """
    return np.asarray((scores[:, :1] > scores[:, 1:]).all(1).numpy(force=True))


def picture_ids(cases: Sequence[Case]) -> Array:
    """(C,) equal numbers for cases of the same picture, which are resampled together."""
    ids: dict[Path, int] = {}
    return np.array([ids.setdefault(case.image, len(ids)) for case in cases])


def _shown(
    case: Case, pictures: dict[tuple[Path, Box | None], Image.Image], problems: Problems
) -> bool:
    """Whether ``pictures`` holds what the case shows, after trying to load it."""
    if (case.image, case.box) in pictures:
        return True
    try:
        picture = load_image(case.image)
    except DataError as error:
        problems.add(case.source, "image", str(error))
        return False
    if case.box is not None:
        inside = _inside(case.box, picture.size)
        if inside is None:
            width, height = picture.size
            problems.add(case.source, "bbox", f"{case.box} is outside of {width} x {height} pixels")
            return False
        picture = picture.crop(inside)
    pictures[case.image, case.box] = picture
    return True


def _inside(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The part of a box inside a picture, in whole pixels; None where there is none.

    >>> _inside((-3.0, 2.4, 50.0, 9.6), (40, 30)), _inside((41.0, 0.0, 50.0, 9.0), (40, 30))
    ((0, 2, 40, 10), None)
    """
    x0, y0, x1, y1 = (round(value) for value in box)
    cut = max(x0, 0), max(y0, 0), min(x1, size[0]), min(y1, size[1])
    return cut if cut[0] < cut[2] and cut[1] < cut[3] else None


def _score_block(
    model: Model,
    cases: Sequence[Case],
    pictures: Mapping[tuple[Path, Box | None], Image.Image],
) -> Tensor:
    """(P,) the scores of all texts, case after case."""
    as_stored = "components" in model.method.needs  # whose crops are known by the file's content
    shown: list[AnyImage] = [
        path if as_stored and box is None else picture for (path, box), picture in pictures.items()
    ]
    row = {key: i for i, key in enumerate(pictures)}
    image = model.encode_images(shown)
    pairs = [(row[case.image, case.box], text) for case in cases for text in case.texts]
    owner, texts = zip(*pairs, strict=True)
    text, (column,) = distinct(model, texts)
    return both_ways(model, image, text, torch.tensor(owner), column)
