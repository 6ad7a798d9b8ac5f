"""A true caption against false ones of the same picture: the cases of every benchmark, scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intarsia.data.images import AnyImage, load_image
from intarsia.data.problems import EARLY, Problems
from intarsia.errors import DataError
from intarsia.evaluation.metrics import Array
from intarsia.evaluation.vectors import both_ways, distinct
from intarsia.model import Model
from intarsia.runtime import progress
from intarsia.types import Box

CASES_AT_ONCE = 128  # bounds the memory: pictures and embeddings of one block are kept
NUMBER = (int, float)
Kind = type | tuple[type, ...]


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


def require_fields(row: Any, kinds: Mapping[str, Kind], where: str) -> dict[str, Any]:
    """``row`` if it is a JSON object with these fields of these types.

    Raises:
        DataError: It is not: the file is of another format.
    """
    if not isinstance(row, dict):
        raise DataError(f"{where}: must be an object, is {type(row).__name__}")
    for name, kind in kinds.items():
        if name not in row:
            raise DataError(f"{where}: lacks the field {name!r}; it has {', '.join(row)}")
        if not isinstance(row[name], kind):
            names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
            raise DataError(f"{where}: field {name!r} must be {names}, is {row[name]!r}")
    return row


def screened_cases(candidates: Iterable[Case], problems: Problems) -> list[Case]:
    """The sound ones; those with an empty text or a box without area go to ``problems``.

    Raises:
        DataError: Too many are bad, judged from the hundredth on and at the end.
    """
    kept = []
    for case in candidates:
        problems.seen()
        problems.check(at_least=EARLY)
        if not all(text.strip() for text in case.texts):
            problems.add(case.source, "caption", "empty")
        elif case.box is not None and not (case.box[0] < case.box[2] and case.box[1] < case.box[3]):
            problems.add(case.source, "bbox", f"{case.box} holds no pixel")
        else:
            kept.append(case)
    problems.check()
    return kept


def score_cases(
    model: Model, cases: Sequence[Case], problems: Problems
) -> tuple[list[Case], Tensor]:
    """The cases whose picture can be shown, and the scores (C,T) of their texts.

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
    return good, torch.cat(scores)


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
    as_stored = "components" in model.method.needs  # whose crops are known by the file's content
    shown: list[AnyImage] = [
        path if as_stored and box is None else picture for (path, box), picture in pictures.items()
    ]
    row = {key: i for i, key in enumerate(pictures)}
    image, owner = model.encode_images(shown), torch.tensor([row[c.image, c.box] for c in cases])
    text, columns = distinct(model, *zip(*(case.texts for case in cases), strict=True))
    return torch.stack([both_ways(model, image, text, owner, column) for column in columns], 1)
