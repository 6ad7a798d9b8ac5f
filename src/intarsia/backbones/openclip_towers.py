"""The towers inside an open_clip model: states before the joint projection, and patches."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from open_clip.hf_model import HFTextEncoder
from open_clip.timm_model import TimmModel
from open_clip.transformer import (
    ResidualAttentionBlock,
    TextTransformer,
    VisionTransformer,
    text_global_pool,
)
from torch import Tensor, nn

from intarsia.backbones.dense import each_alone, value_attention
from intarsia.errors import BackboneError
from intarsia.types import Dense

Projection = nn.Module | nn.Parameter | None


def apply_projection(projection: Projection, x: Tensor | None) -> Tensor | None:
    if x is None or projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Module) else x @ projection


class NativeVision(nn.Module):
    """open_clip's VisionTransformer, whose joint projection is taken out.

    Patches: ``value`` is the last block's value path, ``plain`` its ordinary output, both after
    the final LayerNorm. With an attention pool (CoCa) the width before it is not the pool's, so
    both are the ordinary output of the last block through the value path of the pool.
    """

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower
        self.projection = tower.proj
        tower.proj = None
        self.grid: tuple[int, int] = tower.grid_size

    def towers(self) -> list[nn.Module]:
        return [self.tower]

    def released(self) -> dict[str, Tensor]:
        return {**self.tower.state_dict(), "proj": self.projection}

    def states(self, pixels: Tensor, dense: Dense | None) -> tuple[Tensor, Tensor | None]:
        tower = self.tower
        x = self._embed(pixels)
        *blocks, last = tower.transformer.resblocks
        for block in blocks:
            x = block(x)
        if dense == "value" and tower.attn_pool is None:
            mixed = _value_block(last, x)
            output = mixed if tower.pool_type == "tok" else last(x)
        else:
            mixed = output = last(x)
        pooled, _ = tower._pool(output)
        if dense is None:
            return pooled, None
        patches = mixed[:, 1:]
        if tower.attn_pool is not None:
            patches = each_alone(self._pool_alone, patches)
        return pooled, tower.ln_post(patches)

    def _embed(self, pixels: Tensor) -> Tensor:
        tower = self.tower
        x = tower.conv1(pixels.to(tower.conv1.weight.dtype))
        position = _resized(tower.positional_embedding, self.grid, (x.shape[2], x.shape[3]))
        cls = tower.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        out: Tensor = tower.ln_pre(torch.cat([cls, x.flatten(2).mT], dim=1) + position.to(x.dtype))
        return out

    def _pool_alone(self, x: Tensor) -> Tensor:
        """CoCa's pooler with the one query that becomes the global vector."""
        pool = self.tower.attn_pool
        query = pool.ln_q(pool.query[:1]).expand(x.shape[0], 1, -1)
        keys = pool.ln_k(x)
        out: Tensor = pool.attn(query, keys, keys, need_weights=False)[0][:, 0]
        return out


class TimmSiglipVision(nn.Module):
    """A timm ViT with an attention pool (SigLIP): its pooled vector is in the joint space.

    Patches: ``value`` is the value path of the pool, ``plain`` the last block's output after the
    final LayerNorm.
    """

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower.trunk
        self.projection = tower.head
        patch_embed = self.tower.patch_embed
        self.grid: tuple[int, int] = tuple(patch_embed.grid_size)
        self._accept_other_sizes()

    def _accept_other_sizes(self) -> None:
        """What timm's ``dynamic_img_size=True`` sets, which open_clip does not pass on."""
        embed = self.tower.patch_embed
        self.tower.dynamic_img_size = True
        embed.strict_img_size, embed.flatten = False, False
        embed.output_fmt = type(embed.output_fmt)("NHWC")

    def towers(self) -> list[nn.Module]:
        return [self.tower]

    def released(self) -> dict[str, Tensor]:
        head = {f"head.{k}": v for k, v in self.projection.state_dict().items()}
        return {f"trunk.{k}": v for k, v in self.tower.state_dict().items()} | head

    def states(self, pixels: Tensor, dense: Dense | None) -> tuple[Tensor, Tensor | None]:
        trunk = self.tower
        tokens = trunk.forward_features(pixels)
        pooled = trunk.forward_head(tokens)
        if dense is None:
            return pooled, None
        patches = tokens[:, trunk.num_prefix_tokens :]
        return pooled, each_alone(self._pool_alone, patches) if dense == "value" else patches

    def _pool_alone(self, x: Tensor) -> Tensor:
        trunk = self.tower
        out: Tensor = trunk.head(trunk.head_drop(trunk.fc_norm(trunk.attn_pool(x))))
        return out


class NativeText(nn.Module):
    """open_clip's TextTransformer, whose joint projection is taken out.

    ``causal``: a token never sees what follows it, so that padding need not be computed.
    """

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower
        self.projection = tower.text_projection
        tower.text_projection = None
        pooled_early = tower.cls_emb is None and tower.pool_type in ("argmax", "eos", "first")
        self.causal = tower.attn_mask is not None and pooled_early

    def towers(self) -> list[nn.Module]:
        return [self.tower]

    def released(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.tower.state_dict()
        if isinstance(self.projection, nn.Module):
            weights = self.projection.state_dict().items()
            return state | {f"text_projection.{k}": v for k, v in weights}
        return state if self.projection is None else {**state, "text_projection": self.projection}

    def states(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        tower, length = self.tower, ids.shape[1]
        x, mask = tower._embeds(ids)
        if self.causal:
            mask = mask[:length, :length]
        x = tower.ln_final(tower.transformer(x, attn_mask=mask))
        if tower.cls_emb is not None:
            return x[:, -1], x[:, :-1]
        return text_global_pool(x, ids, tower.pool_type, eos_token_id=tower.eos_id), x


class HuggingFaceText(nn.Module):
    """A transformers text model inside an open_clip model."""

    causal = False

    def __init__(self, text: Any) -> None:
        super().__init__()
        self.tower, self.projection = text.transformer, text.proj
        self._pool, self._padding = text.pooler, text.config.pad_token_id

    def towers(self) -> list[nn.Module]:
        return [self.tower]

    def released(self) -> dict[str, Tensor]:
        head = {f"proj.{k}": v for k, v in self.projection.state_dict().items()}
        return {f"transformer.{k}": v for k, v in self.tower.state_dict().items()} | head

    def states(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        attention = (ids != self._padding).long()
        output = self.tower(input_ids=ids, attention_mask=attention)
        return self._pool(output, attention), output.last_hidden_state


def vision_tower(visual: Any) -> NativeVision | TimmSiglipVision:
    if isinstance(visual, VisionTransformer):
        if isinstance(visual.transformer.resblocks[-1], ResidualAttentionBlock):
            return NativeVision(visual)
    elif isinstance(visual, TimmModel) and getattr(visual.trunk, "attn_pool", None) is not None:
        return TimmSiglipVision(visual)
    kind = type(getattr(visual, "trunk", visual)).__name__
    raise BackboneError(
        f"image tower {kind} has no supported patch tokens: choose an architecture with "
        "open_clip's own ViT (CLIP, CoCa) or timm's ViT with an attention pool (SigLIP)"
    )


def text_tower(text: Any) -> NativeText | HuggingFaceText:
    if isinstance(text, TextTransformer):
        return NativeText(text)
    if isinstance(text, HFTextEncoder):
        return HuggingFaceText(text)
    raise BackboneError(f"text tower {type(text).__name__} is not supported by intarsia")


def _value_block(block: Any, x: Tensor) -> Tensor:
    """The block with attention for the CLS token only, and the value path for all patches."""
    attention, normed = block.attn, block.ln_1(x)
    q_weight, k_weight, v_weight = attention.in_proj_weight.chunk(3)
    q_bias, k_bias, v_bias = attention.in_proj_bias.chunk(3)
    mixed = value_attention(
        F.linear(normed[:, :1], q_weight, q_bias),
        F.linear(normed, k_weight, k_bias),
        F.linear(normed, v_weight, v_bias),
        attention.num_heads,
    )
    x = x + block.ls_1(attention.out_proj(mixed))
    out: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return out


def _resized(position: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Positional embedding (1+h*w, W), CLS first, for a grid of another size."""
    if old == new:
        return position
    patches = position[1:].unflatten(0, old).permute(2, 0, 1).unsqueeze(0)
    resized = F.interpolate(patches, new, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([position[:1], resized[0].flatten(1).mT])
