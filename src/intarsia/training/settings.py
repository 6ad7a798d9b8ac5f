"""Everything about training that is not the model or the data, as it is set."""

from __future__ import annotations

import os
from dataclasses import asdict
from inspect import signature
from typing import Any, Literal

from lightning_fabric import Fabric

from intarsia.errors import ConfigError
from intarsia.runtime import best_device, multiplies_bfloat16
from intarsia.training.sampler import check_batch
from intarsia.training.schedule import Schedule

Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]


class Settings:
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
        layer_decay: factor of the rate from each block of a tower to the one below it, for
            fine-tuning that keeps what lies deep (0.75, say); None = one rate for all.
        weight_decay: of AdamW, on matrices only.
        schedule: learning rate over time.
        clip_grad: largest gradient norm; None = no clipping.
        ema: decay of the moving average of the weights that is saved; None = the weights.
        flip: mirror half of the pictures, their boxes with them, drawn anew each epoch; never one
            whose captions say left or right.
        precision: of Lightning Fabric; losses are float32 in all of them. "auto" is bf16-mixed
            where the device multiplies bfloat16 itself, else 32-true: a processor that only
            emulates it is slower so. Products of float32 stay exact (no TF32, as is torch's
            default): speed is in mixed precision. In 16-mixed a loss that is not finite stops the
            run at the next log line, but steps until then are only left out where their gradients
            are not finite either.
        checkpointing: keep the inputs of the towers' blocks alone and run each block again on the
            way back: far less memory, a third more time, the same gradients.
        patch_dropout: share of the patches that a ViT does not see of each picture, drawn anew at
            every step, for methods that do not look at patches; half of them is twice as fast.
        compile: run towers and method through ``torch.compile``, the losses as they are. The first
            steps take minutes, and a batch of another shape (longer texts) may compile again.
        log_every: steps between two lines of ``metrics.jsonl``. Only there, and before weights are
            saved or validated, does the loop wait for the device and look at what it gave.
        save_every: steps between two checkpoints.
        validate_every: steps between two validations; None = at the end only.
        devices: how many, or "auto".
        accelerator: of Lightning Fabric ("auto", "cpu", "cuda", "mps").
        num_workers: processes that prepare batches; None = as many as help: none for pairs held in
            memory, or on a CPU, whose cores they would take.
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
        layer_decay: float | None = None,
        weight_decay: float = 0.05,
        schedule: Schedule = Schedule(),  # noqa: B008  frozen
        clip_grad: float | None = 1.0,
        ema: float | None = None,
        flip: bool = False,
        precision: Precision = "auto",
        checkpointing: bool = False,
        patch_dropout: float = 0.0,
        compile: bool = False,
        log_every: int = 10,
        save_every: int = 200,
        validate_every: int | None = None,
        devices: int | Literal["auto"] = 1,
        accelerator: str = "auto",
        num_workers: int | None = None,
    ) -> None:
        if (epochs is None) == (steps is None):
            raise ConfigError("give either trainer.epochs or trainer.steps")
        _require_whole(
            steps=steps,
            batch_size=batch_size,
            accumulate=accumulate,
            grad_cache_chunk=grad_cache_chunk,
            log_every=log_every,
            save_every=save_every,
            validate_every=validate_every,
        )
        if num_workers is not None and num_workers < 0:
            raise ConfigError(f"trainer.num_workers is {num_workers}: give at least 0, or null")
        _require_positive(epochs=epochs, lr=lr, clip_grad=clip_grad)
        if ema is not None and not 0 < ema < 1:
            raise ConfigError(f"trainer.ema is {ema}: give a decay between 0 and 1, or null")
        self.epochs, self.steps = epochs, steps
        self.batch_size, self.accumulate = batch_size, accumulate
        self.grad_cache_chunk = grad_cache_chunk
        self.lr, self.backbone_lr, self.weight_decay = lr, backbone_lr, weight_decay
        self.layer_decay, self.flip = layer_decay, flip
        self.schedule, self.clip_grad, self.ema = schedule, clip_grad, ema
        self.log_every, self.save_every = log_every, save_every
        self.validate_every = validate_every
        self.asked_precision = precision
        if precision == "auto":
            asked = {"auto": best_device().type, "gpu": "cuda"}.get(accelerator, accelerator)
            precision = "bf16-mixed" if multiplies_bfloat16(asked) else "32-true"
        self.num_workers, self.precision, self.compile = num_workers, precision, compile
        self.checkpointing, self.patch_dropout = checkpointing, patch_dropout
        self.devices, self.accelerator = devices, accelerator
        self.fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            precision=precision,
            # a method may leave outputs of its backbone unused
            strategy="auto" if devices == 1 else "ddp_find_unused_parameters_true",
        )

        self._launched = False

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values, as they were asked for."""
        values = {name: getattr(self, name) for name in signature(Settings).parameters}
        return values | {"schedule": asdict(self.schedule), "precision": self.asked_precision}

    def launch(self) -> Fabric:
        """Start the other processes, if there are to be any; a second call does nothing.

        Raises:
            ConfigError: other processes were launched than are asked for, or the batch of all of
                them is a single pair.
        """
        if not self._launched:
            self.fabric.launch()
            self._launched = True
            if int(os.environ.get("WORLD_SIZE", 1)) != self.fabric.world_size:
                raise ConfigError(
                    f"{os.environ['WORLD_SIZE']} processes were launched, but trainer.devices "
                    f"makes {self.fabric.world_size}: set trainer.devices to those of one machine"
                )
        check_batch(self.batch_size, self.fabric.world_size)
        return self.fabric


def _require_whole(**settings: int | None) -> None:
    for name, value in settings.items():
        if value is not None and value < 1:
            raise ConfigError(f"trainer.{name} is {value}: give at least 1")


def _require_positive(**settings: float | None) -> None:
    for name, value in settings.items():
        if value is not None and not value > 0:
            raise ConfigError(f"trainer.{name} is {value}: nothing is learnt; give more than 0")
