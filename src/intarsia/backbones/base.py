"""What a backbone is: two towers, and the projections into the joint space.

The split matters for speed. ``image_states`` / ``text_states`` are the towers: with frozen towers
their outputs are computed once and cached. ``project`` is small, may be trained on cached states,
and gives the joint space D (METHODS: "what a backbone gives").
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from intarsia.data.images import scaled_part
from intarsia.errors import BackboneError
from intarsia.types import Box, Dense, Dims, Features, TokenBatch

Side = Literal["image", "text"]
SIDES: tuple[Side, ...] = ("image", "text")
Tokenizer = Callable[[Sequence[str]], TokenBatch]


@dataclass(frozen=True, slots=True)
class ImageTransform:
    """From a picture to the pixels a tower expects, the resizing done by PIL in 8 bits.

    ``mode``: ``crop`` scales the shorter side to ``resize`` and cuts the central square;
    ``squash`` scales to ``size`` x ``size`` whatever the aspect ratio.
    """

    size: int
    resize: int
    mode: Literal["crop", "squash"]
    resample: Image.Resampling
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB picture -> (3, size, size) uint8; what will be cut off is not scaled."""
        width, height, left, top = self._geometry(image.size)
        part = (left, top, left + self.size, top + self.size)
        pixels = scaled_part(image, (width, height), part, self.resample)
        return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).contiguous()

    def boxes(self, boxes: Sequence[Box], size: tuple[int, int]) -> list[Box]:
        """Boxes of a picture of ``size`` (width, height) -> the same in pixels of the output.

        What was cut off gets coordinates outside (0, 0, size, size).
        """
        width, height, left, top = self._geometry(size)
        x, y = width / size[0], height / size[1]
        return [
            (x0 * x - left, y0 * y - top, x1 * x - left, y1 * y - top) for x0, y0, x1, y1 in boxes
        ]

    def seen(self, size: tuple[int, int]) -> Box:
        """The part of a picture of ``size`` (width, height) that is kept, in its pixels."""
        width, height, left, top = self._geometry(size)
        x, y = size[0] / width, size[1] / height
        return left * x, top * y, (left + self.size) * x, (top + self.size) * y

    def squashed(self) -> ImageTransform:
        """The same for whole pictures, whatever their aspect ratio."""
        return replace(self, mode="squash", resize=self.size)

    def _geometry(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Width and height to scale a picture to, then left and top of the square to cut."""
        if self.mode == "squash":
            return self.size, self.size, 0, 0
        longer = int(self.resize * max(size) / min(size))
        width, height = (longer, self.resize) if size[0] > size[1] else (self.resize, longer)
        return width, height, self._margin(width - self.size), self._margin(height - self.size)

    @staticmethod
    def _margin(excess: int) -> int:
        """Pixels cut off before the central square (torchvision's rounding)."""
        return round(excess / 2.0)

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (B,3,H,W) -> float in the tower's range; float input is taken as normalised."""
        if pixels.dtype != torch.uint8:
            return pixels
        mean, std = (_channels(values, pixels) for values in (self.mean, self.std))
        return (pixels.float() / 255.0 - mean) / std


class Backbone(nn.Module, ABC):
    """A CLIP-like model seen through the five outputs that every method builds on.

    ``lora_targets`` are the linear layers, by the last part of their names, that LoRA adapts unless
    told otherwise: those of the attention, and of the MLP in open_clip's own transformers, whose
    attention keeps its weights in one tensor that is no layer. ``has_base`` tells those that come
    from files or a hub from those that come from code alone.

    With ``ends_train`` the image tower is only what lies below its last blocks, which belong to the
    projections: ``image_global`` of the states is then the tower's whole map as one vector, of
    which :meth:`project` makes ``image_global`` and ``image_patches``.
    """

    name: str
    has_base: bool = False
    ends_train: bool = False
    dims: Dims
    transform: ImageTransform
    lora_targets: frozenset[str] = frozenset(
        {"q_proj", "k_proj", "v_proj", "out_proj"}  # CLIP and SigLIP of transformers
        | {"query", "key", "value", "q_lin", "k_lin", "v_lin", "out_lin"}  # other transformers
        | {"qkv", "c_fc", "c_proj"}  # timm, open_clip
    )

    @property
    @abstractmethod
    def tokenizer(self) -> Tokenizer:
        """What makes tokens of texts; it can be pickled, for workers, without the towers."""

    def tokenize(self, texts: Sequence[str]) -> TokenBatch:
        """Token ids, masks and character offsets; texts beyond the context are cut."""
        return self.tokenizer(texts)

    @abstractmethod
    def image_states(self, pixels: Tensor, *, dense: Dense | None = None) -> Features:
        """Image tower: (B,3,H,W) uint8, or float already normalised -> ``image_global`` and, with
        ``dense``, ``image_patches``, both in the tower's width."""

    @abstractmethod
    def text_states(self, tokens: TokenBatch) -> Features:
        """Text tower: ``text_global``, ``text_tokens`` and ``text_mask`` in the tower's width."""

    @abstractmethod
    def project(self, states: Features) -> Features:
        """Tower states -> the joint space D; fields that are None stay None."""

    @abstractmethod
    def towers(self) -> list[nn.Module]:
        """The modules whose outputs are ``*_states``: what freezing freezes."""

    def whole(self) -> Backbone:
        """The same weights with towers that end where the model does, whatever trains."""
        return self

    def towers_of(self, *sides: Side) -> list[nn.Module]:
        """Those of :meth:`towers` that see pictures, that read texts, or both: the name tells."""
        names = {id(module): name for name, module in self.named_modules()}
        return [
            t for t in self.towers() if ("text" if "text" in names[id(t)] else "image") in sides
        ]

    def keep(self, folder: Path) -> None:
        """Write what it takes to build it again but its tensors: ``load_backbone``'s ``kept``."""
        raise BackboneError(f"{self.name} comes from code alone: nothing of it need be kept")

    def inherited(self) -> dict[str, str]:
        """Names of tensors -> names of those they start from where a base has only these."""
        return {}

    def depths(self) -> dict[str, int]:
        """How far each parameter lies below the joint space, for learning rates by layer.

        0 is a projection or what follows a tower's last block, 1 that block, and so on; what comes
        before the first block lies one below it. A block is known by the first number in a
        parameter's name, a stage where there are stages of blocks.
        """
        found = {name: 0 for name, _ in self.named_parameters()}
        for side in SIDES:
            towers = self.whole().towers_of(side)
            inside = {id(p) for tower in towers for p in tower.parameters()}
            found |= _depths([name for name, p in self.named_parameters() if id(p) in inside])
        return found

    @property
    def images_at_once(self) -> int:
        """Pictures a forward pass: on CPU few enough for their activations to stay in cache."""
        on_cpu = next(self.parameters()).device.type == "cpu"
        return 8 if on_cpu else 128

    def settings(self) -> str:
        """What else tells two backbones of the same weights apart (pooling, activation)."""
        kinds = {type(m).__name__ for tower in self.towers() for m in tower.modules()}
        activations = {kind for kind in kinds if "GELU" in kind}
        return f"{type(self).__name__} {sorted(activations)}"

    def preprocess(self, image: Image.Image) -> Tensor:
        """RGB picture -> (3,H,W) uint8 pixels for ``encode_image``."""
        return self.transform(image)

    def normalised(self, pixels: Tensor) -> Tensor:
        """As :meth:`image_states` takes pixels -> floats in the tower's range and precision."""
        return self.transform.normalise(pixels).to(next(self.parameters()).dtype)

    def encode_image(self, pixels: Tensor, *, dense: Dense | None = None) -> Features:
        return self.project(self.image_states(pixels, dense=dense))

    def encode_text(self, tokens: TokenBatch) -> Features:
        return self.project(self.text_states(tokens))

    def freeze_towers(self, *sides: Side) -> None:
        """Stop gradients into the towers (of ``sides``; none named means both) and keep them in
        evaluation mode from now on."""
        for tower in self.towers_of(*sides or SIDES):
            tower.requires_grad_(False)
            tower.eval()

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for tower in self.towers():
            if not any(p.requires_grad for p in tower.parameters()):
                tower.eval()
        return self

    def fingerprint(self, *sides: Side) -> str:
        """A hash of all that the outputs of the towers (of ``sides``; none named means both)
        depend on: weights, settings, pixels, tokens."""
        digest = hashlib.sha256(f"{self.settings()}{self.transform}{self.dims}".encode())
        for tower in self.towers_of(*sides or SIDES):
            for key, value in sorted(tower.state_dict().items()):
                digest.update(f"{key}{tuple(value.shape)}".encode())
                flat = value.detach().cpu().contiguous().flatten()
                digest.update(flat.view(torch.uint8).numpy().tobytes())
        probe = self.tokenize(["A small red circle above 2 blue squares, isn't it?"])
        digest.update(probe.ids.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def _channels(values: Sequence[float], like: Tensor) -> Tensor:
    """(3,1,1) filled in on the device: to copy a tensor there is to wait for it."""
    filled = [like.new_full((1, 1, 1), value, dtype=torch.float32) for value in values]
    return torch.cat(filled)


def _depths(names: Sequence[str]) -> dict[str, int]:
    """Depths inside one tower, whose parameters come in the order of :meth:`named_parameters`.

    >>> _depths(["embed.weight", "layers.0.fc", "layers.1.fc", "norm.weight"])
    {'embed.weight': 3, 'layers.0.fc': 2, 'layers.1.fc': 1, 'norm.weight': 0}
    """
    numbers = [_block(name) for name in names]
    num_blocks = 1 + max((number for number in numbers if number is not None), default=-1)
    depth = num_blocks + 1 if num_blocks else 0
    depths = {}
    for name, number in zip(names, numbers, strict=True):
        if number is not None:
            depth = 0
        depths[name] = depth if number is None else num_blocks - number
    return depths


def _block(name: str) -> int | None:
    return next((int(part) for part in name.split(".") if part.isdigit()), None)
