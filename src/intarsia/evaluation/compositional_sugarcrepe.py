"""SugarCrepe (Hsieh et al. 2023): hard negatives that are fluent, on COCO val2017."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from intarsia.data.files import read_text
from intarsia.data.problems import BadField, Problems
from intarsia.errors import DataError
from intarsia.evaluation.compositional_cases import (
    Case,
    Cases,
    picture_ids,
    require_fields,
    screened_cases,
)
from intarsia.evaluation.metrics import Outcomes
from intarsia.evaluation.negatives import hard_negative_outcomes

KINDS = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
FIELDS = {"filename": str, "caption": str, "negative_caption": str}


def read_sugarcrepe(root: Path, images: Path, problems: Problems) -> Cases:
    """The cases of the seven files ``add_att.json`` ... ``swap_obj.json`` in ``root``.

    Raises:
        DataError: A file is missing or no object, too many cases are bad, or none is left.
    """
    missing = [f"{kind}.json" for kind in KINDS if not (root / f"{kind}.json").is_file()]
    if missing:
        raise DataError(f"{root}: SugarCrepe is seven files, of which {', '.join(missing)} lack")
    found = (case for kind in KINDS for case in _cases(root, images, kind, problems))
    return screened_cases(found, problems, root)


def sugarcrepe_outcomes(cases: Sequence[Case], scores: Tensor) -> dict[str, Outcomes]:
    """Accuracy of each file, ``macro`` over the files and ``micro``. Chance is 50."""
    kinds = [case.kind for case in cases]
    return hard_negative_outcomes(scores[:, 0], scores[:, 1], kinds, picture_ids(cases))


def _cases(root: Path, images: Path, kind: str, problems: Problems) -> Iterator[Case]:
    used: set[str] = set()
    for where, key, entry in _entries(root / f"{kind}.json"):
        with problems.entry(where, "records"):
            if key in used:
                raise BadField("id", "is used twice")
            used.add(key)
            row = require_fields(_once_each(entry), FIELDS)
            texts = row["caption"], row["negative_caption"]
            yield Case(where, images / row["filename"], texts, kind)


class _Object(list[tuple[str, Any]]):
    """A JSON object as it is written: a ``dict`` keeps the last of equal keys without a word."""


def _entries(path: Path) -> Iterator[tuple[str, str, Any]]:
    """Where each case stands, its id and what it says."""
    try:
        data = json.loads(read_text(path), object_pairs_hook=_Object)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    if not isinstance(data, _Object):
        raise DataError(f"{path}: must be an object of cases, is {type(data).__name__}")
    for key, entry in data:
        yield f"{path}: case {key}", key, entry


def _once_each(entry: Any) -> Any:
    """An object as a ``dict``; anything else as it is."""
    if not isinstance(entry, _Object):
        return entry
    found: dict[str, Any] = {}
    for key, value in entry:
        if key in found:
            raise BadField(key, "stands twice")
        found[key] = value
    return found
