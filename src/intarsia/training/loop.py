"""The one training loop, for every method and every way of giving features."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import DataLoader

from intarsia.data.problems import Problems
from intarsia.errors import ConfigError, TrainingError
from intarsia.features.pairs import Pairs
from intarsia.model import WEIGHTS, Model
from intarsia.runtime import progress_columns, seed_everything
from intarsia.training.checkpoint import (
    pairs_identity,
    random_state,
    random_states,
    read_checkpoint,
    restore_random_state,
    write_checkpoint,
)
from intarsia.training.log import RunLog, problems_listed
from intarsia.training.optim import Schedule, WeightAverage, parameter_groups
from intarsia.training.sampler import PairSampler
from intarsia.training.step import GradientStep
from intarsia.types import Batch

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
Validate = Callable[[Model], dict[str, float]]
LAST = Path("checkpoints") / "last.ckpt"


class Trainer:
    """Everything about training that is not the model or the data.

    Args:
        epochs: passes over all pairs; give this or ``steps``.
        steps: optimiser steps.
        batch_size: pairs a device and micro-step.
        accumulate: micro-steps a step; their gradients are averaged.
        grad_cache_chunk: pairs embedded at a time, so that ``batch_size`` may be far beyond memory:
            gradient caching (Gao et al. 2021). The gradients stay exact, with every pair of the
            batch contrasted with every other, and a step costs one more forward pass. No layer in
            training mode may be a BatchNorm. None = the whole batch at once.
        lr: peak learning rate.
        backbone_lr: another peak rate for the backbone; None = ``lr``.
        weight_decay: of AdamW, on matrices only.
        schedule: learning rate over time.
        clip_grad: largest gradient norm; None = no clipping.
        ema: decay of the moving average of the weights that is saved; None = the weights.
        precision: of Lightning Fabric; losses are float32 in all of them.
        log_every: steps between two lines of ``metrics.jsonl``.
        save_every: steps between two checkpoints.
        validate_every: steps between two validations; None = at the end only.
        devices: how many, or "auto".
        accelerator: of Lightning Fabric ("auto", "cpu", "cuda", "mps").
        num_workers: of the data loader; pairs held in memory need none.
    """

    def __init__(
        self,
        *,
        epochs: float | None = None,
        steps: int | None = None,
        batch_size: int = 256,
        accumulate: int = 1,
        grad_cache_chunk: int | None = None,
        lr: float = 1e-3,
        backbone_lr: float | None = None,
        weight_decay: float = 0.05,
        schedule: Schedule = Schedule(),  # noqa: B008  frozen
        clip_grad: float | None = 1.0,
        ema: float | None = None,
        precision: Precision = "bf16-mixed",
        log_every: int = 10,
        save_every: int = 200,
        validate_every: int | None = None,
        devices: int | Literal["auto"] = 1,
        accelerator: str = "auto",
        num_workers: int = 0,
    ) -> None:
        if (epochs is None) == (steps is None):
            raise ConfigError("give either trainer.epochs or trainer.steps")
        if grad_cache_chunk is not None and grad_cache_chunk < 1:
            raise ConfigError(
                f"trainer.grad_cache_chunk is {grad_cache_chunk}: give at least 1 pair, or null"
            )
        self.epochs, self.steps = epochs, steps
        self.batch_size, self.accumulate = batch_size, accumulate
        self.grad_cache_chunk = grad_cache_chunk
        self.lr, self.backbone_lr, self.weight_decay = lr, backbone_lr, weight_decay
        self.schedule, self.clip_grad, self.ema = schedule, clip_grad, ema
        self.log_every, self.save_every = log_every, save_every
        self.validate_every = validate_every
        self.num_workers, self.precision = num_workers, precision
        self.fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            precision=precision,
            # a method may leave outputs of its backbone unused
            strategy="auto" if devices == 1 else "ddp_find_unused_parameters_true",
        )

        self._launched = False

    def launch(self) -> Fabric:
        """Start the other processes, if there are to be any; a second call does nothing."""
        if not self._launched:
            self.fabric.launch()
            self._launched = True
            if int(os.environ.get("WORLD_SIZE", 1)) != self.fabric.world_size:
                raise ConfigError(
                    f"{os.environ['WORLD_SIZE']} processes were launched, but trainer.devices "
                    f"makes {self.fabric.world_size}: set trainer.devices to those of one machine"
                )
        return self.fabric

    def fit(
        self,
        model: Model,
        pairs: Pairs,
        out: Path,
        *,
        seed: int = 0,
        resume: bool = False,
        validate: Validate | None = None,
        problems: Problems | None = None,
        validation_problems: Problems | None = None,
        description: str = "training",
    ) -> Path:
        """Train; leave ``model.safetensors``, ``metrics.jsonl`` and ``checkpoints/`` in ``out``.

        The model ends with the weights that are saved. ``problems`` and ``validation_problems``
        (what ``validate`` adds to) are listed in ``problems.jsonl`` as they come.

        Returns:
            The path of the final weights.

        Raises:
            ConfigError: the checkpoint to resume from is of another seed, of other pairs or of
                another number of processes, or the model cannot train with ``grad_cache_chunk``.
            TrainingError: the loss or a gradient is not finite.
        """
        problems = Problems() if problems is None else problems
        with problems_listed(out, problems):
            run = _Run(self, model, pairs, out, seed, problems, resume)
        if validate is not None and validation_problems is not None:
            validate = _listing(validate, out, validation_problems)
        return run.complete(validate, description)


def _listing(validate: Validate, out: Path, problems: Problems) -> Validate:
    def validate_and_list(model: Model) -> dict[str, float]:
        with problems_listed(out, problems):
            return validate(model)

    return validate_and_list


class _Run:
    """One call of :meth:`Trainer.fit`: its state between the steps."""

    def __init__(
        self,
        trainer: Trainer,
        model: Model,
        pairs: Pairs,
        out: Path,
        seed: int,
        problems: Problems,
        resume: bool,
    ) -> None:
        self.trainer, self.pairs, self.out, self.seed = trainer, pairs, out, seed
        self.fabric, self.problems = trainer.fabric, problems
        fabric = self.fabric
        self.last = out / LAST
        trainer.launch()
        seed_everything(seed + self.fabric.global_rank)
        self.model = model.train()
        self.gradients = GradientStep(fabric, model, trainer.grad_cache_chunk)
        groups = parameter_groups(
            model,
            lr=trainer.lr,
            backbone_lr=trainer.backbone_lr,
            weight_decay=trainer.weight_decay,
        )
        fused = fabric.device.type in ("cpu", "cuda") and trainer.precision != "16-mixed"
        self.optimizer: Any = fabric.setup_optimizers(torch.optim.AdamW(groups, fused=fused))
        self.average = WeightAverage(model, trainer.ema) if trainer.ema else None
        self.identity = pairs_identity(pairs)
        self.total = self._total_steps()
        self.step = 0
        self.best = -math.inf
        if resume and self.last.exists():
            self._restore()
        self.log = RunLog(out, self.step) if self.fabric.is_global_zero else None

    def _total_steps(self) -> int:
        trainer = self.trainer
        if trainer.steps is not None:
            return trainer.steps
        assert trainer.epochs is not None
        seen = trainer.batch_size * trainer.accumulate * self.fabric.world_size
        return max(1, round(trainer.epochs * len(self.pairs) / seen))

    def _loader(self) -> Iterator[Batch]:
        trainer = self.trainer
        sampler = PairSampler(
            len(self.pairs),
            trainer.batch_size,
            seed=self.seed,
            first=self.step * trainer.accumulate,
            last=self.total * trainer.accumulate,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
        )
        workers = trainer.num_workers
        return iter(
            DataLoader(
                self.pairs,  # type: ignore[arg-type]
                sampler=sampler,
                batch_size=None,
                num_workers=workers,
                multiprocessing_context="forkserver" if workers else None,
                generator=torch.Generator().manual_seed(self.seed),
                pin_memory=self.fabric.device.type == "cuda",
            )
        )

    def complete(self, validate: Validate | None, description: str) -> Path:
        trainer = self.trainer
        batches = self._loader()
        console = Console(stderr=True)
        shown = self.fabric.is_global_zero
        with Progress(*progress_columns(), console=console, disable=not shown) as bar:
            task = bar.add_task(
                description,
                total=self.total,
                completed=self.step,
                note="",
                unit=trainer.batch_size * trainer.accumulate * self.fabric.world_size,
            )
            while self.step < self.total:
                started = time.perf_counter()
                losses = self._step(batches)
                self.step += 1
                bar.update(task, completed=self.step, note=f"loss {losses['loss']:.4f}")
                self._record(losses, time.perf_counter() - started)
                self._pause(validate)
        return self._finish()

    def _step(self, batches: Iterator[Batch]) -> dict[str, float]:
        trainer = self.trainer
        factor = trainer.schedule.factor(self.step, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        sums: dict[str, Tensor] = {}
        for micro in range(trainer.accumulate):
            batch = self._next(batches)
            last = micro == trainer.accumulate - 1
            losses = self.gradients.add(batch, share=1 / trainer.accumulate, sync=last)
            self._check_finite("loss", losses["loss"], batch)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value / trainer.accumulate
        limit = math.inf if trainer.clip_grad is None else trainer.clip_grad
        norm = self.fabric.clip_gradients(
            self.gradients.module, self.optimizer, max_norm=limit, error_if_nonfinite=False
        )
        assert isinstance(norm, Tensor)
        if trainer.precision != "16-mixed":  # whose scaler skips such a step by itself
            self._check_finite("gradient", norm, batch)
        sums["grad_norm"] = norm
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.model)
        return {name: float(value) for name, value in sums.items()} | {"lr": trainer.lr * factor}

    def _next(self, batches: Iterator[Batch]) -> Batch:
        batch = next(batches)
        if batch.problems:
            with problems_listed(self.out, self.problems):
                for record_id, reason in batch.problems:
                    self.problems.add(record_id, "image", reason)
                self.problems.check()
        return batch.to(self.fabric.device)

    def _check_finite(self, what: str, value: Tensor, batch: Batch) -> None:
        if torch.isfinite(value):
            return
        ids = [self.pairs.record_id(pair) for pair in batch.pairs.tolist()]
        shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        saved = self.last if self.last.exists() else "none yet"
        self._write_line({"step": self.step, "failed": what, "records": ids})
        raise TrainingError(
            f"the {what} is {value.item()} at step {self.step}; records of the batch: {shown} "
            f"(all in {self.out / 'metrics.jsonl'}); last good checkpoint: {saved}"
        )

    def _record(self, losses: dict[str, float], seconds: float) -> None:
        trainer = self.trainer
        if self.step % trainer.log_every == 0 or self.step == self.total or self.step == 1:
            pairs = trainer.batch_size * trainer.accumulate * self.fabric.world_size
            self._write_line({"step": self.step, **losses, "pairs_per_s": pairs / seconds})

    def _write_line(self, values: dict[str, Any]) -> None:
        if self.log is not None:
            self.log.write(values)

    def _pause(self, validate: Validate | None) -> None:
        """Validation and checkpoints, where the step is one of theirs."""
        done = self.step == self.total
        every = self.trainer.validate_every
        if validate is not None and (done or (every is not None and self.step % every == 0)):
            self._validate(validate)
        if done or self.step % self.trainer.save_every == 0:
            self._save()

    def _validate(self, validate: Validate) -> None:
        self._swap_average()
        kept = random_state()
        metrics = validate(self.model)
        restore_random_state(kept)
        self._write_line({"step": self.step, **{f"val_{k}": v for k, v in metrics.items()}})
        score = next(iter(metrics.values()))
        if score > self.best and self.fabric.is_global_zero:
            self.best = score
            self.model.save(self.out / "checkpoints" / "best.safetensors")
        self._swap_average()
        self.model.train()

    def _swap_average(self) -> None:
        if self.average is not None:
            self.average.swap(self.model)

    def _save(self) -> None:
        state = {
            "step": self.step,
            "seed": self.seed,
            "data": self.identity,
            "best": self.best,
            "model": self.model.trained_state(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.shadow,
            "precision": self.fabric.strategy.precision.state_dict(),
            "random": random_states(self.fabric),
        }
        if self.fabric.is_global_zero:
            write_checkpoint(self.last, state)

    def _restore(self) -> None:
        state = read_checkpoint(self.last)
        if state["seed"] != self.seed:
            raise ConfigError(
                f"{self.last} was trained with --seed {state['seed']}, not {self.seed}"
            )
        if (known := state.get("data", self.identity)) != self.identity:
            raise ConfigError(
                f"{self.last} was trained on {known['pairs']} pairs (hash {known['records']} of "
                f"their record ids), not on these {self.identity['pairs']} "
                f"({self.identity['records']}): resume with the same data, or choose another --out"
            )
        self.model.load_state_dict(state["model"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None and state["average"] is not None:
            for name, tensor in state["average"].items():
                self.average.shadow[name].copy_(tensor)
        self.step, self.best = state["step"], state["best"]
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        if len(state["random"]) != self.fabric.world_size:
            raise ConfigError(
                f"{self.last} was written by {len(state['random'])} processes, "
                f"not {self.fabric.world_size}: resume with as many devices"
            )
        restore_random_state(state["random"][self.fabric.global_rank])

    def _finish(self) -> Path:
        weights = self.out / WEIGHTS
        self._swap_average()
        if self.fabric.is_global_zero:
            self.model.save(weights)
        if self.log is not None:
            self.log.close()
        return weights
