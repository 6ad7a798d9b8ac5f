"""Run a plan for several models: one result file a task and model, nothing computed twice."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from io import TextIOBase
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from intarsia.data.problems import Problems
from intarsia.data.records import Records, at, without_pictures
from intarsia.errors import ConfigError, DataError, IntarsiaError
from intarsia.evaluation.blind import TEXT_ONLY
from intarsia.evaluation.compositional import true_texts
from intarsia.evaluation.harness import Evaluation
from intarsia.evaluation.result import make_result, read_result, write_result
from intarsia.identity import Keys, code_key, config_key, data_key, differing, model_key
from intarsia.model import Model
from intarsia.runtime import atomic, progress_columns
from intarsia.suite.failures import FORMAT, Data, failure_cases
from intarsia.suite.names import file_names, labels
from intarsia.suite.plan import Plan, Task
from intarsia.suite.questions import worst

logger = logging.getLogger(__name__)

OpenModel = Callable[[str], tuple[Model, dict[str, Any]]]
Result = dict[str, Any]
Answer = Callable[[Problems], tuple[Evaluation, dict[str, Any]]]
UNANSWERED = "unanswered"  # of a result: places of the items that a judge is not asked either
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

    ``models`` are the given names by label, the reference first; ``keys`` those of their weights
    and configs; ``rows`` those of a table, where
    ``TEXT_ONLY`` comes last if it has answered anything; ``inspected`` the two whose failures are
    shown (the first and the last). ``failures`` are the worst mistakes of the last.
    """

    models: dict[str, str]
    keys: dict[str, Keys]
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

    What lies in ``out`` already and was made of the same data, weights, config and code is read,
    not computed again. A task that fails for a model is noted and the others go on.

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
    keys = {label: _keys(*opened(name)) for label, name in names.items()}
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


def _keys(model: Model, config: dict[str, Any]) -> Keys:
    return {"model": model_key(model), "config": config_key(config)}


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

    @cached_property
    def _folders(self) -> dict[str, str]:
        return file_names([*self.suite.models.values(), TEXT_ONLY])

    @cached_property
    def _files(self) -> dict[str, str]:
        return file_names(map(str, self.suite.plan.tasks))

    def evaluate(self, task: Task, label: str) -> None:
        name = self.suite.models[label]

        def answer(problems: Problems) -> tuple[Evaluation, dict[str, Any]]:
            model, config = self.opened(name)
            return task.evaluate(model, task.items, problems), config

        self._once(task, label, name, {"data": task.key, **self.suite.keys[label]}, answer)

    def evaluate_blind(self, task: Task, label: str) -> None:
        """Ask the judge what the models have answered: all whose picture could be read."""
        ask, lessons = task.blind, self.suite.plan.lessons
        assert ask is not None and lessons is not None
        some = next(iter(self.suite.results.get(task, {}).values()), {})
        left_out = set(some.get(UNANSWERED, ()))
        items = at(task.items, [i for i in range(len(task.items)) if i not in left_out])

        def answer(_: Problems) -> tuple[Evaluation, dict[str, Any]]:
            language, taught_on = lessons.teach(true_texts(items))
            return ask(items, language), {"taught_on": asdict(taught_on)}

        keys = {"data": data_key(items), "model": lessons.key, "config": config_key({})}
        self._once(task, label, label, keys, answer)

    def _once(self, task: Task, label: str, name: str, keys: Keys, answer: Answer) -> None:
        """The result of an earlier run, or the answer, which is kept."""
        path = self.out / "results" / self._folders[name] / f"{self._files[str(task)]}.json"
        keys = keys | {"code": code_key()}
        result = _read(path, keys)
        if result is None:
            problems = Problems(self.suite.plan.max_bad_fraction)
            evaluation, config = answer(problems)
            result = make_result(
                protocol=evaluation.of(task.protocol),
                split=task.split,
                metrics=evaluation.metrics,
                per_query=evaluation.per_query,
                model=name,
                data=task.data,
                seed=config.get("seed"),
                config=config,
                keys=keys,
                counted=evaluation.counted,
            )
            if evaluation.answered:
                result[UNANSWERED] = _places(task.items, evaluation.answered)
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
        path = self.out / "failures" / f"{self._files[str(task)]}.json"
        stamp = {"format": FORMAT, "data": task.key, "worst": self.num_worst}
        stamp |= {"code": code_key()}
        stamp |= {f"model {i}": self.suite.keys[label] for i, label in enumerate(inspected)}
        cases = _read_cases(path, stamp)
        if cases is None:
            models = [self.opened(self.suite.models[label])[0] for label in inspected]
            questions = worst(task.inspection, models[-1], task.items, self.num_worst)
            cases = failure_cases(questions, task.inspection, models, task.items)
            with atomic(path) as draft:
                draft.write_text(json.dumps({"suite": stamp, "cases": cases}), encoding="utf-8")
            self.suite.num_computed += 1
        self.suite.failures[task] = cases


def _places(items: Sequence[Any], answered: Sequence[Any]) -> list[int]:
    """Where in ``items`` those stand that are not among the answered ones."""
    if isinstance(items, Records):
        ids = {record.id for record in without_pictures(answered)}
        return [place for place in range(len(items)) if items.id_of(place) not in ids]
    known = {id(item) for item in answered}
    return [place for place, item in enumerate(items) if id(item) not in known]


def _read(path: Path, keys: Keys) -> Result | None:
    """The result of an earlier run, if it stands; why not is told in one line."""
    if not path.is_file():
        return None
    try:
        result = read_result(path)
    except DataError as error:
        logger.info("%s is made anew: %s", path, error)
        return None
    if reason := differing(result["keys"], keys):
        logger.info("%s is made anew: it has %s", path, reason)
        return None
    return result


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
