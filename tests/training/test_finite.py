"""A step waits for the device only where its numbers are logged, validated or saved."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from intarsia.encode import loader
from intarsia.encode.pairs import LivePairs
from intarsia.errors import TrainingError
from intarsia.methods import Clip, Registers
from intarsia.model import Model
from intarsia.training import finite
from intarsia.training.checkpoint import LAST, read_checkpoint
from intarsia.training.finite import FiniteWatch
from intarsia.training.loop import Trainer


def small(**settings) -> Trainer:
    defaults = {"steps": 12, "batch_size": 8, "precision": "32-true", "log_every": 10}
    return Trainer(**{**defaults, **settings})


def lines(out) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


class Watched(LivePairs):
    """Notes the records of each batch; the pixels of ``bad`` ones are no numbers.

    ``before`` and ``after`` are called around the making of a batch.
    """

    bad = 0

    def __init__(self, records, backbone):
        super().__init__(records, backbone)
        self.asked = []
        self.before = self.after = lambda: None

    def __getitem__(self, pairs):
        self.before()
        batch = super().__getitem__(pairs)
        self.asked.append([self.record_id(pair) for pair in pairs])
        if len(self.asked) == self.bad:
            batch = batch.map(lambda x: x * torch.nan if x.ndim == 4 else x)
        self.after()
        return batch


@pytest.fixture(autouse=True)
def made_in_its_step(monkeypatch):
    """No batch is made ahead of its step, so that what is asked of the pairs tells the step."""
    monkeypatch.setattr(loader, "_taken_ahead", iter)


@pytest.fixture
def model(backbone):
    return Model(backbone, Clip(backbone.dims))


@pytest.fixture
def pairs(records, backbone):
    return Watched(records, backbone)


def test_the_first_failure_is_found_and_the_flag_stays():
    watch, pairs = FiniteWatch(torch.device("cpu")), torch.arange(3)
    assert watch.first_failure() is None
    watch.see("loss", torch.tensor(1.0), 1, pairs)
    assert watch.first_failure() is None and watch.failed == 0
    for step, value in ((2, 1.0), (3, torch.inf), (4, torch.nan), (5, 1.0)):
        watch.see("gradient", torch.tensor(value), step, pairs + step)
    assert watch.failed == 1
    found = watch.first_failure()
    assert (found.what, found.step, found.pairs.tolist()) == ("gradient", 3, [3, 4, 5])
    assert watch.first_failure() is None and watch.failed == 1


def test_a_failure_is_told_at_the_next_line_with_its_own_step_and_records(tmp_path, model, pairs):
    pairs.bad = 7
    with pytest.raises(TrainingError, match=r"the loss is nan at step 7;.*checkpoint: none yet"):
        small().fit(model, pairs, tmp_path)
    assert len(pairs.asked) == 10
    first, last = lines(tmp_path)
    assert first["step"] == 1
    assert last == {"step": 7, "failed": "loss", "records": pairs.asked[6]}
    assert not list((tmp_path).rglob("*.safetensors"))


def test_the_records_of_a_gradient_are_those_of_all_its_batches(tmp_path, model, pairs):
    calls = iter(range(20))
    weight = model.backbone.model.visual_projection.weight
    weight.register_hook(lambda g: g * torch.inf if next(calls) == 6 else g)
    with pytest.raises(TrainingError, match=r"the gradient is (inf|nan) at step 4"):
        small(accumulate=2, log_every=5).fit(model, pairs, tmp_path)
    assert lines(tmp_path)[-1]["records"] == pairs.asked[6] + pairs.asked[7]


def test_no_step_from_a_failure_on_reaches_the_weights(tmp_path, model, pairs):
    weights = []
    pairs.bad, pairs.before = 7, lambda: weights.append(copy.deepcopy(model.state_dict()))
    with pytest.raises(TrainingError, match="at step 7"):
        small(ema=0.5).fit(model, pairs, tmp_path)
    key = "backbone.model.visual_projection.weight"
    assert not torch.equal(weights[5][key], weights[6][key])
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[6][name]), name


def test_a_failure_is_neither_validated_nor_saved(tmp_path, model, pairs):
    pairs.bad, validated = 7, []

    def validate(_):
        validated.append(len(pairs.asked))
        return {"r1": 0.0}

    trainer = small(validate_every=4, save_every=4, log_every=100)
    with pytest.raises(TrainingError, match=r"at step 7;.*last\.ckpt"):
        trainer.fit(model, pairs, tmp_path, validate=validate)
    assert validated == [4] and len(pairs.asked) == 8
    assert read_checkpoint(tmp_path / LAST)["step"] == 4


def test_the_pace_is_that_of_all_steps_between_two_lines(tmp_path, model, pairs, monkeypatch):
    """A second a batch; what validation takes is no step's time."""
    now = [0.0]
    monkeypatch.setattr(finite, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def pass_time(seconds):
        now[0] += seconds
        return {"r1": 0.0}

    pairs.before = lambda: pass_time(1.0)
    trainer = small(steps=9, accumulate=2, log_every=4, validate_every=3)
    trainer.fit(model, pairs, tmp_path, validate=lambda _: pass_time(100.0))
    found = {r["step"]: r["pairs_per_s"] for r in lines(tmp_path) if "pairs_per_s" in r}
    assert found == {1: 8.0, 4: 8.0, 8: 8.0, 9: 8.0}


class Waits(TorchDispatchMode):
    """Notes the operators for which the host waits: for what they give, or (``lift_fresh``, of
    ``torch.tensor``) until they have copied it to the device."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "lift_fresh")

    def __init__(self):
        super().__init__()
        self.found, self.is_on = [], False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            isinstance(x, torch.Tensor) and x.dtype == torch.bool for x in args[1] or ()
        )
        if self.is_on and (by_mask or name in self.NAMES):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


class Plain(Registers):
    """Its loss is made of torch's operators."""

    def loss(self, image, text):
        logits = self.temperature() * image["global"] @ text["global"].mT
        local = (image["local"] * text["local"]).sum(-1).mean()
        own = torch.arange(len(logits), device=logits.device)
        return {"loss": F.cross_entropy(logits, own) - local, "local": local}


def test_nothing_in_a_step_asks_for_a_value(tmp_path, records, backbone):
    """Steps 2 to 9 of a log every 10, without the making of batches, which is the CPU's."""
    backbone.model.text_model.config._attn_implementation = "sdpa"  # as on a GPU
    backbone.model.vision_model.config._attn_implementation = "sdpa"
    pairs, waits = Watched(records, backbone), Waits()
    pairs.before = lambda: setattr(waits, "is_on", False)
    pairs.after = lambda: setattr(waits, "is_on", 2 <= len(pairs.asked) <= 9)
    with waits:
        small(ema=0.9).fit(Model(backbone, Plain(backbone.dims)), pairs, tmp_path)
    assert len(pairs.asked) == 12 and waits.found == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only CUDA tells who waits for it")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_no_step_waits_for_a_gpu(tmp_path, records, backbone, precision):
    pairs = Watched(records, backbone)
    pairs.before = lambda: torch.cuda.set_sync_debug_mode(0)
    pairs.after = lambda: torch.cuda.set_sync_debug_mode(
        "error" if 2 <= len(pairs.asked) <= 9 else 0
    )
    model = Model(backbone, Plain(backbone.dims)).cuda()
    small(ema=0.9, precision=precision).fit(model, pairs, tmp_path)
    assert len(lines(tmp_path)) == 3
