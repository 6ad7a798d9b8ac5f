"""A ViT's first layer as the one product that it is."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PatchProduct(nn.Conv2d):
    """A convolution whose stride is its kernel. On a GPU the patches of a picture are laid side by
    side and multiplied at once: cuDNN convolves three channels in bfloat16 without its matrix
    units."""

    def forward(self, input: Tensor) -> Tensor:
        return self.multiplied(input) if input.is_cuda else super().forward(input)

    def multiplied(self, input: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,D,h,w)."""
        (p, _), (rows, columns) = self.kernel_size, input.shape[2:]
        h, w = rows // p, columns // p
        patches = F.pixel_unshuffle(input[:, :, : h * p, : w * p], p)
        flat = F.linear(patches.flatten(2).mT, self.weight.flatten(1), self.bias)
        picture: Tensor = flat.mT.unflatten(2, (h, w))
        return picture

    def _get_name(self) -> str:
        return "Conv2d"


def multiply_patches(tower: nn.Module) -> None:
    """Make every convolution of ``tower`` that only cuts out patches a :class:`PatchProduct`; its
    weights, their names and, but for rounding, its results stay."""
    for module in tower.modules():
        if type(module) is nn.Conv2d and _cuts_patches(module):
            module.__class__ = PatchProduct


def _cuts_patches(conv: nn.Conv2d) -> bool:
    high, wide = conv.kernel_size
    plain = conv.groups == 1 and conv.dilation == (1, 1) and conv.padding in ((0, 0), "valid")
    return high == wide > 1 and conv.stride == conv.kernel_size and plain
