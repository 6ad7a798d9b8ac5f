"""Weights between a start and what fine-tuning has made of it (WiSE-FT, Wortsman et al. 2022)."""

from __future__ import annotations

import torch

from intarsia.errors import ConfigError
from intarsia.model import Model


@torch.no_grad()
def interpolate(start: Model, model: Model, weight: float) -> None:
    """Move every weight of ``model`` towards ``start``: (1 - weight) * start + weight * model.

    Both must have the same backbone, but for projections of the model's that started as copies of
    the start's (``Backbone.inherited``). What only the method of ``model`` has stays as it is, so
    that the start may be the backbone alone.

    Args:
        start: where fine-tuning began.
        model: the fine-tuned model; changed in place.
        weight: 0 gives the start, 1 the model.

    Raises:
        ConfigError: the weight is not in [0, 1], a parameter is in one of the two only or of
            another shape, or the towers that ``model`` was trained over frozen are others.
    """
    if not 0 <= weight <= 1:
        raise ConfigError(f"weight is {weight}: choose from 0 (the start) to 1 (the model)")
    before, after = model.completed(start.state_dict()), model.state_dict()
    backbones = [{k for k in state if k.startswith("backbone.")} for state in (before, after)]
    odd = backbones[0] ^ backbones[1]
    odd |= {k for k in before.keys() & after.keys() if before[k].shape != after[k].shape}
    if odd:
        raise ConfigError(
            f"the start ({start.backbone.name}) and the model ({model.backbone.name}) do not have "
            f"the same parameters: {len(odd)} differ in name or shape, e.g. {min(odd)}"
        )
    frozen = model.fingerprint()
    for name in before.keys() & after.keys():
        if after[name].is_floating_point():
            after[name].copy_(before[name].to(after[name]).lerp(after[name], weight))
    if frozen != model.fingerprint():
        raise ConfigError(
            f"the start and the model have other towers, which the model was trained over with "
            f"freeze: {model.freeze}: start from the same backbone and seed"
        )
