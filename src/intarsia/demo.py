"""The whole story on generated scenes, in minutes, with nothing to download.

A small CLIP is pretrained with the global loss. From that same start each method goes on for the
same number of steps on the same batches. One table then says what each has learned.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from intarsia.data.problems import Problems
from intarsia.data.records import Records
from intarsia.data.scenes import SceneSet
from intarsia.errors import ConfigError
from intarsia.evaluation.harness import PROTOCOLS, phrase_boxes
from intarsia.evaluation.metrics import Metric, Outcomes, summarise
from intarsia.evaluation.result import PACKAGE, make_result, revision, versions, write_result
from intarsia.identity import result_keys
from intarsia.model import Model, ModelSpec
from intarsia.report import Column, Curve, PhraseMap, Picture, write_report
from intarsia.runtime import progress
from intarsia.training.loop import Trainer
from intarsia.training.run import DataSpec, train
from intarsia.training.schedule import Schedule
from intarsia.types import Record

logger = logging.getLogger(__name__)

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "clip": ("Clip", {}),
    "registers": ("Registers", {}),
    "filip": ("Filip", {}),
    "harmoclip": ("HarmoClip", {"local_weight": 1.0, "gr_target": "phrase"}),
}
START = "pretrained"
BATCH = 128
REPLACEMENTS = ("replace_subject", "replace_object", "replace_relation", "replace_attribute")
COLUMNS = {
    "i2t_r1": Column("I→T R@1", "the first of all captions is one of the picture's", None),
    "t2i_r1": Column("T→I R@1", "the first of all pictures is the caption's", None),
    "attribute_swap": Column("attribute", "true caption over one with two attributes swapped", 50),
    "role_swap": Column("relation", "true caption over one with subject and object swapped", 50),
    "place_swap": Column("place", "true caption over one with the places of two swapped", 50),
    "replacement": Column("replacement", "true caption over one with a word replaced", 50),
    "pointing": Column("pointing", "the hottest patch of a phrase lies on what it names", None),
}
PANELS = {
    "global": "global loss",
    "gc": "global loss",
    "local_mean": "slots against patches, mean over positions",
    "local": "tokens against patches",
    "lrc": "phrases against regions",
    "gr": "regions against their phrases",
}
"""Part of a method's loss -> the title of its panel."""
LEAD = (
    "A CLIP trained with one vector for the picture and one for the sentence finds the right "
    "caption among many, and is a bag of words all the same: it scores “a red circle above a blue "
    "square” and “a blue circle above a red square” alike. The methods below went on from the same "
    "pretrained weights, with the same batches for the same number of steps."
)


@dataclass(frozen=True)
class Size:
    """How much a demo does: scenes, optimiser steps before and after the fork, test scenes."""

    scenes: int
    pretraining: int
    adapting: int
    test: int


FULL = Size(scenes=20_000, pretraining=560, adapting=120, test=800)
FAST = Size(scenes=4_000, pretraining=80, adapting=12, test=200)


def demo(
    *, out: Path = Path("runs/demo"), fast: bool = False, seed: int = 0, pictures: int = 8
) -> None:
    """Pretrain, adapt with every method, print the table and write ``report.html``.

    Args:
        out: where models, results and the report go; runs already there are not repeated.
        fast: a tenth of the training, to see that everything works.
        seed: of the start weights and the order of the batches.
        pictures: test pictures with phrase maps in the report.
    """
    if pictures < 0:
        raise ConfigError(f"--pictures is {pictures}: give 0 or more")
    began = time.perf_counter()
    out = out / ("fast" if fast else "full") / f"seed-{seed}"
    size = FAST if fast else FULL
    training = _Training(out, seed, size.scenes)
    models = {START: training.run(START, ("Clip", {}), size.pretraining, 2e-3, None)}
    for name, method in METHODS.items():
        models[name] = training.run(name, method, size.adapting, 1e-3, out / START)
    test = list(SceneSet("test", size.test).records())
    results = {name: _evaluate(name, model, test, out, seed) for name, model in models.items()}
    screen = Console(markup=False)
    screen.print(results_table(results))
    minutes = (time.perf_counter() - began) / 60
    report = out / "report.html"
    write_report(
        report,
        title="intarsia: what a local loss adds to CLIP",
        lead=LEAD,
        results=results,
        columns=COLUMNS,
        curves=_curves(out, [START, *METHODS]),
        pictures=[_picture(record, models) for record in progress(test[:pictures], "phrase maps")],
        facts=_facts(seed, size, minutes, fast),
    )
    screen.print(f"{minutes:.1f} minutes; the report with pictures:\n{report}", soft_wrap=True)


class _Training:
    """Runs of one demo: they share the scenes, the batches and the backbone."""

    def __init__(self, out: Path, seed: int, num_scenes: int) -> None:
        self.out, self.seed = out, seed
        self.data = DataSpec("scenes", split=f"train[:{num_scenes}]")
        self.num_scenes = num_scenes
        self._records: Records | None = None

    @property
    def records(self) -> Records:
        if self._records is None:
            scenes = SceneSet("train", self.num_scenes)
            indices = progress(range(self.num_scenes), "drawing scenes")
            self._records = Records.of(scenes[i] for i in indices)
        return self._records

    def run(
        self,
        name: str,
        method: tuple[str, dict[str, Any]],
        steps: int,
        lr: float,
        init: Path | None,
    ) -> Model:
        kind, arguments = method
        spec = ModelSpec(
            {"spec": "scenes-resnet"},
            {"class_path": f"intarsia.methods.{kind}", "init_args": arguments},
        )
        trainer = Trainer(steps=steps, batch_size=BATCH, lr=lr, schedule=Schedule(warmup=0.1))
        return train(
            spec,
            self.data,
            trainer,
            self.out / name,
            seed=self.seed,
            init=init,
            resume=True,
            config={"seed": self.seed, "trainer": trainer.as_dict()},
            records=self.records,
            description=name,
        )


def _evaluate(
    name: str, model: Model, test: Sequence[Record], out: Path, seed: int
) -> dict[str, Metric]:
    """All protocols on the test scenes; one result file each."""
    metrics: dict[str, Metric] = {}
    for protocol in ("retrieval", "negatives", "pointing"):
        evaluation = PROTOCOLS[protocol](model, test, Problems())
        found = dict(evaluation.metrics)
        if protocol == "negatives":
            found["replacement"] = _replacement(evaluation.per_query)
        write_result(
            out / "results" / f"{name}_{protocol}.json",
            make_result(
                protocol=evaluation.of(protocol),
                split="test",
                metrics=found,
                per_query=evaluation.per_query,
                model=name,
                data="scenes",
                seed=seed,
                config={},
                keys=result_keys(model, test, {"protocol": protocol}),
                counted=evaluation.counted,
            ),
        )
        metrics |= found
    return {column: metrics[column] for column in COLUMNS}


def _replacement(per_query: Mapping[str, Outcomes]) -> Metric:
    """All replacements together, one vote a query."""
    parts = [per_query[kind] for kind in REPLACEMENTS if kind in per_query]
    clusters = [part.clusters for part in parts if part.clusters is not None]
    joined = Outcomes(np.concatenate([p.values for p in parts]), np.concatenate(clusters))
    return summarise({"replacement": joined})["replacement"]


def results_table(results: Mapping[str, Mapping[str, Metric]]) -> Table:
    """A row a metric, a column a model, each with half its 95% interval."""
    table = Table(title="scenes never seen; percent ± half a 95% interval")
    table.add_column("metric")
    for name in results:
        table.add_column(name, justify="right")
    for key, column in COLUMNS.items():
        chance = "" if column.chance is None else f" (chance {column.chance:.0f})"
        table.add_row(column.label + chance, *(_cell(found[key]) for found in results.values()))
    return table


def _cell(metric: Metric) -> str:
    low, high = metric.ci95
    return f"{metric.value:.1f} ± {(high - low) / 2:.1f}"


def _curves(out: Path, names: Sequence[str]) -> dict[str, list[Curve]]:
    panels: dict[str, list[Curve]] = {}
    for name in names:
        lines = (out / name / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        has_parts = bool(PANELS.keys() & rows[0].keys())
        for key, panel in PANELS.items() if has_parts else [("loss", PANELS["global"])]:
            found = [(row["step"], row[key]) for row in rows if key in row]
            if found:
                title = "pretraining: global loss" if name == START else panel
                steps, values = zip(*found, strict=True)
                panels.setdefault(title, []).append(Curve(name, list(steps), list(values)))
    return panels


def _picture(record: Record, models: Mapping[str, Model]) -> Picture:
    boxes = phrase_boxes(record)
    phrases = list(boxes)
    image = Image.fromarray(record.image)  # type: ignore[arg-type]
    maps = {
        name: model.patch_maps(image, phrases).numpy(force=True) for name, model in models.items()
    }
    rows = [
        PhraseMap(phrase, {name: found[i] for name, found in maps.items()}, boxes[phrase])
        for i, phrase in enumerate(phrases)
    ]
    return Picture(record.id, image, record.captions, rows)


def _facts(seed: int, size: Size, minutes: float, fast: bool) -> dict[str, str]:
    packages = ", ".join(f"{name} {number}" for name, number in versions().items())
    return {
        "command": f"intarsia demo --seed {seed}" + (" --fast" if fast else ""),
        "data": f"{size.scenes:,} generated scenes for training, {size.test:,} for the table",
        "steps": f"{size.pretraining} of pretraining, then {size.adapting} with each method",
        "seed": str(seed),
        "time": f"{minutes:.1f} minutes",
        "versions": packages,
        "revision": revision(PACKAGE) or "not a checkout",
    }
