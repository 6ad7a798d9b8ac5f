"""The passes of text-conditioned pooling over blocks of pictures and texts.

A block's tensors have its texts last: logits are (a,H,M,c) for a pictures and c texts, so the
softmax runs over whole contiguous rows, and what the heads have pooled, (a,H,d,c), is (a,D,c) as it
lies, ready for the output projection. That projection is most of the work of a pair, D * D products
beside 2 * D * M, and folding it into the values would make M * H * D of them. But a score asks for
two numbers of the output only. Its product with the text is that of what is pooled with the text,
projected back once a text. Its norm does not change when the output is turned: turned by Q of
weight = Q R, the projection is a triangle, and half of its products are with zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from intarsia.ops.devices import memory_of

AT_ONCE = 2**21  # numbers of a block on a CPU: 8 MiB
MOST_TEXTS = 256  # of a block: with more there are fewer pictures, with fewer the products are thin
GPU_SHARE = 1 / 128  # of its memory, in float32
STRIPS = 4  # of the triangle: with as many, 5 / 8 of the square's products are left
LEAST = 1e-12  # norm


class Projected(NamedTuple):
    """What every pair is made of; the last key and value of each picture are zeros.

    ``queries`` (G,H,d,T), scaled; ``keys`` and ``values`` (I,H,M,d); ``weight`` (D,D) and ``bias``
    (D,) of the output; ``texts`` (G,D,T), what the pooled is compared with; ``allowed`` (I,M) bool,
    None = all. G is 1, or I where each picture has texts of its own.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    weight: Tensor
    bias: Tensor
    texts: Tensor
    allowed: Tensor | None

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.keys), self.texts.shape[2]

    @property
    def wide(self) -> torch.dtype:
        return _wide_type(self.keys)

    def blocks(self) -> Iterator[tuple[slice, slice]]:
        """Some pictures and some texts at a time, the texts of some pictures in a row."""
        num_pictures, num_texts = self.shape
        _, heads, patches, _ = self.keys.shape
        numbers = 3 * heads * patches + 6 * len(self.bias)
        device = self.keys.device
        at_once = AT_ONCE if device.type == "cpu" else int(GPU_SHARE * memory_of(device)) // 4
        c = max(1, min(num_texts, MOST_TEXTS, at_once // numbers))
        a = max(1, at_once // (numbers * c))
        for picture in range(0, num_pictures, a):
            for text in range(0, num_texts, c):
                yield slice(picture, picture + a), slice(text, text + c)

    def of(self, pictures: slice, texts: slice) -> _Block:
        own = pictures if len(self.texts) > 1 else slice(None)
        allowed = None if self.allowed is None else self.allowed[pictures]
        return _Block(
            self.queries[own, ..., texts],
            self.keys[pictures],
            self.values[pictures],
            self.weight,
            self.bias,
            self.texts[own, :, texts],
            allowed,
        )


@dataclass(frozen=True)
class _Block:
    """A block's parts of :class:`Projected`, and what comes of them for the backward pass."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    weight: Tensor
    bias: Tensor
    texts: Tensor
    allowed: Tensor | None

    @cached_property
    def attention(self) -> Tensor:
        """(a,H,M,c), its sum over M being 1."""
        logits = self.keys @ self.queries
        if self.allowed is not None:
            logits.masked_fill_(~self.allowed[:, None, :, None], -torch.inf)
        return logits.softmax(2, dtype=_wide_type(logits)).to(logits.dtype)

    @cached_property
    def pooled(self) -> Tensor:
        """(a,D,c), before the output projection."""
        return (self.values.mT @ self.attention).flatten(1, 2)

    @cached_property
    def output(self) -> Tensor:
        """(a,D,c), float32 or better."""
        return _wide(_each(self.weight, self.pooled)).add_(self.bias[:, None])

    @cached_property
    def norm(self) -> Tensor:
        """(a,c)"""
        return self.output.square().sum(1).sqrt_().clamp_min_(LEAST)

    @cached_property
    def scores(self) -> Tensor:
        """(a,c)"""
        return (self.output * self.texts).sum(1) / self.norm


def forward(all_: Projected) -> Tensor:
    """The cosines (I,T)."""
    scores = all_.keys.new_empty(all_.shape, dtype=all_.wide)
    triangle, shift = _turned(all_.weight, all_.bias)
    inward = all_.weight.mT @ all_.texts  # (G,D,T)
    offset = _wide(all_.bias) @ _wide(all_.texts)  # (G,T)
    for pictures, texts in all_.blocks():
        own = pictures if len(all_.texts) > 1 else slice(None)
        pooled = all_.of(pictures, texts).pooled
        dots = _wide(pooled * inward[own, :, texts]).sum(1).add_(offset[own, texts])
        scores[pictures, texts] = dots.div_(_norms(pooled, triangle, shift))
    return scores


def _turned(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """An upper triangle (D,D) and a shift (D,) that give outputs of the same norms."""
    q, r = torch.linalg.qr(_wide(weight))
    return r.to(weight.dtype), q.mT @ _wide(bias)


def _norms(pooled: Tensor, triangle: Tensor, shift: Tensor) -> Tensor:
    """Of the output of what is pooled (a,D,c): (a,c)."""
    total = shift.new_zeros(())
    width, step = len(shift), -(-len(shift) // STRIPS)
    for start in range(0, width, step):
        rows = slice(start, start + step)
        part = _wide(_each(triangle[rows, start:], pooled[:, start:])).add_(shift[rows, None])
        total = total + part.square_().sum(1)
    return total.sqrt_().clamp_min_(LEAST)


def _wide_type(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _wide(x: Tensor) -> Tensor:
    return x.to(_wide_type(x))


def backward(all_: Projected, grad: Tensor) -> list[Tensor]:
    """The gradients of all but ``allowed``, in their own types."""
    sums = [torch.zeros_like(part, dtype=all_.wide) for part in all_[:6]]
    for pictures, texts in all_.blocks():
        own = pictures if len(all_.texts) > 1 else slice(None)
        block = all_.of(pictures, texts)
        found = _gradients(block, grad[pictures, texts])
        places = (
            sums[0][own, ..., texts],
            sums[1][pictures],
            sums[2][pictures],
            sums[3],
            sums[4],
            sums[5][own, :, texts],
        )
        for place, part in zip(places, found, strict=True):
            place += part
    return [total.to(part.dtype) for total, part in zip(sums, all_[:6], strict=True)]


def _gradients(block: _Block, grad: Tensor) -> tuple[Tensor, ...]:
    """Of a block's queries, keys, values, weight, bias and texts."""
    kind, by_norm = block.keys.dtype, (grad / block.norm)[:, None]
    inward = block.output * (block.scores / block.norm)[:, None]
    by_output = (block.texts - inward) * by_norm  # (a,D,c)
    by_text = _as(block.output * by_norm, block.texts)
    narrow = by_output.to(kind)
    by_weight = torch.einsum("adc,aec->de", narrow, block.pooled)
    by_pooled = _each(block.weight.mT, narrow).unflatten(1, block.queries.shape[1:3])  # (a,H,d,c)
    by_values = block.attention @ by_pooled.mT
    pooled = block.pooled.view_as(by_pooled)
    mean = (pooled * by_pooled).sum(2, keepdim=True)  # of by_attention, weighed by attention
    by_logits = (block.values @ by_pooled).sub_(mean).mul_(block.attention)
    by_keys = by_logits @ block.queries.mT
    by_queries = _as(block.keys.mT @ by_logits, block.queries)
    return by_queries, by_keys, by_values, by_weight, by_output.sum((0, 2)), by_text


def _each(weight: Tensor, vectors: Tensor) -> Tensor:
    """(E,D), (a,D,c) -> (a,E,c); ``matmul`` would copy the vectors into one matrix first."""
    return torch.bmm(weight.expand(len(vectors), -1, -1), vectors)


def _as(gradient: Tensor, part: Tensor) -> Tensor:
    """Summed over pictures where these share the part."""
    return gradient if len(part) == len(gradient) else gradient.sum(0, keepdim=True)
