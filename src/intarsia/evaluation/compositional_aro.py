"""ARO (Yuksekgonul et al. 2023): VG-Relation and VG-Attribution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from torch import Tensor

from intarsia.data.files import read_json
from intarsia.data.problems import Problems
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

RELATION, ATTRIBUTION = "visual_genome_relation.json", "visual_genome_attribution.json"
FIELDS = {
    "image_path": str,
    **{f"bbox_{name}": float for name in "xywh"},
    "true_caption": str,
    "false_caption": str,
}
MIN_CASES = 25  # of an attribute pair

# What the published protocol leaves out of VG-Relation: symmetric relations ("near") and rare ones.
LEFT_OUT = frozenset(
    name.strip()
    for name in """
    adjusting, around, attached to, beside, between, bigger than, biting, boarding, brushing, by,
    chewing, cleaning, climbing, close to, coming from, coming out of, contain, crossing, dragging,
    draped over, drinking, drinking from, driving, driving down, driving on, eating from, eating in,
    enclosing, exiting, facing, filled with, floating in, floating on, flying, flying above,
    flying in, flying over, flying through, full of, going down, going into, going through,
    grazing in, growing in, growing on, guiding, hanging from, hanging in, hanging off,
    hanging over, higher than, holding onto, hugging, in between, jumping off, jumping on,
    jumping over, kept in, larger than, leading, leaning over, leaving, licking, longer than,
    looking in, looking into, looking out, looking over, looking through, lying next to,
    lying on top of, making, mixed with, mounted on, moving, near, next to, of, on the back of,
    on the edge of, on the front of, on the other side of, on the side of, opening, painted on,
    parked at, parked beside, parked by, parked in, parked in front of, parked near,
    parked next to, perched on, petting, piled on, playing, playing in, playing on, playing with,
    pouring, reaching for, reading, reflected on, riding on, running in, running on,
    running through, seen through, sitting behind, sitting beside, sitting by, sitting in front of,
    sitting near, sitting next to, sitting under, skiing down, skiing on, sleeping in, sleeping on,
    smiling at, sniffing, splashing, sprinkled on, stacked on, standing against, standing around,
    standing behind, standing beside, standing in front of, standing near, standing next to,
    staring at, stuck in, surrounding, swimming in, swinging, talking to, topped with, touching,
    traveling down, traveling on, tying, typing on, underneath, wading in, waiting for,
    walking across, walking by, walking down, walking next to, walking through, with, working in,
    working on, worn on, wrapped around, wrapped in
    """.split(",")
)


def read_aro(root: Path, images: Path, problems: Problems) -> Cases:
    """The cases of the two files in ``root``, one of which may be missing.

    Relations that the protocol leaves out and attribute pairs with fewer than 25 cases are skipped
    and counted. A box is cut off at the picture's border.

    Raises:
        DataError: Neither file is there, one is no list, too many cases are bad, or none is left.
    """
    readers = {RELATION: _relations, ATTRIBUTION: _attributes}
    there = [name for name in readers if (root / name).is_file()]
    if not there:
        raise DataError(f"{root}: neither {RELATION} nor {ATTRIBUTION} is there")
    found = (readers[name](root / name, images, problems) for name in there)
    return screened_cases(chain.from_iterable(found), problems, root)


def aro_outcomes(cases: Sequence[Case], scores: Tensor) -> dict[str, Outcomes]:
    """``relation_macro`` over relations, ``attribution_macro`` over attribute pairs.

    ``relation_micro`` and ``attribution_micro`` weigh the same cases alike. Chance is 50.
    """
    wins, pictures = true_wins(scores), picture_ids(cases)
    kinds, strata = (np.array([getattr(c, name) for c in cases]) for name in ("kind", "stratum"))
    outcomes = {}
    for kind in dict.fromkeys(kinds.tolist()):
        mine = kinds == kind
        micro = Outcomes.of_hits(wins[mine], pictures[mine])
        outcomes[f"{kind}_macro"] = Outcomes(micro.values, micro.clusters, strata[mine])
        outcomes[f"{kind}_micro"] = micro
    return outcomes


def _relations(path: Path, images: Path, problems: Problems) -> Iterator[Case | LeftOut]:
    for where, row in _rows(path, {**FIELDS, "relation_name": str}, problems):
        if row["relation_name"] in LEFT_OUT:
            reason = "a relation that the protocol leaves out"
            yield LeftOut("relation_cases_left_out", reason)
        else:
            yield _case(where, row, images, "relation", row["relation_name"])


def _attributes(path: Path, images: Path, problems: Problems) -> Iterator[Case | LeftOut]:
    rows = [
        (where, row, "_".join(str(name) for name in row["attributes"]))
        for where, row in _rows(path, {**FIELDS, "attributes": list}, problems)
    ]
    count = Counter(pair for _, _, pair in rows)
    for where, row, pair in rows:
        if count[pair] < MIN_CASES:
            reason = f"an attribute pair with fewer than {MIN_CASES} cases"
            yield LeftOut("attribution_cases_left_out", reason)
        else:
            yield _case(where, row, images, "attribution", pair)


def _rows(
    path: Path, fields: Mapping[str, type], problems: Problems
) -> Iterator[tuple[str, Entry]]:
    """The entries that have these fields, each with where it stands; others are bad records."""
    data = read_json(path)
    if not isinstance(data, list):
        raise DataError(f"{path}: must be a list of cases, is {type(data).__name__}")
    for index, row in enumerate(data):
        where = f"{path}: case {index}"
        with problems.entry(where, "records"):
            yield where, require_fields(row, fields)


def _case(where: str, row: Entry, images: Path, kind: str, stratum: str) -> Case:
    texts = row["true_caption"], row["false_caption"]
    box = box_of([row[f"bbox_{name}"] for name in "xywh"])
    return Case(where, images / row["image_path"], texts, kind, stratum, box)
