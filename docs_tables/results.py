"""Tables of docs/results.md and README.md."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from statistics import mean
from typing import Any

from docs_tables.paired import SEEDS, Paired, Values, path_of, swept
from intarsia.evaluation.result import read_result
from intarsia.sweep.table import as_markdown, gap_cell

RETRIEVAL = [f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)]
SWAPS = ["swap_attributes", "swap_roles", "swap_phrases", "shuffle_words", "micro"]
RANK_1 = ["i2t_r1", "t2i_r1"]
BOXES = [*RANK_1, "top1"]
PHRASE = "GC, LRC, GR (phrase)"
PHOTOS = ("retrieval", "1-boxes", "2-boxes")  # what configs/ablations/harmoclip_flickr8k.yaml asks
PROOF_ROWS = {
    "global only": "global-only",
    "comalign": "comalign",
    "comalign, directed": "comalign-directed",
}
OVER_COMALIGN = {row: PROOF_ROWS[row] for row in ("comalign", "comalign, directed")}
ABLATIONS = (
    *("comalign_terms", "comalign_features", "comalign_architecture", "comalign_layers"),
    *("comalign_global_weight", "comalign_rate", "comalign_epochs", "comalign_batch"),
)


def _kept_values(name: str) -> dict[str, Values]:
    """Of the rows of a sweep whose outcomes are not kept."""
    return {row["row"]: row["values"] for row in _json(f"{name}/values")}


def _values_of(result: Any) -> Values:
    return {name: metric["value"] for name, metric in result["metrics"].items()}


def tuned() -> str:
    """What `intarsia tune` found for each row and seed of the ComAlign proof."""
    names = ("alpha1", "alpha2", "beta1")
    lines = [["row", *(f"{name}, seed {seed}" for name in names for seed in SEEDS)]]
    for row, file in PROOF_ROWS.items():
        found = [_json(f"comalign_proof/tune-{file}-{seed}") for seed in SEEDS]
        lines.append([row, *(f"{one[name]:g}" for name in names for one in found)])
    return as_markdown(lines)


def tried() -> str:
    """What else was tried for HarmoCLIP on photos: means over seeds of the photos for choosing."""
    metrics = ("i2t_r1", "t2i_r1", "top1", "thing_top1", "stuff_top1")
    lines = [["row", "how", "seeds", *metrics]]
    for name, row in _tried("rows").items():
        seeds = [
            {k: m["value"] for found in seed.values() for k, m in found.items()}
            for seed in row["seeds"].values()
        ]
        values = [f"{mean(s[m] for s in seeds):.1f}" if m in seeds[0] else "" for m in metrics]
        lines.append([name, row["how"], str(len(seeds)), *values])
    return as_markdown(lines)


def persons() -> str:
    """Box top-1 of persons and of all else, each seed."""
    lines = [["instances", "n", "clip, seed by seed", "harmoclip, seed by seed"]]
    for name, row in _tried("instances by category").items():
        ours = (" ".join(f"{v:.1f}" for v in row[model]) for model in ("clip", "harmoclip"))
        lines.append([name, f"{row['n']:,}", *ours])
    return as_markdown(lines)


def stuff() -> str:
    """What a box of stuff is taken for."""
    lines = [["row", "boxes of stuff", "called a thing", "top-1 asked among stuff alone"]]
    for name, row in _tried("stuff boxes").items():
        shares = (f"{row[key]:.1f}" for key in ("called_a_thing", "stuff_top1_among_stuff"))
        lines.append([name, f"{row['stuff_boxes']:,}", *shares])
    return as_markdown(lines)


def _tried(begin: str) -> Any:
    found = _json("harmoclip_flickr8k_tried/tried")
    return next(value for key, value in found.items() if key.startswith(begin))


def _json(file: str) -> Any:
    return json.loads(path_of(file).read_text(encoding="utf-8"))


def _swaps_beside() -> dict[str, Values]:
    return {
        "base (seed 0)": _values_of(read_result(path_of("swaps/base-0"))),
        "text only": _values_of(read_result(path_of("swaps/comalign-0"))["blind"]),
    }


FLICKR8K = Paired(
    "metric",
    {name: [f"flickr8k_{name}-{{}}"] for name in ("clip", "registers", "filip")},
    RETRIEVAL,
    turned=True,
)
PROOF = swept("comalign_proof")
COMALIGN_SCENES = swept("comalign_scenes", turned=True)
HARMOCLIP_SCENES = swept(
    "harmoclip_scenes",
    evaluations=(0, 1, 2),
    rows=["clip", "GC, LRC", PHRASE],
    values=partial(_kept_values, "harmoclip_scenes"),
)
FROZEN = ["clip", "harmoclip", "harmoclip, GR (phrase)", "clip, half way", "harmoclip, half way"]
HARMOCLIP_PHOTOS = swept("harmoclip_flickr8k", rows=FROZEN, turned=True)

HEADLINES = (
    ("Flickr8k", "`registers` / `clip`", FLICKR8K, "registers", RETRIEVAL),
    ("Flickr8k", "`comalign` / global vectors alone", PROOF, "comalign", ("i2t_r1", "t2i_r1")),
    ("COCO photos", "`harmoclip` / `clip`", HARMOCLIP_PHOTOS, "harmoclip", ("top1",)),
    (
        "scenes",
        "`harmoclip`, `gr_target: phrase` / `clip`",
        HARMOCLIP_SCENES,
        PHRASE,
        ("top1", "i2t_r1", "t2i_r1", "attribute_swap"),
    ),
    (
        "scenes",
        "`comalign`, directed / global vectors alone",
        COMALIGN_SCENES,
        "comalign, directed",
        ("role_swap", "attribute_swap", "i2t_r1", "t2i_r1"),
    ),
)


def headlines() -> str:
    """What README.md shows of the tables: each method beside its control."""
    lines = [["data", "method / its control", "metric", "control", "method", "difference"]]
    for data, title, table, name, metrics in HEADLINES:
        control, ours = table.rows[0], next(row for row in table.rows if row["row"] == name)
        for metric in metrics:
            values = [f"{row['values'][metric]:.1f}" for row in (control, ours)]
            lines.append([data, title, f"`{metric}`", *values, gap_cell(ours, metric)])
    return as_markdown(lines)


TABLES: dict[str, Callable[[], str]] = {
    "headlines": headlines,
    "flickr8k": FLICKR8K,
    "comalign-proof": PROOF,
    "comalign-directed": Paired(
        "row",
        {row: [f"comalign_proof/{name}-{{}}-retrieval"] for row, name in OVER_COMALIGN.items()},
        RANK_1,
    ),
    "comalign-threshold": Paired(
        "row",
        {row: [f"comalign_proof_threshold_0.3/{name}-{{}}"] for row, name in PROOF_ROWS.items()},
        RANK_1,
    ),
    "comalign-tuned": tuned,
    **{name.replace("_", "-"): swept(name) for name in ABLATIONS},
    "swaps": Paired(
        "swap",
        {row: [f"swaps/{name}-{{}}"] for row, name in OVER_COMALIGN.items()},
        SWAPS,
        values=_swaps_beside,
        turned=True,
    ),
    "swaps-balanced": Paired(
        "swap",
        {row: [f"swaps/{name}-balanced-{{}}"] for row, name in OVER_COMALIGN.items()},
        SWAPS,
        turned=True,
    ),
    "comalign-scenes": COMALIGN_SCENES,
    "comalign-scenes-directed": swept(
        "comalign_scenes", rows=["comalign", "comalign, directed"], turned=True
    ),
    "harmoclip-terms": swept(
        "harmoclip_terms",
        evaluations=(0, 1),
        rows=["clip", "GC, LRC", "GC, LRC, GR"],
        metrics=BOXES,
        values=partial(_kept_values, "harmoclip_terms"),
    ),
    "harmoclip-gr": swept(
        "harmoclip_terms", evaluations=(0, 1), rows=["GC, LRC", "GC, LRC, GR"], metrics=BOXES
    ),
    "harmoclip-region-matching": Paired(
        "row",
        {
            "clip": ["harmoclip_region_matching/clip-{}"],
            "GC, LRC, GR": ["harmoclip_region_matching/gc-lrc-gr-{}"],
        },
        ["attribute_swap", "replace_subject", "replace_object"],
    ),
    "harmoclip-scenes": HARMOCLIP_SCENES,
    "harmoclip-scenes-gr": swept(
        "harmoclip_scenes", evaluations=(0, 1, 2), rows=["GC, LRC", PHRASE]
    ),
    "harmoclip-scenes-compositional": swept(
        "harmoclip_scenes", evaluations=(4,), rows=["clip", PHRASE], metrics=["attribute_swap"]
    ),
    "harmoclip-scenes-global": swept(
        "harmoclip_scenes", evaluations=(3,), rows=["clip", PHRASE], metrics=["attribute_swap"]
    ),
    "harmoclip-weight": Paired(
        "weight",
        {
            weight: [f"{folder}-{{}}-{end}" for end in ("retrieval", "1-boxes")]
            for weight, folder in {
                "0": "harmoclip_terms/clip",
                "0.1": "harmoclip_weight/0.1",
                "0.3": "harmoclip_weight/0.3",
                "1": "harmoclip_terms/gc-lrc-gr",
                "3": "harmoclip_weight/3",
            }.items()
        },
        BOXES,
    ),
    "harmoclip-flickr8k": HARMOCLIP_PHOTOS,
    "harmoclip-half-way": swept(
        "harmoclip_flickr8k", rows=["clip, half way", "harmoclip, half way"], turned=True
    ),
    "harmoclip-persons": persons,
    "harmoclip-stuff": stuff,
    "harmoclip-tried": tried,
    "harmoclip-choice": swept("harmoclip_flickr8k_choice", turned=True),
    "harmoclip-shared": Paired(
        "row",
        {
            row: [f"harmoclip_flickr8k_shared/{row}-{{}}-{end}" for end in PHOTOS[:2]]
            for row in ("clip", "harmoclip")
        },
        BOXES,
    ),
    "demo": Paired(
        "metric",
        {
            model: [f"demo/{model}_{test}" for test in ("retrieval", "negatives", "pointing")]
            for model in ("clip", "pretrained", "registers", "filip", "harmoclip")
        },
        [*RANK_1, "attribute_swap", "role_swap", "place_swap", "replacement", "pointing"],
        seeds=(0,),
        turned=True,
    ),
}
