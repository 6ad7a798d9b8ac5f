"""open_clip models: CLIP, CLIP with a text tower of its own, CoCa, SigLIP."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from intarsia.backbones.base import Backbone, ImageTransform, Tokenizer
from intarsia.backbones.checkpoints import reading
from intarsia.backbones.openclip_towers import apply_projection, text_tower, vision_tower
from intarsia.backbones.patches import multiply_patches
from intarsia.backbones.processing import context_of
from intarsia.backbones.tokens import clip_tokens, fast_tokens
from intarsia.backbones.unsaid import pixels_of, tell_activation
from intarsia.errors import BackboneError, unknown
from intarsia.types import Dense, Dims, Features, TokenBatch

LOCAL = "local-dir:"
OTHER_WEIGHTS = "other.safetensors"
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class OpenClipBackbone(Backbone):
    """A model of open_clip, its towers and its joint projections kept apart.

    Args:
        model: made with ``force_custom_text=True``, so that the text tower is one module.
        tokenizer: ``SimpleTokenizer`` or ``HFTokenizer``.
        arch: the architecture's name, or ``local-dir:FOLDER``.
        context_length: cut texts to this many tokens; None = as the model was trained.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, arch: str, context_length: int | None = None
    ) -> None:
        super().__init__()
        self.name = f"openclip:{arch}"
        self.arch = arch
        self._preprocess_cfg = dict(model.visual.preprocess_cfg)
        self.transform = image_transform(self._preprocess_cfg)
        self._other_weights = {
            k: v.detach().clone()
            for k, v in model.state_dict().items()
            if not k.startswith(("visual.", "text."))
        }
        self.vision = vision_tower(model.visual)
        multiply_patches(self.vision)
        self.text = text_tower(model.text)
        self._tokenizer = tokenizer
        width, most = _config(arch)["embed_dim"], int(tokenizer.context_length)
        context = context_of(context_length, most, arch)
        scale = self._other_weights["logit_scale"].exp().item()
        own_bias = self._other_weights.get("logit_bias")
        bias = None if own_bias is None else own_bias.item()
        self.dims = Dims(width, self.vision.grid, context, scale, bias)

    @property
    def tokenizer(self) -> Tokenizer:
        length, pad = self.dims.context, not self.text.causal
        make = clip_tokens if isinstance(self._tokenizer, SimpleTokenizer) else _fast_tokens
        return partial(make, self._tokenizer, length=length, pad_to_length=pad)

    def image_states(self, pixels: Tensor, *, dense: Dense | None = None) -> Features:
        pooled, patches = self.vision.states(self.normalised(pixels), dense)
        return Features(image_global=pooled, image_patches=patches)

    def text_states(self, tokens: TokenBatch) -> Features:
        pooled, states = self.text.states(tokens.ids)
        return Features(text_global=pooled, text_tokens=states, text_mask=tokens.mask)

    def project(self, states: Features) -> Features:
        image, text = self.vision.projection, self.text.projection
        return Features(
            image_global=apply_projection(image, states.image_global),
            image_patches=apply_projection(image, states.image_patches),
            text_global=apply_projection(text, states.text_global),
            text_tokens=apply_projection(text, states.text_tokens),
            text_mask=states.text_mask,
        )

    def towers(self) -> list[nn.Module]:
        return [*self.vision.towers(), *self.text.towers()]

    def take_temperature(self, logit_scale: Tensor, logit_bias: Tensor | None = None) -> None:
        """Make a trained (log) temperature the exported model's own; a bias of its own, unless one
        was trained as well, keeps its threshold."""
        before = self._other_weights["logit_scale"]
        bias = self._other_weights.get("logit_bias")
        if bias is not None and logit_bias is not None:
            self._other_weights["logit_bias"] = logit_bias.detach().clone().view_as(bias)
        elif bias is not None:
            ratio = (logit_scale.detach().cpu() - before.cpu()).exp()
            self._other_weights["logit_bias"] = bias.cpu() * ratio
        self._other_weights["logit_scale"] = logit_scale.detach().clone().view_as(before)

    def export(self, folder: Path) -> None:
        """Write an ordinary open_clip folder, which ``local-dir:FOLDER`` loads anywhere."""
        self.keep(folder)
        (folder / OTHER_WEIGHTS).unlink()
        model = _config(self.arch)
        separate = model.get("custom_text") or "hf_model_name" in model["text_cfg"]
        prefix = "text." if separate else ""
        state = {f"visual.{k}": v for k, v in self.vision.released().items()}
        state |= {f"{prefix}{k}": v for k, v in self.text.released().items()}
        state |= self._other_weights
        tensors = {k: v.detach().cpu().clone().contiguous() for k, v in state.items()}
        save_file(tensors, folder / "open_clip_model.safetensors", metadata={"format": "pt"})

    def keep(self, folder: Path) -> None:
        """The weights of what is neither tower (CoCa's decoder) are no run's: they are kept too."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {"model_cfg": _config(self.arch), "preprocess_cfg": self._preprocess_cfg}
        (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2))
        others = {k: v.cpu().contiguous() for k, v in self._other_weights.items()}
        save_file(others, folder / OTHER_WEIGHTS)
        if isinstance(self._tokenizer, HFTokenizer):
            self._tokenizer.save_pretrained(folder)


def load_openclip(
    arch: str,
    pretrained: str | None = None,
    *,
    quick_gelu: bool | None = None,
    preprocess: str | None = None,
    context_length: int | None = None,
    weights: bool = True,
) -> OpenClipBackbone:
    """Load an open_clip model.

    Args:
        arch: a name of ``open_clip.list_models()``, or ``local-dir:FOLDER``.
        pretrained: a tag of open_clip, or a checkpoint file (safetensors, or a ``.pt`` that
            ``torch.load(weights_only=True)`` reads, such as NegCLIP's); None = random weights.
        quick_gelu: whether a checkpoint file was trained with QuickGELU (all that start from
            OpenAI's weights were); contradicting ``arch`` is an error. Tags know it themselves;
            where nothing tells, it is said what is taken.
        preprocess: the tag of ``arch`` whose pictures a checkpoint file was trained on (mean,
            deviation, resizing); None = as of all of its tags, where they agree.
        context_length: cut texts to this many tokens.
        weights: False takes from a folder what :meth:`OpenClipBackbone.keep` wrote, with random
            towers.

    Raises:
        BackboneError: unknown name, tag or file; a tower without patches; weights that do not
            fit; a pickle that holds more than tensors; the wrong activation.
    """
    if not arch.startswith(LOCAL) and arch not in open_clip.list_models():
        near = get_close_matches(arch, open_clip.list_models(), n=8, cutoff=0.3)
        raise BackboneError(unknown("open_clip architecture", arch, near))
    pixels = None
    if pretrained is not None and _is_tag(arch, pretrained):
        if preprocess is not None:
            raise BackboneError(
                f"preprocess {preprocess!r} is for checkpoint files: the tag {pretrained} knows "
                "what its pictures were like"
            )
        quick_gelu = _has_quick_gelu(open_clip.get_pretrained_cfg(arch, pretrained))
    elif pretrained is not None:
        pixels = pixels_of(arch, pretrained, preprocess)
        if quick_gelu is None:
            tell_activation(arch, pretrained)
    _check_quick_gelu(arch, quick_gelu)
    with reading(pretrained or arch), nullcontext() if weights else _unsaid("initialized randomly"):
        tokenizer = open_clip.get_tokenizer(arch)
        model = open_clip.create_model(
            arch,
            pretrained=pretrained,
            load_weights=weights,
            force_custom_text=True,
            pretrained_text=False,
            force_preprocess_cfg=pixels,
        )
        others = Path(arch.removeprefix(LOCAL)) / OTHER_WEIGHTS
        if not weights:
            model.load_state_dict(load_file(others), strict=False)
    if getattr(tokenizer, "tokenizer_mode", ""):
        raise BackboneError(f"{arch}: tokenizer_mode {tokenizer.tokenizer_mode!r} is not supported")
    return OpenClipBackbone(
        model.float().eval(), tokenizer, arch=arch, context_length=context_length
    )


@contextmanager
def _unsaid(words: str) -> Iterator[None]:
    """open_clip's warning with these words is untrue where a run's weights come next."""

    def others(record: logging.LogRecord) -> bool:
        return words not in record.getMessage()

    logging.getLogger().addFilter(others)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(others)


def _config(arch: str) -> dict[str, Any]:
    config: dict[str, Any] = open_clip.get_model_config(arch)
    return config


def _is_tag(arch: str, pretrained: str) -> bool:
    """Whether it is a tag of open_clip; else it is a checkpoint file."""
    tags = open_clip.list_pretrained_tags_by_model(arch)
    if pretrained not in tags and not Path(pretrained).is_file():
        valid = unknown(f"pretrained tag of {arch}", pretrained, [*tags, "a checkpoint file"])
        raise BackboneError(f"{valid} (there is no such file either)")
    return pretrained in tags


def _has_quick_gelu(config: Mapping[str, Any]) -> bool:
    return bool(config.get("quick_gelu", False))


def _check_quick_gelu(arch: str, wanted: bool | None) -> None:
    has = _has_quick_gelu(_config(arch))
    if wanted in (None, has):
        return
    other = f"{arch}-quickgelu" if wanted else arch.removesuffix("-quickgelu")
    activation = "QuickGELU" if wanted else "GELU"
    hint = f"use {other}" if other in open_clip.list_models() else "set quick_gelu in its config"
    raise BackboneError(
        f"these weights were trained with {activation}, which {arch} does not use: {hint}"
    )


def image_transform(config: dict[str, Any]) -> ImageTransform:
    """What open_clip's ``preprocess_val`` does, from a model's ``preprocess_cfg``."""
    modes = {"shortest": "crop", "squash": "squash"}
    mode, size = config["resize_mode"], config["size"]
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    if mode not in modes:
        raise BackboneError(unknown("resize_mode of an open_clip model", mode, modes))
    if height != width:
        raise BackboneError(f"pictures of {height} x {width}: only square inputs are supported")
    return ImageTransform(
        size=height,
        resize=height,
        mode="crop" if mode == "shortest" else "squash",
        resample=_RESAMPLING[config["interpolation"]],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _fast_tokens(
    tokenizer: Any, texts: Sequence[str], *, length: int, pad_to_length: bool
) -> TokenBatch:
    """Tokens of an open_clip ``HFTokenizer``."""
    inner, clean = tokenizer.tokenizer, tokenizer.clean_fn
    tokens = fast_tokens(inner, texts, length=length, pad_to_length=pad_to_length, clean=clean)
    if not tokenizer.strip_sep_token:
        return tokens
    return replace(tokens, ids=tokens.ids.masked_fill(tokens.ids == inner.sep_token_id, 0))
