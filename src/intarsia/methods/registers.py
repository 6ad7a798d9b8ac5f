"""`registers`: a caption compressed into one slot per image patch, compared patch by patch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from intarsia.errors import ConfigError, ShapeError
from intarsia.methods.base import (
    Method,
    Temperature,
    check_weights,
    normalised,
    normalised_for_matching,
)
from intarsia.ops.attention import attend
from intarsia.ops.contrastive import Negatives, patchwise_contrastive
from intarsia.terms import Aligned, Dot, Term
from intarsia.terms.base import same_picture
from intarsia.types import Dims, Embeddings, Features


class Registers(Method):
    """Local alignment by text compression (papers: Local Alignment, sections 1 and 2).

    Learnable registers, one per patch, read the caption's tokens by cross-attention and become its
    slots; slot i is contrasted with patch i, beside the global loss. So a text says not only what
    is in the picture but also where.

    Our reading, where the source is silent: pre-LN residual blocks; a fixed 2-D sine position is
    added to the registers; ``lambda_local`` weighs the SUM over the M positions, so that the
    default is about the mean over a 7 x 7 grid; each loss has its own temperature; the similarity
    is global + ``local_weight`` * mean over i of <T^(i), I^(i)>.

    Args:
        dims: sizes of the backbone.
        width: width of the registers; None = D.
        layers: blocks of cross-attention, self-attention and MLP.
        heads: attention heads.
        self_attention: let the registers speak with one another.
        dropout: on the output of each sub-layer.
        lambda_global: weight of the global loss.
        lambda_local: weight of the local loss, summed over positions.
        negatives: what position i is contrasted with (``patchwise_contrastive``).
        local_weight: weight of the local score in the similarity.
    """

    needs = frozenset({"patches", "tokens"})
    positions: Tensor

    def __init__(
        self,
        dims: Dims,
        *,
        width: int | None = None,
        layers: int = 2,
        heads: int = 4,
        self_attention: bool = True,
        dropout: float = 0.0,
        lambda_global: float = 1.0,
        lambda_local: float = 0.02,
        negatives: Negatives = "batch",
        local_weight: float = 1.0,
    ) -> None:
        super().__init__(dims)
        check_weights(lambda_global=lambda_global, lambda_local=lambda_local)
        width = width or dims.embed
        self.lambda_global, self.lambda_local = lambda_global, lambda_local
        self.negatives, self.local_weight = negatives, local_weight
        self.registers = nn.Parameter(torch.randn(dims.num_patches, width) * width**-0.5)
        self.register_buffer("positions", grid_positions(dims.grid, width), persistent=False)
        if layers < 1 or heads < 1 or width % heads or not 0 <= dropout < 1:
            raise ConfigError(
                f"{layers} layers of width {width} with {heads} heads and dropout {dropout}: give "
                "at least a layer, heads that divide the width, and dropout from 0 to below 1"
            )
        self.tokens = nn.Sequential(nn.LayerNorm(dims.embed), nn.Linear(dims.embed, width))
        self.blocks = nn.ModuleList(
            _Block(width, heads, self_attention, dropout) for _ in range(layers)
        )
        self.slots = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dims.embed))
        self.temperature = Temperature(dims.scale)
        self.local_temperature = Temperature()

    @property
    def terms(self) -> tuple[Term, ...]:
        w = self.local_weight
        return Dot("global"), Aligned("local", i2t=w, t2i=w)

    def encode_image(self, x: Features) -> Embeddings:
        patches = normalised_for_matching(x.require("image_patches"))
        return Embeddings({"global": normalised(x.require("image_global")), "local": patches})

    def encode_text(self, x: Features) -> Embeddings:
        slots = self.compress(x.require("text_tokens"), x.require("text_mask"))
        return Embeddings({"global": normalised(x.require("text_global")), "local": slots})

    def compress(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B,N,D) tokens and their (B,N) mask -> (B,M,D) normalised slots."""
        memory = self.tokens(tokens)
        state = (self.registers + self.positions).expand(len(tokens), -1, -1)
        for block in self.blocks:
            state = block(state, memory, mask)
        return normalised_for_matching(self.slots(state))

    def loss(self, image: Embeddings, text: Embeddings) -> dict[str, Tensor]:
        whole = Dot("global").contrast(image, text, self.temperature())
        local = patchwise_contrastive(
            image["local"],
            text["local"],
            self.local_temperature(),
            same_picture(image, text),
            self.negatives,
        )
        total = self.lambda_global * whole + self.lambda_local * local
        return {"loss": total, "global": whole, "local_mean": local / self.dims.num_patches}

    def patch_map(self, image: Features, text: Features) -> Tensor:
        """<T^(i), I^(i)> at every position i, (B,M)."""
        patches = normalised(image.require("image_patches"))
        return (patches * self.encode_text(text)["local"]).sum(-1)


class _Block(nn.Module):
    """Registers <- tokens, registers <- registers, MLP: pre-LN, residual."""

    def __init__(self, width: int, heads: int, self_attention: bool, dropout: float) -> None:
        super().__init__()
        self.cross = _Attention(width, heads)
        self.own = _Attention(width, heads) if self_attention else None
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )
        self.memory_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, state: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        state = state + self.dropout(self.cross(state, self.memory_norm(memory), mask))
        if self.own is not None:
            state = state + self.dropout(self.own(state, None, None))
        updated: Tensor = state + self.dropout(self.mlp(state))
        return updated


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, state: Tensor, memory: Tensor | None, mask: Tensor | None) -> Tensor:
        state = self.norm(state)
        key, value = self.key_value(state if memory is None else memory).chunk(2, dim=-1)
        mixed: Tensor = self.out(attend(self.query(state), key, value, mask, self.heads))
        return mixed


def grid_positions(grid: tuple[int, int], width: int) -> Tensor:
    """2-D sine positions of the patch grid, (M, width): half the width for rows, half for columns.

    Raises:
        ShapeError: the width is not a multiple of 4.
    """
    if width % 4:
        raise ShapeError(f"registers need a width that is a multiple of 4, not {width}")
    frequencies = 10000.0 ** (-torch.arange(width // 4) / (width // 4))
    sides = []
    for size in grid:
        angles = torch.arange(size)[:, None] * frequencies
        sides.append(torch.cat([angles.sin(), angles.cos()], 1))
    rows, columns = sides
    h, w = grid
    both = [rows[:, None].expand(h, w, -1), columns[None].expand(h, w, -1)]
    return torch.cat(both, 2).reshape(h * w, width)
