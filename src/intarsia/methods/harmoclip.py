"""`harmoclip`: phrases meet regions in the text token space, and regions meet the whole picture."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from intarsia.errors import ConfigError, unknown
from intarsia.methods.base import Method, Temperature, check_weights, normalised
from intarsia.ops.contrastive import info_nce
from intarsia.ops.ranks import current_ranks
from intarsia.ops.regions import pool_phrase, pool_regions, pool_words
from intarsia.terms import Dot, MeanMax, Term
from intarsia.types import Dims, Embeddings, Features

GrTarget = Literal["crop", "phrase", "image"]
MOST_REGIONS = 2**20  # of a picture, to number those of all pictures
NEEDS = {"crop": "crops", "phrase": "phrases", "image": "links"}


class HarmoClip(Method):
    """Global contrast, lexeme-region contrast and global-region alignment (papers: HarmoCLIP).

    A lexeme is the mean of the normalised states of a phrase's tokens in its caption (the Text
    Token Space), a region the RoIAlign of the normalised dense map; phrases of the same words are
    positives of one another, and other phrases of a picture are no negatives of the regions that
    theirs overlaps (IoU > 0.5). The third loss ties a region to a global vector of the same thing.
    Pairs without a link train on the global loss alone.

    Our reading, where the abstract is silent: all weights 1; the region's global target is that of
    its phrase as a text of its own, since the abstract speaks of region-language alignment, and is
    contrasted as the picture's is; that of its crop, enlarged 1.5 times, is without gradient, at
    1 - cosine. The text-to-image similarity adds ``local_weight`` * (mean over the text's tokens of
    the best patch), which asks for no boxes; at the default 0 it is that of an ordinary CLIP, which
    is what an exported model computes.

    Args:
        dims: sizes of the backbone.
        w_gc: weight of the global contrast.
        w_lrc: weight of the lexeme-region contrast.
        w_gr: weight of the global-region alignment.
        gr_target: ``phrase`` (the phrase as a text of its own), ``crop`` or ``image``.
        local_weight: weight of the token-patch score in the similarity.
    """

    def __init__(
        self,
        dims: Dims,
        *,
        w_gc: float = 1.0,
        w_lrc: float = 1.0,
        w_gr: float = 1.0,
        gr_target: GrTarget = "phrase",
        local_weight: float = 0.0,
    ) -> None:
        super().__init__(dims)
        check_weights(w_gc=w_gc, w_lrc=w_lrc, w_gr=w_gr)
        if gr_target not in NEEDS:
            raise ConfigError(unknown("gr_target", gr_target, NEEDS))
        self.w_gc, self.w_lrc, self.w_gr = w_gc, w_lrc, w_gr
        self.gr_target, self.local_weight = gr_target, local_weight
        needs = {"patches", "tokens", "links"}
        self.needs = frozenset(needs | {NEEDS[gr_target]}) if w_gr else frozenset(needs)
        self.temperature = Temperature(dims.scale)
        self.lexeme_temperature = Temperature(dims.scale)
        contrasts = bool(w_gr) and gr_target != "crop"
        self.region_temperature = Temperature(dims.scale) if contrasts else None

    @property
    def terms(self) -> tuple[Term, ...]:
        w = self.local_weight
        return (Dot("global"), MeanMax("local", i2t=0.0, t2i=w)) if w else (Dot("global"),)

    def encode_image(self, x: Features) -> Embeddings:
        groups = {"global": normalised(x.require("image_global"))}
        if self.local_weight:
            groups["local"] = normalised(x.require("image_patches"))
        if x.links is None:
            return Embeddings(groups)
        mask = x.links.mask
        regions = pool_regions(x.require("image_patches"), self.dims.grid, x.links.boxes)
        groups["regions"] = regions * mask[..., None]
        if x.image_crops is not None:
            groups["crops"] = normalised(x.image_crops).detach() * mask[..., None]
        masks = {name: mask for name in groups if name in ("regions", "crops")}
        return Embeddings(groups, masks, extra={"overlaps": x.links.regions})

    def encode_text(self, x: Features) -> Embeddings:
        groups, masks = {"global": normalised(x.require("text_global"))}, {}
        tokens, token_mask = x.require("text_tokens"), x.require("text_mask")
        if self.local_weight:
            groups["local"] = normalised(tokens) * token_mask[..., None]
            masks["local"] = token_mask
        if x.links is None:
            return Embeddings(groups, masks)
        mask = x.links.mask
        groups["lexemes"] = pool_words(tokens, token_mask, x.links.words) * mask[..., None]
        if x.text_phrases is not None:
            groups["phrases"] = normalised(x.text_phrases) * mask[..., None]
        masks |= {name: mask for name in groups if name in ("lexemes", "phrases")}
        labels, regions = {"lexemes": x.links.labels}, {"regions": x.links.regions[..., 0]}
        return Embeddings(groups, masks, labels=labels, extra=regions)

    def loss(self, image: Embeddings, text: Embeddings) -> dict[str, Tensor]:
        losses = {"gc": Dot("global").contrast(image, text, self.temperature())}
        if "regions" in image.groups:
            text = text.rows(slice(len(image)))  # hard negatives speak of no region
            losses["lrc"] = _contrast(image, text, "lexemes", self.lexeme_temperature())
            if self.w_gr:
                losses["gr"] = self._global_region(image, text)
        weights = {"gc": self.w_gc, "lrc": self.w_lrc, "gr": self.w_gr}
        total = sum(weights[name] * value for name, value in losses.items())
        assert isinstance(total, Tensor)
        return {"loss": total, **losses}

    def _global_region(self, image: Embeddings, text: Embeddings) -> Tensor:
        regions, mask = image["regions"], image.masks["regions"]
        if self.gr_target == "crop":
            distance = 1 - (regions * image["crops"]).sum(-1)
            return current_ranks().mean(distance, mask)
        assert self.region_temperature is not None
        scale = self.region_temperature()
        if self.gr_target == "phrase":
            return _contrast(image, text, "phrases", scale)
        pictures = _pictures(image)
        ids = pictures[:, None].expand_as(mask).flatten(), pictures
        return info_nce(regions.flatten(0, 1), image["global"], scale, ids, (mask.flatten(), None))

    def phrase_vectors(self, text: Features) -> Tensor:
        """The phrase as a lexeme, which the second loss compares regions with, (B,D)."""
        return pool_phrase(text.require("text_tokens"), text.require("text_mask"))

    def patch_map(self, image: Features, text: Features) -> Tensor:
        """How well each patch matches the phrase as a lexeme, (B,M)."""
        lexeme = self.phrase_vectors(text)[..., None]
        return (normalised(image.require("image_patches")) @ lexeme)[..., 0]


def _contrast(image: Embeddings, text: Embeddings, phrases: str, scale: Tensor) -> Tensor:
    """InfoNCE of all linked (region, phrase) pairs (B,P,D) of the batch."""
    real = image.masks["regions"].flatten()
    labels = text.labels["lexemes"].flatten()
    first = _pictures(image)[:, None] * MOST_REGIONS
    overlaps, regions = image.extra["overlaps"], text.extra["regions"]
    ids = (overlaps + first[..., None]).masked_fill(overlaps < 0, -1)
    left_out = ids.flatten(0, 1), (regions + first).flatten()
    x, y = image["regions"].flatten(0, 1), text[phrases].flatten(0, 1)
    return info_nce(x, y, scale, (labels, labels), (real, real), left_out)


def _pictures(image: Embeddings) -> Tensor:
    """(B,) of whole pictures, whatever they bear."""
    if image.ids is None:
        ranks, device = current_ranks(), image["global"].device
        return torch.arange(len(image), device=device) * ranks.size + ranks.rank
    return image.ids[:, 0] if image.ids.ndim == 2 else image.ids
