"""Embeddings of a whole data set, where they fit."""

from types import SimpleNamespace

import pytest
import torch

from intarsia.data.problems import Problems
from intarsia.data.records import Records
from intarsia.evaluation import vectors
from intarsia.evaluation.grounding import evaluate_grounding
from intarsia.evaluation.harness import PROTOCOLS
from intarsia.evaluation.region_matching import evaluate_region_negatives
from intarsia.evaluation.region_retrieval import evaluate_region_retrieval
from intarsia.evaluation.vectors import gathered, together
from intarsia.methods import Filip
from intarsia.model import Model
from intarsia.types import Embeddings

META, CPU = torch.device("meta"), torch.device("cpu")


def parts(device=CPU) -> list[Embeddings]:
    rows = torch.arange(24.0).view(6, 4)
    return [Embeddings({"global": some.to(device)}) for some in rows.split(2)]


@pytest.fixture
def small_gpu(monkeypatch):
    """A GPU with room for 64 bytes of embeddings: two of the parts."""
    properties = SimpleNamespace(total_memory=64 / vectors.SHARE)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    return torch.device("cuda", 0)


def test_parts_are_one_in_order():
    assert torch.equal(gathered(parts(), CPU)["global"], torch.arange(24.0).view(6, 4))


def test_what_fits_stays_where_it_is(small_gpu):
    assert gathered(parts(META)[:2], small_gpu)["global"].device == META


def test_what_does_not_fit_goes_to_the_cpu_as_it_comes(small_gpu, monkeypatch):
    moved = []
    monkeypatch.setattr(Embeddings, "cpu", lambda self: moved.append(len(self)) or self)
    assert len(gathered(parts(), small_gpu)) == 6
    assert moved == [2, 2, 2]


def test_two_sides_meet_on_the_cpu(monkeypatch):
    here, there = parts()[0], parts(META)[0]
    assert together(here, here) == (here, here)
    assert together(there, there) == (there, there)
    monkeypatch.setattr(Embeddings, "cpu", lambda self: "on the CPU")
    assert together(here, there) == ("on the CPU", "on the CPU")


def test_whoever_evaluates_leaves_the_model_in_its_mode(backbone, records):
    model = Model(backbone, Filip(backbone.dims)).train()
    some = Records.of(records[:3])
    places = (evaluate_grounding, evaluate_region_negatives, evaluate_region_retrieval)
    for evaluate in (*PROTOCOLS.values(), *places):
        evaluate(model, some, Problems())
        assert all(module.training for module in model.modules()), evaluate.__name__
