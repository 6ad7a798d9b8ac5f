"""Parameter groups and weight averages."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from intarsia.errors import ConfigError
from intarsia.model import Model
from intarsia.training.checks import check_layer_decay


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    backbone_lr: float | None,
    weight_decay: float,
    factors: Mapping[str, float] | None = None,
) -> list[dict[str, object]]:
    """AdamW groups: the backbone's rate apart, no decay on vectors, biases and temperatures.

    Args:
        model: what trains.
        lr: the rate.
        backbone_lr: another for the backbone.
        weight_decay: on matrices.
        factors: of the rates of some parameters, by name; see :func:`layer_factors`.

    Raises:
        ConfigError: nothing is left to train.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            tower = name.startswith("backbone.") and backbone_lr is not None
            rate = backbone_lr if tower and backbone_lr is not None else lr
            rate *= (factors or {}).get(name, 1.0)
            decay = weight_decay if parameter.ndim >= 2 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    if not groups:
        raise ConfigError("nothing to train: the backbone is frozen and the method has no weights")
    return [
        {"params": parameters, "lr": rate, "base_lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def layer_factors(model: Model, decay: float) -> dict[str, float]:
    """``decay`` to the power of each parameter's depth in its tower (Clark et al. 2020, BEiT).

    Raises:
        ConfigError: the decay is not in (0, 1], or all towers are frozen.
    """
    check_layer_decay(model, decay)
    depths = model.backbone.depths()
    return {f"backbone.{name}": decay**depth for name, depth in depths.items()}


class WeightAverage:
    """Exponential moving average of the trained tensors, in float32."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {
            name: p.detach().float().clone() for name, p in model.named_parameters() if _trains(p)
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        own = dict(model.named_parameters())
        weights = [own[name].float() for name in self.shadow]
        torch._foreach_lerp_([*self.shadow.values()], weights, 1 - self.decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the model's weights with the averages; a second call undoes the first."""
        for name, parameter in model.named_parameters():
            if name in self.shadow:
                kept: Tensor = parameter.detach().float().clone()
                parameter.copy_(self.shadow[name])
                self.shadow[name] = kept


def _trains(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad
