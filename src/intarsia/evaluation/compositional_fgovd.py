"""FG-OVD (Bianchi et al. 2024): a box, its description and ten descriptions that are a bit off.

Made for detectors; here the crop of the box is compared with the eleven texts, as is usual for
models that score pictures (our reading: no margin around the box).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from intarsia.data.files import entries, read_json
from intarsia.data.problems import Problems
from intarsia.errors import DataError
from intarsia.evaluation.compositional_cases import (
    Case,
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
NUM_NEGATIVES = 10
FIELDS = {
    "id": int,
    "image_id": int,
    "bbox": list,
    "category_id": int,
    "neg_category_ids": list,
}


def read_fgovd(root: Path, images: Path, problems: Problems) -> list[Case]:
    """The boxes of those of the eight files that ``root`` has, with their first ten negatives.

    Boxes with fewer negatives are skipped and counted (the published protocol). ``images`` is the
    folder that holds ``val2017``, or that folder itself.

    Raises:
        DataError: No file is there, one is of another format, or too many boxes are bad.
    """
    found = {kind: root / name for kind, name in FILES.items() if (root / name).is_file()}
    if not found:
        raise DataError(f"{root}: no file of FG-OVD: looked for {', '.join(FILES.values())}")
    return screened_cases(
        (case for kind, path in found.items() for case in _cases(path, images, kind, problems)),
        problems,
    )


def fgovd_outcomes(cases: Sequence[Case], scores: Tensor) -> dict[str, Outcomes]:
    """Of each file: how often the true text is first (chance 9.1), and its mean rank from 1 to 11.

    A negative with the same score stands before the true text.
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


def _cases(path: Path, images: Path, kind: str, problems: Problems) -> Iterator[Case]:
    data = read_json(path)
    names = _table(data, "images", "file_name", path, problems)
    texts = _table(data, "categories", "name", path, problems)
    used: set[int] = set()
    for index, row in enumerate(entries(data, "annotations", path)):
        row = require_fields(row, FIELDS, f"{path}: annotation {index}")
        where = f"{path}: annotation {row['id']}"
        wanted = [row["category_id"], *row["neg_category_ids"][:NUM_NEGATIVES]]
        strange = [key for key in wanted if key not in texts]
        if row["id"] in used:
            problems.add(where, "id", "is used twice")
        elif row["image_id"] not in names:
            problems.add(where, "image_id", f"unknown image {row['image_id']}")
        elif strange:
            problems.add(where, "neg_category_ids", f"unknown category {strange[0]}")
        elif len(row["bbox"]) != 4:
            problems.add(where, "bbox", f"must be x, y, width and height, is {row['bbox']}")
        elif len(wanted) <= NUM_NEGATIVES:
            problems.skip(f"a box with fewer than {NUM_NEGATIVES} negatives ({kind})")
        else:
            x, y, width, height = row["bbox"]
            picture = _picture(images, names[row["image_id"]])
            captions = tuple(texts[key] for key in wanted)
            yield Case(where, picture, captions, kind, box=(x, y, x + width, y + height))
        used.add(row["id"])


def _table(data: Any, group: str, field: str, path: Path, problems: Problems) -> dict[int, str]:
    """Id -> ``field`` of the entries of one list."""
    found: dict[int, str] = {}
    for index, row in enumerate(entries(data, group, path)):
        row = require_fields(row, {"id": int, field: str}, f"{path}: {group}[{index}]")
        if row["id"] in found:
            problems.add(f"{path}: {group}[{index}]", "id", f"{row['id']} is used twice")
        found.setdefault(row["id"], row[field])
    return found


def _picture(images: Path, name: str) -> Path:
    inside = images / name
    return inside if inside.is_file() else images / Path(name).name
