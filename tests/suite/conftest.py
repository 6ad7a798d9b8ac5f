"""A suite that was run once: three small models with random weights on generated scenes."""

from dataclasses import asdict
from pathlib import Path

import pytest

from intarsia.model import Model, ModelSpec
from intarsia.suite.plan import Plan, make_plan
from intarsia.suite.run import Suite, run_suite

MODELS = ["runs/clip", "runs/filip", "runs/registers"]
METHODS = dict(zip(MODELS, ("Clip", "Filip", "Registers"), strict=True))
DATA = ["scenes:test[:6]"]


def _open(name: str) -> tuple[Model, dict]:
    """As the command line opens a trained folder."""
    spec = ModelSpec({"spec": "scenes-clip"}, {"class_path": f"intarsia.methods.{METHODS[name]}"})
    return spec.build(MODELS.index(name)).eval(), asdict(spec) | {"seed": 0}


@pytest.fixture(scope="session")
def models() -> list[str]:
    return MODELS


@pytest.fixture(scope="session")
def open_model():
    return _open


@pytest.fixture(scope="session")
def suite_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("suite")


@pytest.fixture(scope="session")
def suite(suite_folder) -> Suite:
    return run_suite(MODELS, make_plan(suite_folder, DATA), suite_folder, _open, num_worst=3)


@pytest.fixture(scope="session")
def blind_plan(suite_folder) -> Plan:
    """One protocol with pictures alone, one of texts; scenes teach what language gives."""
    plan = make_plan(suite_folder, DATA, "scenes:train[:300]")
    return Plan(
        [task for task in plan.tasks if task.protocol in ("retrieval", "negatives")],
        plan.skipped,
        plan.lessons,
    )


@pytest.fixture(scope="session")
def blind_suite(suite_folder, blind_plan) -> Suite:
    return run_suite(MODELS, blind_plan, suite_folder / "blind", _open, num_worst=1)
