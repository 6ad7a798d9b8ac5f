"""Run a plan for several models: one result file a task and model, nothing computed twice."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from io import TextIOBase
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from intarsia.data.problems import Problems
from intarsia.errors import ConfigError, DataError, IntarsiaError
from intarsia.evaluation.blind import TEXT_ONLY
from intarsia.evaluation.compositional import true_texts
from intarsia.evaluation.harness import Evaluation
from intarsia.evaluation.result import make_result, read_result, write_result
from intarsia.model import Model
from intarsia.runtime import atomic, progress_columns
from intarsia.suite.failures import FORMAT, Data, failure_cases
from intarsia.suite.names import file_name, labels
from intarsia.suite.plan import Plan, Task
from intarsia.suite.questions import worst

logger = logging.getLogger(__name__)

OpenModel = Callable[[str], tuple[Model, dict[str, Any]]]
Result = dict[str, Any]
Answer = Callable[[Problems], tuple[Evaluation, dict[str, Any]]]
NUM_WORST = 50


@dataclass(frozen=True)
class Failed:
    """A task that could not be done for a model, and why."""

    task: str
    model: str
    reason: str


@dataclass
class Suite:
    """What came out: ``results`` and ``failures`` in the plan's order, models by their labels.

    ``models`` are the given names by label, the reference first; ``rows`` those of a table, where
    ``TEXT_ONLY`` comes last if it has answered anything; ``inspected`` the two whose failures are
    shown (the first and the last). ``failures`` are the worst mistakes of the last.
    """

    models: dict[str, str]
    keys: dict[str, str]
    plan: Plan
    results: dict[Task, dict[str, Result]] = field(default_factory=dict)
    failures: dict[Task, list[Data]] = field(default_factory=dict)
    failed: list[Failed] = field(default_factory=list)
    num_computed: int = 0

    @property
    def rows(self) -> dict[str, str]:
        if not any(TEXT_ONLY in results for results in self.results.values()):
            return self.models
        return self.models | {TEXT_ONLY: str(self.plan.lessons)}

    @property
    def inspected(self) -> list[str]:
        names = list(self.models)
        return list(dict.fromkeys((names[0], names[-1])))


def run_suite(
    models: Sequence[str],
    plan: Plan,
    out: Path,
    open_model: OpenModel,
    *,
    num_worst: int = NUM_WORST,
) -> Suite:
    """Evaluate every model on every task of the plan, then collect failures of two of them.

    With ``plan.lessons`` a language model that sees no picture answers what it can, too.

    What lies in ``out`` already and was made of the same model, data and protocol is read, not
    computed again. A task that fails for a model is noted and the others go on.

    Args:
        models: trained folders or backbones; the first is the reference.
        plan: of :func:`intarsia.suite.plan.make_plan`.
        out: folder for ``results/`` and ``failures/``.
        open_model: name -> the model and its config.
        num_worst: failures kept of each task.

    Raises:
        ConfigError: A model is named twice, or cannot be opened.
    """
    names = dict(zip(labels(models), models, strict=True))
    if len(names) < len(models):
        raise ConfigError(f"models must differ, are {', '.join(models)}")
    opened = lru_cache(2)(open_model)
    keys = {label: fingerprint(*opened(name)) for label, name in names.items()}
    suite = Suite(names, keys, plan)
    run = _Run(suite, out, opened, num_worst)
    with _bar() as bar:
        inspections = [task for task in plan.tasks if task.inspection]
        blind = [task for task in plan.tasks if task.blind and plan.lessons]
        total = len(plan.tasks) * len(models) + len(blind) + len(inspections)
        step = bar.add_task("suite", total=total, note="")
        for label in names:
            for task in plan.tasks:
                bar.update(step, description=f"{label}: {task}")
                run.attempt(task, label, run.evaluate)
                bar.advance(step)
        for task in blind:
            bar.update(step, description=f"{TEXT_ONLY}: {task}")
            run.attempt(task, TEXT_ONLY, run.evaluate_blind)
            bar.advance(step)
        for task in inspections:
            bar.update(step, description=f"failures: {task}")
            run.attempt(task, suite.inspected[-1], run.inspect)
            bar.advance(step)
    return suite


def fingerprint(model: Model, config: dict[str, Any]) -> str:
    """A hash of all that a model's answers depend on: its config, weights and input."""
    digest = hashlib.sha256(json.dumps(config, default=str, sort_keys=True).encode())
    digest.update(model.backbone.fingerprint().encode())
    for name, value in sorted(model.trained_state().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(
            value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class _Run:
    suite: Suite
    out: Path
    opened: OpenModel
    num_worst: int

    def attempt(self, task: Task, label: str, step: Callable[[Task, str], None]) -> None:
        """Do a step; whatever goes wrong with it concerns this task and model alone."""
        try:
            step(task, label)
        except IntarsiaError as error:
            self._note(task, label, str(error))
        except Exception as error:
            logger.exception("%s, %s", task, label)
            self._note(task, label, f"{type(error).__name__}: {error}")

    def _note(self, task: Task, label: str, reason: str) -> None:
        logger.error("%s, %s: %s", task, label, reason)
        self.suite.failed.append(Failed(str(task), label, reason))

    def evaluate(self, task: Task, label: str) -> None:
        name = self.suite.models[label]

        def answer(problems: Problems) -> tuple[Evaluation, dict[str, Any]]:
            model, config = self.opened(name)
            return task.evaluate(model, task.items, problems), config

        self._once(task, label, name, self.suite.keys[label], answer)

    def evaluate_blind(self, task: Task, label: str) -> None:
        ask, lessons = task.blind, self.suite.plan.lessons
        assert ask is not None and lessons is not None

        def answer(_: Problems) -> tuple[Evaluation, dict[str, Any]]:
            language, taught_on = lessons.teach(true_texts(task.items))
            return ask(task.items, language), {"taught_on": asdict(taught_on)}

        self._once(task, label, label, lessons.key, answer)

    def _once(self, task: Task, label: str, name: str, key: str, answer: Answer) -> None:
        """The result of an earlier run, or the answer, which is kept."""
        path = self.out / "results" / file_name(name) / f"{file_name(str(task))}.json"
        stamp = {"model": key, "data": task.key}
        result = _read(path, stamp)
        if result is None:
            problems = Problems()
            evaluation, config = answer(problems)
            variant = evaluation.variant
            result = make_result(
                protocol=f"{task.protocol} ({variant})" if variant else task.protocol,
                split=task.split,
                metrics=evaluation.metrics,
                per_query=evaluation.per_query,
                model=name,
                data=task.data,
                seed=config.get("seed"),
                config=config | {"suite": stamp},
            )
            write_result(path, result)
            if len(problems):
                problems.write(path.with_suffix(".problems.jsonl"))
            self.suite.num_computed += 1
        self.suite.results.setdefault(task, {})[label] = result

    def inspect(self, task: Task, _: str) -> None:
        inspected = self.suite.inspected
        done = self.suite.results.get(task, {})
        if task.inspection is None or not all(label in done for label in inspected):
            return
        path = self.out / "failures" / f"{file_name(str(task))}.json"
        stamp = {"format": FORMAT, "data": task.key, "worst": self.num_worst} | {
            f"model {i}": self.suite.keys[label] for i, label in enumerate(inspected)
        }
        cases = _read_cases(path, stamp)
        if cases is None:
            models = [self.opened(self.suite.models[label])[0] for label in inspected]
            questions = worst(task.inspection, models[-1], task.items, self.num_worst)
            cases = failure_cases(questions, task.inspection, models, task.items)
            with atomic(path) as draft:
                draft.write_text(json.dumps({"suite": stamp, "cases": cases}), encoding="utf-8")
            self.suite.num_computed += 1
        self.suite.failures[task] = cases


def _read(path: Path, stamp: dict[str, str]) -> Result | None:
    """The result of an earlier run, if it is of the same model, data and protocol."""
    if not path.is_file():
        return None
    try:
        result = read_result(path)
    except DataError:
        return None
    return result if result["config"].get("suite") == stamp else None


def _read_cases(path: Path, stamp: dict[str, Any]) -> list[Data] | None:
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return found["cases"] if found["suite"] == stamp else None


@contextmanager
def _bar() -> Iterator[Progress]:
    """One bar for all. What is written to stderr inside goes above it, line by line, and the bars
    of the protocols, which draw on terminals only, stay away."""
    console = Console(file=sys.stderr)
    columns = progress_columns()
    with (
        Progress(*columns, console=console, transient=True, redirect_stderr=False) as bar,
        redirect_stderr(_Above(console)),
    ):
        yield bar


class _Above(TextIOBase):
    """Writes whole lines above a live bar; a bar that may not draw leaves blank ones."""

    def __init__(self, console: Console) -> None:
        self.console, self.rest = console, ""

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in filter(str.strip, lines):
            self.console.print(line, markup=False, highlight=False)
        return len(text)
