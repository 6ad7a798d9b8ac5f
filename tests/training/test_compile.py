"""Training through ``torch.compile``: the same losses and weights as without."""

import functools
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from intarsia.model import ModelSpec, load_model
from intarsia.training.fit import Run
from intarsia.training.loop import Trainer
from intarsia.training.lora import LoraSpec
from intarsia.training.run import DataSpec, train
from intarsia.training.step import _compiled

SPEC = ModelSpec(
    {"spec": "scenes-clip"},
    {"class_path": "intarsia.methods.Registers", "init_args": {"layers": 1}},
)
DATA = DataSpec("scenes", split="train[:12]")


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    """Compile without a compiler: the graphs are found and run, but not turned into kernels."""
    torch._dynamo.reset()
    run = []

    def backend(graph, inputs):
        run.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    return run


def trained(out, records, *, compile, freeze="none", lora=None, resume=False, **settings):
    settings = {"steps": 3, "batch_size": 8, "precision": "32-true", "log_every": 1, **settings}
    trainer = Trainer(**settings, compile=compile)
    spec, cache = replace(SPEC, freeze=freeze), out.parent / "cache"
    options = {"lora": lora, "resume": resume, "cache": cache, "records": records[:12]}
    train(spec, DATA, trainer, out, **options)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(row["loss"], row["grad_norm"]) for row in rows], load_model(out).state_dict()


CASES = {
    "all": {"ema": 0.9},
    "one tower, chunks and adapters": {
        "freeze": "image",
        "grad_cache_chunk": 4,
        "lora": LoraSpec(rank=2),
    },
    "cached towers": {"freeze": "towers", "accumulate": 2},
}


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES.keys())
def test_the_same_losses_and_weights(tmp_path, records, graphs, settings):
    plain, weights = trained(tmp_path / "plain", records, compile=False, **settings)
    assert not graphs
    found, compiled = trained(tmp_path / "compiled", records, compile=True, **settings)
    assert graphs
    assert found == [pytest.approx(row, rel=1e-4) for row in plain]
    assert compiled.keys() == weights.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=1e-3, atol=1e-5)


def test_it_resumes_exactly(tmp_path, records):
    settings = {"compile": True, "freeze": "towers"}
    whole, weights = trained(tmp_path / "whole", records, steps=4, **settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "_record", stop_at(3))
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "b", records, steps=4, save_every=2, **settings)
    found, resumed = trained(tmp_path / "b", records, steps=4, resume=True, **settings)
    assert found == whole
    for name, tensor in weights.items():
        assert torch.equal(resumed[name], tensor), name


def test_every_model_of_a_process_is_compiled(graphs):
    """torch stops at the eighth of one function."""

    class Small(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def embed(self, x):
            return self.factor * x

    for factor in range(10):
        assert _compiled(Small(factor).embed)(torch.ones(2)).tolist() == [factor] * 2
    assert len(graphs) == 10


def stop_at(step):
    record = Run._record

    def stop(run, *arguments):
        if run.step == step:
            raise KeyboardInterrupt
        return record(run, *arguments)

    return stop
