"""What a backbone is: two towers, and the projections into the joint space.

The split matters for speed. ``image_states`` / ``text_states`` are the towers: with frozen towers
their outputs are computed once and cached. ``project`` is small, may be trained on cached states,
and gives the joint space D (METHODS: "what a backbone gives").
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from intarsia.types import Box, Dense, Dims, Features, TokenBatch


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
        """RGB picture -> (3, size, size) uint8."""
        width, height, left, top = self._geometry(image.size)
        image = self._resized(image, width, height)
        image = image.crop((left, top, left + self.size, top + self.size))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()

    def boxes(self, boxes: Sequence[Box], size: tuple[int, int]) -> list[Box]:
        """Boxes of a picture of ``size`` (width, height) -> the same in pixels of the output.

        What was cut off gets coordinates outside (0, 0, size, size).
        """
        width, height, left, top = self._geometry(size)
        x, y = width / size[0], height / size[1]
        return [
            (x0 * x - left, y0 * y - top, x1 * x - left, y1 * y - top) for x0, y0, x1, y1 in boxes
        ]

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

    def _resized(self, image: Image.Image, width: int, height: int) -> Image.Image:
        return (
            image if image.size == (width, height) else image.resize((width, height), self.resample)
        )

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (B,3,H,W) -> float in the tower's range; float input is taken as normalised."""
        if pixels.dtype != torch.uint8:
            return pixels
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1)
        return (pixels.float() / 255.0 - mean) / std


class Backbone(nn.Module, ABC):
    """A CLIP-like model seen through the five outputs that every method builds on."""

    name: str
    dims: Dims
    transform: ImageTransform

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> TokenBatch:
        """Token ids, masks and character offsets; texts beyond the context are cut."""

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

    @property
    def images_at_once(self) -> int:
        """Pictures a forward pass: on CPU few enough for their activations to stay in cache."""
        on_cpu = next(self.parameters()).device.type == "cpu"
        return 8 if on_cpu else 128

    def settings(self) -> str:
        """What else tells two backbones of the same weights apart (pooling, activation)."""
        activations = {type(m).__name__ for m in self.modules() if "GELU" in type(m).__name__}
        return f"{type(self).__name__} {sorted(activations)}"

    def preprocess(self, image: Image.Image) -> Tensor:
        """RGB picture -> (3,H,W) uint8 pixels for ``encode_image``."""
        return self.transform(image)

    def encode_image(self, pixels: Tensor, *, dense: Dense | None = None) -> Features:
        return self.project(self.image_states(pixels, dense=dense))

    def encode_text(self, tokens: TokenBatch) -> Features:
        return self.project(self.text_states(tokens))

    def freeze_towers(self) -> None:
        """Stop gradients into the towers and keep them in evaluation mode from now on."""
        for tower in self.towers():
            tower.requires_grad_(False)
            tower.eval()

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for tower in self.towers():
            if not any(p.requires_grad for p in tower.parameters()):
                tower.eval()
        return self

    def fingerprint(self) -> str:
        """A hash of all that the towers' outputs depend on: weights, settings, pixels, tokens."""
        digest = hashlib.sha256(f"{self.settings()}{self.transform}{self.dims}".encode())
        for tower in self.towers():
            for key, value in sorted(tower.state_dict().items()):
                digest.update(f"{key}{tuple(value.shape)}".encode())
                flat = value.detach().cpu().contiguous().flatten()
                digest.update(flat.view(torch.uint8).numpy().tobytes())
        probe = self.tokenize(["A small red circle above 2 blue squares, isn't it?"])
        digest.update(probe.ids.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]
