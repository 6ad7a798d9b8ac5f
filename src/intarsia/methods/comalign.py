"""`comalign`: entities with entities, relations with relations, over a frozen CLIP."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intarsia.errors import ConfigError, unknown
from intarsia.methods.base import (
    Method,
    Temperature,
    normalised,
    normalised_for_matching,
)
from intarsia.ops.attention import attend
from intarsia.ops.ranks import current_ranks
from intarsia.terms import Dot, MeanMax, Side, Term
from intarsia.types import Components, Dims, Embeddings, Features, Normalise

Group = Literal["global", "entity", "relation"]
Architecture = Literal["transformer", "fc_shared", "fc_separate"]
GROUPS: tuple[Group, ...] = ("global", "entity", "relation")
GEOMETRY = 8  # numbers that say how two boxes lie
ARCHITECTURES: tuple[Architecture, ...] = ("transformer", "fc_shared", "fc_separate")


class ComAlign(Method):
    """Compositional Alignment (papers: ComAlign).

    The components of both sides, embedded by the frozen base, pass through a small transformer
    each; entities are matched with entities and relations with relations by mean-max (eq. 2 to 4),
    the global vectors by their dot product (eq. 5), and each of the three is contrasted (eq. 6 to
    9). The similarity adds them to that of the base with weights alpha1, alpha2 and beta1 (eq. 10,
    11), which ``intarsia tune`` finds on training pictures and saves with the model.

    Our reading, where the source is silent: vectors are normalised before the transformer, too;
    post-LN blocks with ReLU (torch's default, as in the authors' inference code) and one more
    linear layer behind them; each loss has a temperature of its own.

    Ours, not the paper's: ``residual`` starts the transformer's output at the base's own vectors.
    ``directed`` adds a fourth similarity, ``roles``, of relations that know who does something to
    whom: the text's as [subject, action, object], the picture's pairs of regions in both orders as
    [first region, how it lies to the second, second region], mean-max. So the subject is compared
    with the first region, the object with the second, and the action with crop and geometry of
    both. It stays outside the transformer, whose attention mixes the roles again; and since few
    pairs of a batch differ in direction alone, it is also contrasted with each text's own
    relations with subject and object exchanged.

    Args:
        dims: sizes of the backbone.
        width: width of the transformers and of what is matched; None = D.
        layers: of each transformer.
        heads: attention heads.
        architecture: ``transformer``, or a network of as many fully connected layers without
            attention: ``fc_shared`` for all vectors, ``fc_separate`` for global and fine ones.
        dropout: in the transformers.
        train_text: False leaves the text side as the base gives it (the paper's ablations).
        terms: what is contrasted and scored (table III).
        w_global: weight of the global contrast beside the other two (figure 7).
        drop_features: what does not even enter the transformers (table IV).
        count_padding: padding takes part in the means and maxima as zero vectors, as in the
            authors' code.
        residual: add the transformer's output to its input.
        directed: match relations by their roles, too.
        num_entities: the place of the first relation in the sequence is behind so many entities.
        alpha1: weight of the image-to-text scores in the image-to-text similarity.
        alpha2: weight of the text-to-image scores in it.
        beta1: weight of the text-to-image scores in the text-to-image similarity.
        normalise: ``row-max`` divides each matrix of a ranked test set by the mean of its queries'
            best scores, as the authors' code does. Transductive: a table of its own.
    """

    mixture: Tensor

    def __init__(
        self,
        dims: Dims,
        *,
        width: int | None = None,
        layers: int = 2,
        heads: int = 4,
        architecture: Architecture = "transformer",
        dropout: float = 0.1,
        train_text: bool = True,
        terms: Sequence[Group] = GROUPS,
        w_global: float = 1.0,
        drop_features: Sequence[Group] = (),
        count_padding: bool = False,
        residual: bool = False,
        directed: bool = False,
        num_entities: int = 10,
        alpha1: float = 1.0,
        alpha2: float = 1.0,
        beta1: float = 1.0,
        normalise: Normalise = "none",
    ) -> None:
        super().__init__(dims)
        width = width or dims.embed
        for name in (*terms, *drop_features):
            if name not in GROUPS:
                raise ConfigError(unknown("group of ComAlign", name, GROUPS))
        if architecture not in ARCHITECTURES:
            raise ConfigError(unknown("architecture", architecture, ARCHITECTURES))
        if architecture == "transformer" and width % heads:
            raise ConfigError(f"width is {width}: choose a multiple of the {heads} heads")
        if (residual or not train_text) and width != dims.embed:
            raise ConfigError(
                f"residual, or an untrained text side, needs the base's width {dims.embed}, "
                f"not {width}"
            )
        if normalise not in get_args(Normalise):
            raise ConfigError(unknown("normalise", normalise, get_args(Normalise)))
        self.normalise = normalise
        self.dropped = frozenset(drop_features)
        self.used = tuple(g for g in GROUPS if g in terms and g not in self.dropped)
        if not self.used:
            raise ConfigError("ComAlign has nothing to match: every term is dropped")
        if directed and "relation" in self.dropped:
            raise ConfigError("directed relations need relations: do not drop them")
        self.needs = frozenset({"components", "roles"} if directed else {"components"})
        self.w_global = w_global
        self.count_padding, self.num_entities = count_padding, num_entities
        self.register_buffer("mixture", torch.tensor([alpha1, alpha2, beta1]))
        shape = (dims.embed, width, layers, heads, architecture, dropout, residual)
        self.image_encoder = _Encoder(*shape)
        self.text_encoder = _Encoder(*shape) if train_text else None
        self.image_roles = _Roles(dims.embed, dims.embed + GEOMETRY) if directed else None
        self.text_roles = _Roles(dims.embed, dims.embed) if directed else None
        start = dims.scale if residual else None  # where its vectors start as the base's
        self.temperatures = nn.ModuleDict({name: Temperature(start) for name in self.used})
        if directed:
            self.temperatures["roles"] = Temperature()

    @property
    def terms(self) -> tuple[Term, ...]:
        a1, a2, b1 = self.mixture.tolist()
        own = (
            Dot(name, i2t=a1, t2i=b1)
            if name == "global"
            else MeanMax(name, i2t=a1, t2i=b1, reverse=a2)
            for name in self.temperatures
        )
        return Dot("base"), *own

    def encode_image(self, x: Features) -> Embeddings:
        parts = _needed(x.image_parts)
        image = self._encode(self.image_encoder, x.require("image_global"), parts)
        if self.image_roles is not None:
            assert parts.boxes is not None and parts.parts is not None
            ends, boxes = normalised(parts.parts), parts.boxes
            ends, boxes = torch.cat([ends, ends.flip(2)], 1), torch.cat([boxes, boxes.flip(2)], 1)
            together = normalised(parts.relations).repeat(1, 2, 1)
            between = torch.cat([together, _geometry(boxes)], -1)
            vectors = self.image_roles(ends[:, :, 0], between, ends[:, :, 1])
            _add(image, "roles", vectors, parts.relation_mask.repeat(1, 2))
        return image

    def encode_text(self, x: Features) -> Embeddings:
        parts = _needed(x.text_parts)
        text = self._encode(self.text_encoder, x.require("text_global"), parts)
        if self.text_roles is not None:
            assert parts.parts is not None
            subject, action, target = normalised(parts.parts).unbind(2)
            mask = parts.relation_mask
            _add(text, "roles", self.text_roles(subject, action, target), mask)
            if self.training:
                _add(text, "exchanged", self.text_roles(target, action, subject), mask)
        return text

    def _encode(self, encoder: _Encoder | None, whole: Tensor, parts: Components) -> Embeddings:
        base, entities = normalised(whole), normalised(parts.entities)
        relations = normalised(parts.relations)
        sizes = [1, entities.shape[1], relations.shape[1]]
        masks = {
            "global": parts.entity_mask.new_ones(len(base), 1),
            "entity": parts.entity_mask,
            "relation": parts.relation_mask,
        }
        for name in self.dropped:
            masks[name] = torch.zeros_like(masks[name])
        mask = torch.cat([masks[name] for name in GROUPS], 1)
        sequence = torch.cat([base[:, None], entities, relations], 1)
        if encoder is not None:
            places = torch.arange(1 + sizes[1] + sizes[2], device=base.device)
            places[1 + sizes[1] :] += self.num_entities - sizes[1]
            sequence = encoder(sequence, mask, places)
        found = dict(zip(GROUPS, sequence.split(sizes, 1), strict=True))
        groups = {"base": base}
        for name in self.used:
            if name == "global":
                groups[name] = normalised(found[name][:, 0])
            else:
                groups[name] = normalised_for_matching(found[name]) * masks[name][..., None]
        fine = () if self.count_padding else ("entity", "relation")
        return Embeddings(groups, {name: masks[name] for name in fine if name in groups})

    def loss(self, image: Embeddings, text: Embeddings) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        for name, temperature in self.temperatures.items():
            term = Dot(name) if name == "global" else MeanMax(name)
            losses[name] = term.contrast(image, text, temperature())
        if "exchanged" in text.groups:
            losses["exchanged"] = self._direction_loss(image, text)
        total = sum(
            self.w_global * value if name == "global" else value for name, value in losses.items()
        )
        assert isinstance(total, Tensor)
        return {"loss": total, **losses}

    def _direction_loss(self, image: Embeddings, text: Embeddings) -> Tensor:
        """How far each text's relations match its picture better than with exchanged roles."""
        mask, matching = text.masks["roles"], MeanMax("roles")
        pictures, _ = matching.sides(image, text)
        true, false = (
            torch.stack(matching.paired(pictures, Side(text[name], mask)))
            for name in ("roles", "exchanged")
        )
        loss = F.softplus(self.temperatures["roles"]() * (false - true)).mean(0)
        return current_ranks().mean(loss, mask.any(1))


class _Encoder(nn.Module):
    """Linear + ReLU, positions, then blocks over the sequence global, entities, relations."""

    def __init__(
        self,
        embed: int,
        width: int,
        layers: int,
        heads: int,
        architecture: Architecture,
        dropout: float,
        residual: bool,
    ) -> None:
        super().__init__()
        self.residual, self.separate = residual, architecture == "fc_separate"
        self.enter = nn.Sequential(nn.Linear(embed, width), nn.ReLU())
        attends = architecture == "transformer"

        def stack() -> nn.ModuleList:
            return nn.ModuleList(
                _Block(width, heads if attends else None, dropout) for _ in range(layers)
            )

        self.blocks = stack()
        self.global_blocks = stack() if self.separate else None
        self.leave = nn.Linear(width, width)
        if residual:
            nn.init.zeros_(self.leave.weight)
            nn.init.zeros_(self.leave.bias)

    def forward(self, sequence: Tensor, mask: Tensor, places: Tensor) -> Tensor:
        state = self.enter(sequence)
        state = state + sine_positions(places, state.shape[-1]).to(state.dtype)
        if self.global_blocks is not None:
            whole, state = state[:, :1], state[:, 1:]
            for block in self.global_blocks:
                whole = block(whole, mask[:, :1])
            for block in self.blocks:
                state = block(state, mask[:, 1:])
            state = torch.cat([whole, state], 1)
        else:
            for block in self.blocks:
                state = block(state, mask)
        out: Tensor = self.leave(state)
        return sequence + out if self.residual else out


class _Block(nn.Module):
    """Post-LN: attention (unless ``heads`` is None), then a network of the same width."""

    def __init__(self, width: int, heads: int | None, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        if heads is not None:
            self.project = nn.Linear(width, 3 * width)
            self.mix = nn.Linear(width, width)
            self.attention_norm = nn.LayerNorm(width)
        self.network = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, width)
        )
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, state: Tensor, mask: Tensor) -> Tensor:
        if self.heads is not None:
            q, k, v = self.project(state).chunk(3, dim=-1)
            mixed = self.mix(attend(q, k, v, mask, self.heads))
            state = self.attention_norm(state + self.dropout(mixed))
        updated: Tensor = self.norm(state + self.dropout(self.network(state)))
        return updated


def sine_positions(places: Tensor, width: int) -> Tensor:
    """(K,) places in a sequence -> (K, width) sines and cosines (Vaswani et al. 2017)."""
    half = (width + 1) // 2
    rates = torch.exp(-math.log(10_000.0) * torch.arange(half, device=places.device) / half)
    angles = places.float()[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :width]


class _Roles(nn.Module):
    """The parts of a relation -> (..., 3D): its two ends start where the base has put them, what is
    between them is learned."""

    def __init__(self, embed: int, between: int) -> None:
        super().__init__()
        self.end = nn.Linear(embed, embed)
        nn.init.zeros_(self.end.weight)
        nn.init.zeros_(self.end.bias)
        self.between = nn.Sequential(nn.Linear(between, embed), nn.ReLU(), nn.Linear(embed, embed))

    def forward(self, first: Tensor, between: Tensor, second: Tensor) -> Tensor:
        parts = (first + self.end(first), self.between(between), second + self.end(second))
        return torch.cat([normalised(part) for part in parts], -1)


def _geometry(boxes: Tensor) -> Tensor:
    """How two boxes (B,L,2,4) lie to one another: (B,L,8) offsets, extents and sizes."""
    x0, y0, x1, y1 = boxes.float().unbind(-1)
    x, y, w, h = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
    offset = torch.stack([x[..., 1] - x[..., 0], y[..., 1] - y[..., 0]], -1)
    overlap_w = torch.minimum(x1[..., 0], x1[..., 1]) - torch.maximum(x0[..., 0], x0[..., 1])
    overlap_h = torch.minimum(y1[..., 0], y1[..., 1]) - torch.maximum(y0[..., 0], y0[..., 1])
    return torch.cat([offset, torch.stack([overlap_w, overlap_h], -1), w, h], -1)


def _add(side: Embeddings, group: str, vectors: Tensor, mask: Tensor) -> None:
    side.groups[group] = normalised_for_matching(vectors) * mask[..., None]
    side.masks[group] = mask


def _needed(parts: Components | None) -> Components:
    if parts is None:
        raise ConfigError("comalign reads components: features without them cannot be encoded")
    return parts
