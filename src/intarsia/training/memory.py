"""Less memory for the towers that train: activations made anew, patches left out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from intarsia.backbones.base import SIDES, Backbone
from intarsia.errors import ConfigError
from intarsia.model import Model


@contextmanager
def recomputed(backbone: Backbone) -> Iterator[None]:
    """Inside, a tower's blocks keep their inputs alone and are run again on the way back:
    activation checkpointing (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost").
    Gradients are the same; a step costs up to a third more.

    Raises:
        ConfigError: a tower that trains has no blocks.
    """
    blocks = []
    for side in SIDES:
        towers = backbone.towers_of(side)
        found = [block for tower in towers for block in blocks_of(tower)]
        if not found and any(p.requires_grad for tower in towers for p in tower.parameters()):
            raise ConfigError(
                f"trainer.checkpointing: the {side} tower of {backbone.name} has no blocks: set it "
                "to false"
            )
        blocks += found
    for block in blocks:
        block.forward = partial(
            checkpoint,
            block.forward,
            use_reentrant=False,
            context_fn=partial(_both_times, block),
        )
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


@contextmanager
def patches_dropped(model: Model, share: float) -> Iterator[None]:
    """Inside, the image tower in training mode sees each picture without a ``share`` of its
    patches, drawn anew (Li et al. 2023, "Scaling Language-Image Pre-training via Masking").

    Raises:
        ConfigError: ``share`` is not in [0, 1), the tower is no transformer over patches, or the
            method looks at them.
    """
    backbone = model.backbone
    if "patches" in model.method.needs:
        raise ConfigError(
            f"trainer.patch_dropout: {type(model.method).__name__} looks at all patches: set it "
            "to 0, or choose a method of global vectors"
        )
    if not 0 <= share < 1:
        raise ConfigError(f"trainer.patch_dropout is {share}: give a share from 0 to below 1")
    blocks = [block for tower in backbone.towers_of("image") for block in blocks_of(tower)]
    most = backbone.dims.num_patches
    _refuse_other_than_patches(backbone, blocks)

    def drop(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not block.training:
            return None
        if args:
            return (_without(args[0], share, most), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": _without(kwargs["hidden_states"], share, most)}

    handle = blocks[0].register_forward_pre_hook(drop, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def blocks_of(tower: nn.Module) -> list[nn.Module]:
    """The blocks that a tower is a pile of: its outermost list of two modules or more of a kind."""
    for module in tower.modules():
        children = list(module.children())
        is_pile = isinstance(module, nn.ModuleList | nn.Sequential) and len(children) > 1
        if is_pile and len({type(child) for child in children}) == 1:
            return children
    return []


def _both_times(
    block: nn.Module,
) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """The second time, batch normalisation leaves its running statistics as they are."""
    return nullcontext(), _statistics_kept(block)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


@torch.no_grad()
def _refuse_other_than_patches(backbone: Backbone, blocks: list[nn.Module]) -> None:
    """Only a tower whose first block gets (B, tokens, W), the patches last, can do without some."""
    shapes: list[torch.Size] = []
    if blocks:

        def see(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            shapes.append((args[0] if args else kwargs["hidden_states"]).shape)

        handle = blocks[0].register_forward_pre_hook(see, with_kwargs=True)
        size = backbone.transform.size
        device = next(backbone.parameters()).device
        backbone.image_states(torch.zeros(2, 3, size, size, dtype=torch.uint8, device=device))
        handle.remove()
    fits = [s for s in shapes if len(s) == 3 and s[0] == 2 and s[1] >= backbone.dims.num_patches]
    if not fits:
        raise ConfigError(
            f"trainer.patch_dropout: the image tower of {backbone.name} is no transformer over "
            "patches: set it to 0"
        )


def _without(tokens: Tensor, share: float, num_patches: int) -> Tensor:
    """(B,N,W) -> (B,n,W): all that comes before the patches, and the patches but for a share."""
    first = tokens.shape[1] - num_patches
    kept = max(1, round((1 - share) * num_patches))
    order = torch.rand(len(tokens), num_patches, device=tokens.device).argsort(1)[:, :kept]
    places = order.sort(1).values[..., None].expand(-1, -1, tokens.shape[2])
    return torch.cat([tokens[:, :first], tokens[:, first:].gather(1, places)], 1)
