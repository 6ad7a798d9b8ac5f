"""What a checkpoint or its config does not tell, though its vectors depend on it.

A file of weights knows neither its activation nor the pixels that it was trained on, and a wrong
guess gives other vectors without an error. What can only be guessed is said.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import open_clip
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from intarsia.errors import BackboneError, unknown

logger = logging.getLogger(__name__)

QUICK = "-quickgelu"  # of the architectures of open_clip that have it and a twin that has not
PIXELS = ("mean", "std", "interpolation", "resize_mode")


def tell_activation(arch: str, file: str) -> None:
    """Say which activation is taken for weights that may have been trained with another one.

    Args:
        arch: of open_clip.
        file: the checkpoint, which does not say.
    """
    plain = arch.removesuffix(QUICK)
    quick = f"{plain}{QUICK}"
    if not {plain, quick} <= set(open_clip.list_models()):
        return
    taken, other = ("QuickGELU", "GELU") if arch == quick else ("GELU", "QuickGELU")
    twin = plain if arch == quick else quick
    logger.warning(
        "%s does not say whether it was trained with QuickGELU, and open_clip has %s in both "
        "variants: %s is taken. Whatever started from OpenAI's weights (NegCLIP, say) has "
        "QuickGELU. If it is %s, choose openclip:%s:%s; to confirm, set quick_gelu: %s",
        *(file, plain, taken, other, twin, file, str(arch == quick).lower()),
    )


def pixels_of(arch: str, file: str, like: str | None) -> dict[str, Any]:
    """What open_clip is to do to pictures for a file of weights: what it does for the tags of the
    same architecture, where these agree; else as its default is, which is said.

    Args:
        arch: of open_clip.
        file: the checkpoint, which does not say.
        like: one of the tags; None = not known.

    Raises:
        BackboneError: there is no such tag.
    """
    tags = {tag: _pixels(arch, tag) for tag in open_clip.list_pretrained_tags_by_model(arch)}
    if like is not None:
        if like not in tags:
            raise BackboneError(unknown(f"preprocess of {arch}", like, tags))
        return tags[like]
    default = {name: getattr(PreprocessCfg(), name) for name in PIXELS}
    kinds = list(tags.values()) or [default]
    if all(kind == kinds[0] for kind in kinds):
        return kinds[0]
    logger.warning(
        "%s does not say how its pictures were normalised and cut, in which the weights of %s "
        "differ: open_clip's default is taken. If it started from %s, say so with "
        "preprocess: TAG; to confirm, name another tag",
        *(file, arch, " or ".join(tag for tag, kind in tags.items() if kind != default)),
    )
    return default


def _pixels(arch: str, tag: str) -> dict[str, Any]:
    given = merge_preprocess_dict(PreprocessCfg(), open_clip.get_pretrained_cfg(arch, tag))
    return {name: given[name] for name in PIXELS}


def tell_hidden_act(source: str, config: Mapping[str, Any], taken: Mapping[str, str]) -> None:
    """Say what is doubtful about the activations of a CLIP of transformers.

    Args:
        source: the folder or the name on the hub.
        config: its ``config.json``, as it is.
        taken: the activation of each part ("text_config", "vision_config") as it was understood.
    """
    silent = [part for part in taken if "hidden_act" not in (config.get(part) or {})]
    if silent:
        logger.warning(
            "%s: config.json gives no hidden_act in %s: %s is taken, as in OpenAI's QuickGELU "
            "models; weights that come from open_clip mostly have GELU. Write it into config.json",
            *(source, " and ".join(silent), " and ".join(sorted({taken[p] for p in silent}))),
        )
    elif len(set(taken.values())) > 1:
        logger.warning(
            "%s: the activations of its towers differ (%s), of which a CLIP has one, QuickGELU or "
            "GELU: see hidden_act in config.json",
            *(source, ", ".join(f"{part}: {name}" for part, name in taken.items())),
        )
