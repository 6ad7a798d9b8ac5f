"""FG-OVD (Bianchi et al. 2024): a box, its description and some descriptions that are a bit off.

Made for detectors; here the crop of the box is compared with all of its texts, as is usual for
models that score pictures (our reading: no margin around the box). There are ten negatives, but of
patterns seven and of transparency two, as the authors take them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from intarsia.data.files import entries, read_json
from intarsia.data.problems import BadField, Problems
from intarsia.errors import DataError
from intarsia.evaluation.compositional_cases import (
    Case,
    Cases,
    Entry,
    LeftOut,
    box_of,
    picture_ids,
    require_fields,
    screened_cases,
    true_wins,
)
from intarsia.evaluation.metrics import Outcomes

FILES = {
    "hard": "1_attributes.json",
    "medium": "2_attributes.json",
    "easy": "3_attributes.json",
    "trivial": "shuffle_negatives.json",
    "color": "color.json",
    "material": "material.json",
    "pattern": "pattern.json",
    "transparency": "transparency.json",
}
NUM_NEGATIVES = dict.fromkeys(FILES, 10) | {"pattern": 7, "transparency": 2}
"""Of each file; guessing finds the true one of one text more."""
FIELDS = {
    "id": int,
    "image_id": int,
    "bbox": list,
    "category_id": int,
    "neg_category_ids": list,
}


@dataclass(frozen=True, slots=True)
class _File:
    """One of the eight: the names of its pictures and its texts by their ids."""

    kind: str
    names: Mapping[int, str]
    texts: Mapping[int, str]


def read_fgovd(root: Path, images: Path, problems: Problems) -> Cases:
    """The boxes of those of the eight files that ``root`` has, each with the first
    ``NUM_NEGATIVES`` of its file's negatives.

    Boxes with fewer negatives are skipped and counted (the published protocol). ``images`` is the
    folder that holds ``val2017``, or that folder itself.

    Raises:
        DataError: No file is there, one is of another format, too many boxes are bad, or none is
            left.
    """
    found = {kind: root / name for kind, name in FILES.items() if (root / name).is_file()}
    if not found:
        raise DataError(f"{root}: no file of FG-OVD: looked for {', '.join(FILES.values())}")
    cases = (case for kind, path in found.items() for case in _cases(path, images, kind, problems))
    return screened_cases(cases, problems, root)


def fgovd_outcomes(cases: Sequence[Case], scores: Tensor) -> dict[str, Outcomes]:
    """Of each file: how often the true text is first, and its mean rank from 1.

    A negative with the same score stands before the true text. Of n negatives (``NUM_NEGATIVES``)
    chance is 1 in n + 1, and a rank of 1 + n / 2.
    """
    wins, pictures = true_wins(scores), picture_ids(cases)
    rank = (scores >= scores[:, :1]).sum(1).numpy(force=True)
    kinds = np.array([case.kind for case in cases])
    outcomes = {}
    for kind in dict.fromkeys(kinds.tolist()):
        mine = kinds == kind
        outcomes[kind] = Outcomes.of_hits(wins[mine], pictures[mine])
        outcomes[f"{kind}_rank"] = Outcomes(rank[mine], pictures[mine])
    return outcomes


def _cases(path: Path, images: Path, kind: str, problems: Problems) -> Iterator[Case | LeftOut]:
    data = read_json(path)
    names = _table(data, "images", "file_name", path, problems)
    file = _File(kind, names, _table(data, "categories", "name", path, problems))
    used: set[int] = set()
    for index, row in enumerate(entries(data, "annotations", path)):
        key = row.get("id") if isinstance(row, dict) else None
        where = f"{path}: annotation {key}" if isinstance(key, int) else _place(path, index)
        with problems.entry(where, "records"):
            row = require_fields(row, FIELDS)
            if key in used:
                raise BadField("id", "is used twice")
            used.add(row["id"])
            yield _case(where, row, images, file)


def _case(where: str, row: Entry, images: Path, file: _File) -> Case | LeftOut:
    """
    Raises:
        BadField: An id is unknown, or the box is none.
    """
    number = NUM_NEGATIVES[file.kind]
    wanted = [row["category_id"], *row["neg_category_ids"][:number]]
    if row["image_id"] not in file.names:
        raise BadField("image_id", f"unknown image {row['image_id']}")
    for key in wanted:
        if not isinstance(key, int) or key not in file.texts:
            raise BadField("neg_category_ids", f"unknown category {key!r}")
    box = box_of(row["bbox"])
    if len(wanted) <= number:
        reason = f"a box with fewer than {number} negatives ({file.kind})"
        return LeftOut(f"{file.kind}_boxes_left_out", reason)
    picture = _picture(images, file.names[row["image_id"]])
    return Case(where, picture, tuple(file.texts[key] for key in wanted), file.kind, box=box)


def _table(data: Any, group: str, field: str, path: Path, problems: Problems) -> dict[int, str]:
    """Id -> ``field`` of the entries of one list."""
    found: dict[int, str] = {}
    for index, row in enumerate(entries(data, group, path)):
        with problems.entry(_place(path, index, group), "rows"):
            key = require_fields(row, {"id": int, field: str})["id"]
            if key in found:
                raise BadField("id", f"{key} is used twice")
            found[key] = row[field]
    problems.seen(len(found), "rows")
    return found


def _place(path: Path, index: int, group: str = "annotations") -> str:
    return f"{path}: {group}[{index}]"


def _picture(images: Path, name: str) -> Path:
    inside = images / name
    return inside if inside.is_file() else images / Path(name).name
