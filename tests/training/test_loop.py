"""The loop on generated scenes: what it leaves, what it refuses, and that it resumes exactly."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import yaml

from intarsia.cli import main
from intarsia.data.problems import Problems
from intarsia.encode import pairs as pairs_module
from intarsia.encode.pairs import LivePairs
from intarsia.errors import ConfigError, DataError, TrainingError
from intarsia.identity import RUN_KEYS
from intarsia.model import ModelSpec, config_of, load_model
from intarsia.training.loop import Trainer
from intarsia.training.run import DataSpec, train, write_config
from intarsia.training.schedule import Schedule

CLIP = ModelSpec({"spec": "scenes-clip"})
REGISTERS = ModelSpec(
    {"spec": "scenes-clip"},
    {
        "class_path": "intarsia.methods.Registers",
        "init_args": {"layers": 1, "dropout": 0.1, "lambda_local": 0.02},
    },
)
DATA = DataSpec("scenes", split="train[:48]")


def small(**settings) -> Trainer:
    defaults = {"steps": 6, "batch_size": 16, "precision": "32-true", "log_every": 1}
    return Trainer(**{**defaults, "schedule": Schedule(warmup=2), **settings})


def lines(out) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(out) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in lines(out)}


def test_a_run_leaves_what_load_model_reads(tmp_path, records):
    model = train(REGISTERS, DATA, small(), tmp_path, seed=3, records=records)
    assert [row["step"] for row in lines(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "global", "local_mean", "lr", "pairs_per_s"} <= lines(tmp_path)[0].keys()
    assert any((tmp_path / "tensorboard").iterdir())
    loaded = load_model(tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_same_seed_same_losses_other_seed_others(tmp_path, records):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(CLIP, DATA, small(steps=3), tmp_path / name, seed=seed, records=records)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert losses(tmp_path / "a") != losses(tmp_path / "c")


def test_one_start_whatever_the_method():
    clip, registers = CLIP.build(5).backbone, REGISTERS.build(5).backbone
    for a, b in zip(clip.parameters(), registers.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_loss_falls(tmp_path, records):
    for spec in (CLIP, REGISTERS):
        out = tmp_path / spec.method["class_path"]
        train(spec, DATA, small(steps=30, lr=5e-4), out, records=records[:8])
        found = losses(out)
        assert found[30] < 0.75 * found[1]


def test_accumulated_steps_average_their_gradients(tmp_path, records):
    """The same pairs in every micro-step: accumulating must change nothing at all."""

    class Same(LivePairs):
        def __getitem__(self, pairs):
            return super().__getitem__(range(8))

    norms = []
    for accumulate in (1, 2):
        model = CLIP.build()
        trainer = small(steps=3, batch_size=8, accumulate=accumulate)
        trainer.fit(model, Same(records, model.backbone), tmp_path / str(accumulate))
        norms.append([row["grad_norm"] for row in lines(tmp_path / str(accumulate))])
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


def test_moving_average_is_what_is_saved(tmp_path, records):
    settings = {"steps": 4, "ema": 0.5}
    averaged = train(CLIP, DATA, small(**settings), tmp_path / "a", records=records)
    plain = train(CLIP, DATA, small(steps=4), tmp_path / "b", records=records)
    saved = load_model(tmp_path / "a").state_dict()
    key = "backbone.model.visual_projection.weight"
    assert not torch.equal(saved[key], plain.state_dict()[key])
    assert torch.equal(saved[key], averaged.state_dict()[key])
    again = small(**settings)
    resumed = train(CLIP, DATA, again, tmp_path / "a", records=records, resume=True)
    assert torch.equal(saved[key], resumed.state_dict()[key])


def test_mixed_precision_stays_close_to_full(tmp_path, records):
    train(REGISTERS, DATA, small(steps=3), tmp_path / "full", records=records)
    mixed = small(steps=3, precision="bf16-mixed")
    train(REGISTERS, DATA, mixed, tmp_path / "mixed", records=records)
    full, half = losses(tmp_path / "full"), losses(tmp_path / "mixed")
    assert full[1] == pytest.approx(half[1], rel=0.02)
    assert full[1] != half[1]


def test_validation_keeps_the_best(tmp_path, records):
    scores = iter([3.0, 9.0, 5.0])
    trainer = small(steps=6, validate_every=2)
    train(CLIP, DATA, trainer, tmp_path, records=records, validate=lambda _: {"r1": next(scores)})
    assert [r["val_r1"] for r in lines(tmp_path) if "val_r1" in r] == [3.0, 9.0, 5.0]
    assert (tmp_path / "checkpoints" / "best.safetensors").exists()


def test_start_from_takes_the_backbone_over(tmp_path, records):
    first = train(CLIP, DATA, small(steps=2), tmp_path / "a", records=records)
    second = REGISTERS.build(9)
    fresh = second.start_from(tmp_path / "a")
    for name, tensor in first.backbone.state_dict().items():
        assert torch.equal(second.backbone.state_dict()[name], tensor)
    assert "method.registers" in fresh and "method.temperature.logit_scale" not in fresh


def test_a_batch_of_one_pair_is_refused_before_any_picture_is_read(tmp_path, records, monkeypatch):
    monkeypatch.setattr(pairs_module, "load", lambda *_, **__: pytest.fail("pictures were read"))
    with pytest.raises(ConfigError, match="batch_size is 1 on 1 device"):
        train(CLIP, DATA, small(batch_size=1, accumulate=8), tmp_path, records=records)
    trainer = small(batch_size=1)
    for _ in range(2):
        with pytest.raises(ConfigError, match="has no negatives"):
            trainer.launch()


def test_pairs_of_one_picture_are_refused(tmp_path, records):
    model = CLIP.build()
    several = replace(records[0], captions=("a", "b", "c", "d"))
    with pytest.raises(ConfigError, match="all 4 pairs are of the picture"):
        small(batch_size=2).fit(model, LivePairs([several], model.backbone), tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steps", 0, "give at least 1"),
        ("batch_size", 0, "give at least 1"),
        ("accumulate", 0, "give at least 1"),
        ("grad_cache_chunk", 0, "give at least 1"),
        ("log_every", 0, "give at least 1"),
        ("lr", 0.0, "nothing is learnt; give more than 0"),
        ("lr", float("nan"), "give more than 0"),
        ("clip_grad", 0.0, "nothing is learnt"),
        ("ema", 1.0, "between 0 and 1, or null"),
    ],
)
def test_settings_that_learn_nothing_are_refused(name, value, message):
    with pytest.raises(ConfigError, match=f"trainer.{name} is {value}.*{message}"):
        small(**{name: value})


def test_no_epochs_learn_nothing():
    with pytest.raises(ConfigError, match="trainer.epochs is 0: nothing is learnt"):
        small(steps=None, epochs=0)


def test_a_finished_run_is_not_overwritten(tmp_path, records):
    train(CLIP, DATA, small(steps=2), tmp_path, records=records)
    before = (tmp_path / "config.yaml").read_text()
    with pytest.raises(TrainingError, match="already holds a run: add --resume"):
        train(REGISTERS, DATA, small(steps=2), tmp_path, records=records)
    assert (tmp_path / "config.yaml").read_text() == before
    with pytest.raises(ConfigError, match="differs from this run's config"):
        train(REGISTERS, DATA, small(steps=2), tmp_path, records=records, resume=True)


def test_settings_that_are_new_and_not_set_do_not_stop_a_resumed_run(tmp_path, records):
    train(CLIP, DATA, small(steps=2), tmp_path, records=records, config={"trainer": {"lr": 1}})
    kept = config_of(tmp_path)
    assert kept["seed"] == 0 and kept["data"]["name"] == "scenes"
    for trainer, fits in (
        ({"lr": 1, "flip": False, "layer_decay": None}, True),
        ({"lr": 1, "log_every": 3, "validate_every": 7}, True),
        ({"lr": 1, "flip": True}, False),
        ({"flip": False}, False),
    ):
        context = nullcontext() if fits else pytest.raises(ConfigError, match="differs from")
        with context:
            write_config(tmp_path, CLIP, kept | {"trainer": trainer}, resume=True)


def test_the_config_of_a_run_from_python_says_how_it_was_trained(tmp_path, records):
    train(REGISTERS, DATA, small(steps=2, lr=0.01), tmp_path, seed=5, records=records)
    kept = config_of(tmp_path)
    assert kept["seed"] == 5 and kept["trainer"]["lr"] == 0.01
    assert json.loads((tmp_path / "keys.json").read_text())["precision"] == "32-true"
    assert kept["method"]["init_args"]["negatives"] == "batch"
    with pytest.raises(ConfigError, match="differs from this run's config"):
        train(REGISTERS, DATA, small(steps=2), tmp_path, seed=5, records=records, resume=True)


def test_a_loss_that_is_not_finite_names_step_records_and_checkpoint(tmp_path, records):
    class Exploding(LivePairs):
        def __getitem__(self, pairs):
            batch = super().__getitem__(pairs)
            self.seen = getattr(self, "seen", 0) + 1
            return batch.map(lambda x: x * torch.nan if x.ndim == 4 and self.seen == 4 else x)

    model = CLIP.build()
    pairs = Exploding(records, model.backbone)
    with pytest.raises(TrainingError, match=r"nan at step 4.*scenes/train.*last\.ckpt"):
        small(save_every=2).fit(model, pairs, tmp_path)
    assert len(lines(tmp_path)[-1]["records"]) == 16


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(tmp_path, records):
    model = CLIP.build()
    weight = model.backbone.model.visual_projection.weight
    calls = iter(range(10))
    weight.register_hook(lambda g: g * torch.inf if next(calls) == 2 else g)
    with pytest.raises(TrainingError, match=r"the gradient is (inf|nan) at step 3"):
        small().fit(model, LivePairs(records, model.backbone), tmp_path)
    assert weight.isfinite().all()


def test_unreadable_pictures_are_left_out_and_listed(tmp_path, broken):
    data = DataSpec("scenes", max_bad_fraction=0.1)
    train(CLIP, data, small(steps=2), tmp_path, records=broken)
    listed = [json.loads(line) for line in (tmp_path / "problems.jsonl").read_text().splitlines()]
    assert {row["source"] for row in listed} == {broken[5].id, broken[11].id}
    with pytest.raises(DataError, match="1 of 48 records are bad"):
        train(CLIP, DATA, small(steps=2), tmp_path / "strict", records=broken)
    assert broken[5].id in (tmp_path / "strict" / "problems.jsonl").read_text()


def test_problems_are_listed_while_training_goes_on(tmp_path, broken, monkeypatch):
    monkeypatch.setattr(pairs_module, "IN_MEMORY_BYTES", 0)
    model, found, seen = CLIP.build(), Problems(), []

    def validate(_):
        found.add("held out", "image", "empty")
        seen.append((tmp_path / "problems.jsonl").read_text())
        return {"r1": 0.0}

    problems = Problems(max_fraction=1.0)
    pairs = LivePairs(broken, model.backbone, problems)
    trainer = small(steps=12, validate_every=11, save_every=50)
    trainer.fit(
        model,
        pairs,
        tmp_path,
        validate=validate,
        problems=problems,
        validation_problems=found,
    )
    assert all(broken[index].id in seen[0] for index in (5, 11)) and "held out" not in seen[0]
    assert seen[1].count("held out") == 1


def test_a_new_run_lists_its_own_problems_only(tmp_path, records):
    (tmp_path / "problems.jsonl").write_text('{"source": "mended since"}\n')
    train(CLIP, DATA, small(steps=1), tmp_path, records=records)
    assert not (tmp_path / "problems.jsonl").exists()


def test_resuming_needs_the_same_data(tmp_path, records):
    for others in (records[:40], [*records[:47], replace(records[47], id="another")]):
        out = tmp_path / others[-1].id.replace("/", "-")
        train(CLIP, DATA, small(steps=1), out, records=records)
        kept = (out / RUN_KEYS).read_text()
        with pytest.raises(ConfigError, match="was begun from other data"):
            train(CLIP, DATA, small(steps=1), out, records=others, resume=True)
        assert (out / RUN_KEYS).read_text() == kept
        (out / RUN_KEYS).unlink()  # as in runs that are older than keys
        with pytest.raises(
            ConfigError, match=r"trained on 192 pairs .* these (160|192) .*same data"
        ):
            train(CLIP, DATA, small(steps=1), out, records=others, resume=True)


CACHED = {"accumulate": 2, "ema": 0.9, "clip_grad": 0.5, "save_every": 2}


@pytest.mark.parametrize("fused", [True, False])
def test_a_run_steps_as_it_was_told_and_not_as_its_checkpoint_did(tmp_path, records, fused):
    def interrupted(_):
        raise KeyboardInterrupt

    stopped = small(steps=6, validate_every=4, save_every=2)
    with pytest.raises(KeyboardInterrupt):
        train(CLIP, DATA, stopped, tmp_path, records=records, validate=interrupted)
    last = tmp_path / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)
    for group in state["optimizer"]["param_groups"]:
        group["fused"] = fused
    torch.save(state, last)
    train(CLIP, DATA, small(steps=6), tmp_path, records=records, resume=True)
    assert losses(tmp_path).keys() == {1, 2, 3, 4, 5, 6}


def test_gradient_caching_changes_no_step(tmp_path, records):
    plain = {**REGISTERS.method, "init_args": {"layers": 1}}
    spec = replace(REGISTERS, method=plain)
    for name, chunk in (("whole", None), ("chunks", 6)):
        trainer = small(steps=3, grad_cache_chunk=chunk, **CACHED)
        train(spec, DATA, trainer, tmp_path / name, records=records)
    for whole, chunks in zip(lines(tmp_path / "whole"), lines(tmp_path / "chunks"), strict=True):
        kept = ("loss", "global", "local_mean", "grad_norm")
        assert [chunks[k] for k in kept] == pytest.approx([whole[k] for k in kept], rel=1e-3)


def test_gradient_caching_resumes_exactly(tmp_path, records):
    def interrupted(_):
        raise KeyboardInterrupt

    settings = {**CACHED, "steps": 4, "grad_cache_chunk": 6}
    train(REGISTERS, DATA, small(**settings), tmp_path / "whole", records=records)
    stopped = small(**settings, validate_every=3)
    with pytest.raises(KeyboardInterrupt):
        train(REGISTERS, DATA, stopped, tmp_path / "b", records=records, validate=interrupted)
    train(REGISTERS, DATA, small(**settings), tmp_path / "b", records=records, resume=True)
    assert losses(tmp_path / "b") == losses(tmp_path / "whole")
    whole, resumed = load_model(tmp_path / "whole"), load_model(tmp_path / "b")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_a_chunk_holds_at_least_a_pair():
    with pytest.raises(ConfigError, match="grad_cache_chunk is 0"):
        small(grad_cache_chunk=0)


@pytest.mark.parametrize("settings", [{}, {"steps": 3, "epochs": 1}])
def test_length_is_given_once(settings):
    with pytest.raises(ConfigError, match="either trainer.epochs or trainer.steps"):
        Trainer(**settings)


@pytest.mark.parametrize("chunk", [None, 3])
def test_two_processes_train_as_one(tmp_path, chunk):
    """Half the batch on each of two ranks: the same losses as one process with all of it."""
    common = "train --data.name scenes --data.split train[:12] --backbone scenes-clip"
    common += " --method Registers --trainer.precision 32-true --trainer.log_every 1"
    common += " --trainer.steps 4 --trainer.accelerator cpu"
    two = f"--trainer.batch_size 8 --trainer.devices 2 --trainer.grad_cache_chunk {chunk} --out"
    two = two.replace("None", "null").split()
    assert start(*common.split(), *two, str(tmp_path / "two")).wait(timeout=300) == 0
    main([*common.split(), "--trainer.batch_size", "16", "--out", str(tmp_path / "one")])
    one, both = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert both == pytest.approx(one, rel=1e-4)
    norms = [[row["grad_norm"] for row in lines(tmp_path / name)] for name in ("one", "two")]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    of_one, of_two = (load_model(tmp_path / name).method for name in ("one", "two"))
    for temperature in ("temperature", "local_temperature"):
        a, b = (getattr(method, temperature).logit_scale for method in (of_one, of_two))
        assert a.item() == pytest.approx(b.item(), abs=1e-6)


def start(*arguments: str) -> subprocess.Popen:
    """The command line as a process of its own."""
    command = [sys.executable, "-m", "intarsia", *arguments]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_killed_and_resumed_equals_never_killed(tmp_path):
    """``kill -9`` in mid-epoch, twice; every loss is bit-equal, dropout included."""
    config = tmp_path / "config.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "data": {"name": "scenes", "split": "train[:40]"},
                "backbone": "scenes-clip",
                "method": REGISTERS.method,
                "trainer": {
                    "steps": 24,
                    "batch_size": 16,
                    "precision": "32-true",
                    "log_every": 1,
                    "save_every": 5,
                    "ema": 0.9,
                },
            }
        )
    )
    arguments = ["train", "--config", str(config), "--out"]
    main([*arguments, str(tmp_path / "whole")])
    killed = tmp_path / "killed"
    for at_least in (7, 13):
        process = start(*arguments, str(killed), "--resume")
        deadline = time.monotonic() + 120
        while not (killed / "metrics.jsonl").exists() or max(losses_so_far(killed)) < at_least:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert max(losses_so_far(killed)) < 24
    main([*arguments, str(killed), "--resume"])
    assert losses(killed) == losses(tmp_path / "whole")
    whole, resumed = load_model(tmp_path / "whole"), load_model(killed)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def losses_so_far(out) -> list[int]:
    complete = [x for x in (out / "metrics.jsonl").read_text().splitlines(True) if x[-1] == "\n"]
    return [0, *(json.loads(line)["step"] for line in complete)]
