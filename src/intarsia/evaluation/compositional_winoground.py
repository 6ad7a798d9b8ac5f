"""Winoground (Thrush et al. 2022): two pictures, two captions of the same words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from intarsia.data.files import read_jsonl
from intarsia.data.problems import BadField, Problems
from intarsia.errors import DataError
from intarsia.evaluation.compositional_cases import (
    Case,
    Cases,
    Entry,
    require_fields,
    screened_cases,
)
from intarsia.evaluation.metrics import Outcomes

FILE = "examples.jsonl"
FIELDS = {"id": int} | {f"{name}_{side}": str for name in ("image", "caption") for side in (0, 1)}


def read_winoground(root: Path, images: Path, problems: Problems) -> Cases:
    """Two cases an example of ``examples.jsonl``: each picture with its caption and the other's.

    Image names without a suffix are PNG files, as in the published archive.

    Raises:
        DataError: The file is missing, too many examples are bad, or none is left.
    """
    path = root / FILE
    return screened_cases(_cases(path, images, problems), problems, path)


def winoground_outcomes(cases: Sequence[Case], scores: Tensor) -> dict[str, Outcomes]:
    """``text``: both pictures prefer their caption; ``image``: both captions prefer their picture;
    ``group``: both at once. Chance is 25, 25 and 16.7; a tie is wrong.

    Raises:
        DataError: No example has both pictures.
    """
    rows: dict[str, list[int]] = defaultdict(list)
    for index, case in enumerate(cases):
        rows[case.source].append(index)
    both = [pair for pair in rows.values() if len(pair) == 2]
    if not both:
        raise DataError(f"none of {len(rows)} examples has both of its pictures")
    own, other = (
        scores[torch.tensor(both)].float().numpy(force=True).transpose(2, 1, 0)
    )  # each (2, examples)
    text = (own > other).all(0)
    image = (own > other[::-1]).all(0)
    found = {"text": text, "image": image, "group": text & image}
    return {name: Outcomes.of_hits(np.asarray(hits)) for name, hits in found.items()}


def _cases(path: Path, images: Path, problems: Problems) -> Iterator[Case]:
    used: set[int] = set()
    for where, row in read_jsonl(path, problems):
        try:
            _require_example(row, used)
        except BadField as error:
            problems.add(where, error.field, error.reason, "rows")
            continue
        used.add(row["id"])
        for side in (0, 1):
            name = row[f"image_{side}"]
            picture = images / (name if Path(name).suffix else f"{name}.png")
            texts = row[f"caption_{side}"], row[f"caption_{1 - side}"]
            yield Case(where, picture, texts, "example")


def _require_example(row: Entry, used: Container[int]) -> None:
    if require_fields(row, FIELDS)["id"] in used:
        raise BadField("id", f"{row['id']} is used twice")
