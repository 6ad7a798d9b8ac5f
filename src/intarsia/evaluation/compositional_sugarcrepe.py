"""SugarCrepe (Hsieh et al. 2023): hard negatives that are fluent, on COCO val2017."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from intarsia.data.files import read_text
from intarsia.data.problems import Problems
from intarsia.errors import DataError
from intarsia.evaluation.compositional_cases import (
    Case,
    picture_ids,
    require_fields,
    screened_cases,
)
from intarsia.evaluation.metrics import Outcomes
from intarsia.evaluation.negatives import hard_negative_outcomes

KINDS = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
FIELDS = {"filename": str, "caption": str, "negative_caption": str}


def read_sugarcrepe(root: Path, images: Path, problems: Problems) -> list[Case]:
    """The cases of the seven files ``add_att.json`` ... ``swap_obj.json`` in ``root``.

    Raises:
        DataError: A file is missing or of another format, an id is used twice, or too many cases
            are bad.
    """
    missing = [f"{kind}.json" for kind in KINDS if not (root / f"{kind}.json").is_file()]
    if missing:
        raise DataError(f"{root}: SugarCrepe is seven files, of which {', '.join(missing)} lack")
    return screened_cases((case for kind in KINDS for case in _cases(root, images, kind)), problems)


def sugarcrepe_outcomes(cases: Sequence[Case], scores: Tensor) -> dict[str, Outcomes]:
    """Accuracy of each file, ``macro`` over the files and ``micro``. Chance is 50."""
    kinds = [case.kind for case in cases]
    return hard_negative_outcomes(scores[:, 0], scores[:, 1], kinds, picture_ids(cases))


def _cases(root: Path, images: Path, kind: str) -> Iterator[Case]:
    path = root / f"{kind}.json"
    try:
        data = json.loads(read_text(path), object_pairs_hook=lambda pairs: _unique(pairs, path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    if not isinstance(data, dict):
        raise DataError(f"{path}: must be an object of cases, is {type(data).__name__}")
    for key, row in data.items():
        where = f"{path}: case {key}"
        row = require_fields(row, FIELDS, where)
        texts = row["caption"], row["negative_caption"]
        yield Case(where, images / row["filename"], texts, kind)


def _unique(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    """A JSON object, which would otherwise keep the last of equal keys without a word."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise DataError(f"{path}: case {key}: the id is used twice")
        found[key] = value
    return found
