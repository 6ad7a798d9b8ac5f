"""The one training loop, for every method and every way of giving features."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import DataLoader

from intarsia.data.problems import Problems
from intarsia.encode.loader import ahead
from intarsia.encode.pairs import LivePairs, Pairs
from intarsia.errors import ConfigError, TrainingError
from intarsia.model import WEIGHTS, Model
from intarsia.ops.ranks import across_ranks
from intarsia.runtime import loading, num_workers, progress_columns, seed_everything
from intarsia.training.checkpoint import (
    LAST,
    pairs_identity,
    random_state,
    random_states,
    read_checkpoint,
    restore_random_state,
    write_checkpoint,
)
from intarsia.training.checks import check_flip
from intarsia.training.finite import FiniteWatch, Stopwatch
from intarsia.training.log import RunLog, problems_listed
from intarsia.training.lora import merge_lora, save_merged
from intarsia.training.optim import WeightAverage, layer_factors, parameter_groups
from intarsia.training.pseudo import PseudoLinks
from intarsia.training.sampler import PairSampler
from intarsia.training.settings import Settings
from intarsia.training.step import GradientStep
from intarsia.types import Batch

Validate = Callable[[Model], dict[str, float]]


def listing(validate: Validate, out: Path, problems: Problems) -> Validate:
    """``validate`` that lists the problems it meets."""

    def validate_and_list(model: Model) -> dict[str, float]:
        with problems_listed(out, problems):
            return validate(model)

    return validate_and_list


class Run:
    """One call of :meth:`intarsia.training.loop.Trainer.fit`: its state between the steps."""

    def __init__(
        self,
        trainer: Settings,
        model: Model,
        pairs: Pairs,
        out: Path,
        seed: int,
        problems: Problems,
        resume: bool,
        links: PseudoLinks | None,
    ) -> None:
        if trainer.flip and not isinstance(pairs, LivePairs):
            check_flip(model)
        self.links = links
        self.trainer, self.pairs, self.out, self.seed = trainer, pairs, out, seed
        self.fabric, self.problems = trainer.fabric, problems
        fabric = self.fabric
        self.last = out / LAST
        trainer.launch()
        seed_everything(seed + self.fabric.global_rank)
        self.model = model.train()
        self.gradients = GradientStep(
            fabric, model, trainer.grad_cache_chunk, compile=trainer.compile
        )
        decay = trainer.layer_decay
        factors = None if decay is None else layer_factors(model, decay)
        groups = parameter_groups(
            model,
            lr=trainer.lr,
            backbone_lr=trainer.backbone_lr,
            weight_decay=trainer.weight_decay,
            factors=factors,
        )
        fused = fabric.device.type in ("cpu", "cuda") and trainer.precision != "16-mixed"
        optimizer: Any = torch.optim.AdamW(groups, fused=fused)
        self.watch = FiniteWatch(fabric.device)
        self.fused = fused
        if fused:
            optimizer.found_inf = self.watch.failed
        self.optimizer: Any = fabric.setup_optimizers(optimizer)
        self.average = WeightAverage(model, trainer.ema) if trainer.ema else None
        self.identity = pairs_identity(pairs)
        self.total = self._total_steps()
        self.step = 0
        self.best = -math.inf
        if resume and self.last.exists():
            self._restore()
        self.log = RunLog(out, self.step) if self.fabric.is_global_zero else None
        self.clock = Stopwatch()

    def _total_steps(self) -> int:
        trainer = self.trainer
        if trainer.steps is not None:
            return trainer.steps
        assert trainer.epochs is not None
        seen = trainer.batch_size * trainer.accumulate * self.fabric.world_size
        return max(1, round(trainer.epochs * len(self.pairs) / seen))

    def _sampler(self) -> PairSampler:
        trainer = self.trainer
        return PairSampler(
            len(self.pairs),
            trainer.batch_size,
            seed=self.seed,
            first=self.step * trainer.accumulate,
            last=self.total * trainer.accumulate,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
            flip=trainer.flip,
        )

    def _loader(self) -> Iterator[Batch]:
        """Batches on the device, prepared by workers unless the pairs are in memory."""
        device, workers = self.fabric.device, self.trainer.num_workers
        if workers is None:
            is_read = isinstance(self.pairs, LivePairs) and self.pairs.pixels is None
            workers = num_workers(device) if is_read else 0
        loader: DataLoader[Batch] = DataLoader(
            self.pairs,  # type: ignore[arg-type]
            sampler=self._sampler(),
            batch_size=None,
            generator=torch.Generator().manual_seed(self.seed),
            **loading(workers, device),
        )
        return ahead(loader, device)

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
            logged = self.step
            while self.step < self.total:
                if self._refresh_links():
                    batches = self._loader()
                losses = self._step(batches)
                self.step += 1
                bar.update(task, completed=self.step)
                if self._is_logged():
                    loss = self._record(losses, self.step - logged)
                    logged = self.step
                    bar.update(task, note=f"loss {loss:.4f}")
                self._pause(validate)
        return self._finish()

    def _refresh_links(self) -> bool:
        """Have the model find the links anew, where an epoch of theirs begins."""
        if self.links is None:
            return False
        if not self.links.are_due(self._epoch(self.step - 1), self._epoch(self.step)):
            return False
        kept = random_state()
        ranks = nullcontext() if self.fabric.world_size == 1 else across_ranks()
        with self._between_steps(), self.fabric.autocast(), ranks:
            num = self.links.refresh(self.model, self.pairs)
        restore_random_state(kept)
        self._write_line({"step": self.step + 1, "links": num})
        return True

    def _epoch(self, step: int) -> int:
        return step * self.trainer.accumulate // self._sampler().steps_per_epoch

    def _step(self, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """The losses and the gradient's norm on the device; only the scaler of 16-mixed waits."""
        trainer = self.trainer
        factor = trainer.schedule.factor(self.step, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        sums: dict[str, Tensor] = {}
        pairs: list[Tensor] = []
        for micro in range(trainer.accumulate):
            batch = self._next(batches)
            last = micro == trainer.accumulate - 1
            pairs.append(batch.pairs.clone())
            losses = self.gradients.add(batch, share=1 / trainer.accumulate, sync=last)
            self.watch.see("loss", losses["loss"], self.step + 1, pairs[-1])
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value / trainer.accumulate
        limit = math.inf if trainer.clip_grad is None else trainer.clip_grad
        norm = self.fabric.clip_gradients(
            self.gradients.module, self.optimizer, max_norm=limit, error_if_nonfinite=False
        )
        assert isinstance(norm, Tensor)
        if trainer.precision != "16-mixed":  # whose scaler skips such a step by itself
            self.watch.see("gradient", norm, self.step + 1, torch.cat(pairs))
        sums["grad_norm"] = norm
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.model)
        return sums

    def _next(self, batches: Iterator[Batch]) -> Batch:
        batch = next(batches)
        if batch.problems:
            with problems_listed(self.out, self.problems):
                for record_id, reason in batch.problems:
                    self.problems.add(record_id, "image", reason)
                self.problems.check()
        return batch

    def _check_finite(self) -> None:
        """Wait for the device; raise if a step since the last check was not finite."""
        seen = self.watch.first_failure()
        if seen is None:
            return
        ids = [self.pairs.record_id(pair) for pair in seen.pairs.tolist()]
        shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        saved = self.last if self.last.exists() else "none yet"
        self._write_line({"step": seen.step, "failed": seen.what, "records": ids})
        raise TrainingError(
            f"the {seen.what} is {seen.value.item()} at step {seen.step}; records of the batch: "
            f"{shown} (all in {self.out / 'metrics.jsonl'}); last good checkpoint: {saved}"
        )

    def _is_logged(self) -> bool:
        return self.step % self.trainer.log_every == 0 or self.step in (1, self.total)

    def _record(self, losses: dict[str, Tensor], num_steps: int) -> float:
        """Log the step's losses and the pace of the last steps; returns what was minimised."""
        self._check_finite()
        trainer = self.trainer
        values = dict(
            zip(losses, torch.stack([x.reshape(()) for x in losses.values()]).tolist(), strict=True)
        )
        rate = trainer.lr * trainer.schedule.factor(self.step - 1, self.total)
        pairs = num_steps * trainer.batch_size * trainer.accumulate * self.fabric.world_size
        pace = {"lr": rate, "pairs_per_s": pairs / self.clock.lap()}
        self._write_line({"step": self.step, **values, **pace})
        return float(values["loss"])

    def _write_line(self, values: dict[str, Any]) -> None:
        if self.log is not None:
            self.log.write(values)

    def _pause(self, validate: Validate | None) -> None:
        """Validation and checkpoints, where the step is one of theirs."""
        done = self.step == self.total
        every = self.trainer.validate_every
        if validate is not None and (done or (every is not None and self.step % every == 0)):
            with self._between_steps():
                self._validate(validate)
        if done or self.step % self.trainer.save_every == 0:
            with self._between_steps():
                self._save()

    @contextmanager
    def _between_steps(self) -> Iterator[None]:
        """Something is done with weights that are finite; it takes no time of the steps."""
        self._check_finite()
        with self.clock.paused():
            yield

    def _validate(self, validate: Validate) -> None:
        self._swap_average()
        kept = random_state()
        metrics = validate(self.model)
        restore_random_state(kept)
        self._write_line({"step": self.step, **{f"val_{k}": v for k, v in metrics.items()}})
        score = next(iter(metrics.values()))
        if score > self.best and self.fabric.is_global_zero:
            self.best = score
            save_merged(self.model, self.out / "checkpoints" / "best.safetensors")
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
            "links": None if self.links is None else self.links.state(),
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
        for group in self.optimizer.param_groups:  # as this run steps, not as that one did
            group["fused"] = self.fused
        if self.average is not None and state["average"] is not None:
            for name, tensor in state["average"].items():
                self.average.shadow[name].copy_(tensor)
        self.step, self.best = state["step"], state["best"]
        if self.links is not None:
            self.links.restore(state["links"], self.pairs)
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
        merge_lora(self.model)
        if self.fabric.is_global_zero:
            self.model.save(weights)
        if self.log is not None:
            self.log.close()
        return weights
