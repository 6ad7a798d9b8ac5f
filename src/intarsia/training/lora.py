"""Low-rank adapters (Hu et al. 2021) in the towers, there only while a model trains."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from intarsia.backbones.base import Backbone
from intarsia.errors import ConfigError
from intarsia.model import Model


@dataclass(frozen=True)
class LoraSpec:
    """LoRA in the towers that are not frozen: their own weights stay as they are.

    The projections and the method train as ever. What is saved in the end has the adapters added
    to the weights that they adapt, so that the model is an ordinary one.

    Args:
        rank: of each adapter.
        alpha: an adapter is scaled by alpha / rank.
        targets: linear layers to adapt, by the last part of their names; None = those that the
            backbone names (attention, or the MLP of open_clip's own transformers).
    """

    rank: int = 8
    alpha: int = 16
    targets: tuple[str, ...] | None = None


def add_lora(model: Model, spec: LoraSpec) -> None:
    """Put adapters into the towers of ``model``; each starts as zero.

    Raises:
        ConfigError: the rank is below 1, no tower trains, or no layer is one of the targets.
    """
    if spec.rank < 1:
        raise ConfigError(f"lora.rank is {spec.rank}: give at least 1")
    backbone = model.backbone
    layers = _layers(backbone)
    if not layers:
        raise ConfigError(
            f"lora adapts towers, but freeze: {model.freeze} leaves none of {backbone.name} to "
            "train: choose freeze none, image or text"
        )
    names = {_last(name) for name in layers}
    wanted = backbone.lora_targets & names if spec.targets is None else set(spec.targets)
    if not wanted or wanted - names:
        raise ConfigError(
            f"lora.targets {sorted(wanted - names) or 'null'}: no linear layer that trains in "
            f"{backbone.name} is called so; choose from {', '.join(sorted(names))}"
        )
    inside = {id(p) for tower in backbone.towers() for p in tower.parameters()}
    others = [p for p in backbone.parameters() if p.requires_grad and id(p) not in inside]
    targets = [name for name in layers if _last(name) in wanted]
    config = LoraConfig(r=spec.rank, lora_alpha=spec.alpha, target_modules=targets)
    inject_adapter_in_model(config, backbone)
    for parameter in others:
        parameter.requires_grad_(True)


def merge_lora(model: Model) -> None:
    """Add the adapters to the weights that they adapt, and take them out."""
    for name, module in list(model.backbone.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.backbone.get_submodule(parent), child, module.get_base_layer())


def save_merged(model: Model, path: Path) -> None:
    """``model.save`` with the adapters merged; the model itself keeps them apart."""
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        model = copy.deepcopy(model)
        merge_lora(model)
    model.save(path)


def _layers(backbone: Backbone) -> list[str]:
    """Linear layers of towers that train, but those inside torch's attention, which never calls
    them: it reads their weights."""
    names = {id(module): name for name, module in backbone.named_modules()}
    towers = [t for t in backbone.towers() if any(p.requires_grad for p in t.parameters())]
    modules = [module for tower in towers for module in tower.modules()]
    inside = {
        id(part)
        for module in modules
        if isinstance(module, nn.MultiheadAttention)
        for part in module.modules()
    }
    linear = [m for m in modules if isinstance(m, nn.Linear) and id(m) not in inside]
    return [names[id(module)] for module in linear]


def _last(name: str) -> str:
    return name.rpartition(".")[2]
