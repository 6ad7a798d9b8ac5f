"""From a batch to gradients in the weights: at once, or with gradient caching."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from intarsia.model import Model
from intarsia.ops.ranks import across_ranks
from intarsia.training.checkpoint import random_state, restore_random_state
from intarsia.training.checks import check_batch_norm
from intarsia.types import Batch, Embeddings

Tensors = dict[str, Tensor]
Embed = Callable[[Batch], tuple[Embeddings, Embeddings]]


class GradientStep:
    """Adds the gradients of batches to a model's weights.

    With ``chunk`` a batch may be far beyond memory (gradient caching; Gao et al. 2021, "Scaling
    Deep Contrastive Learning Batch Size under Memory Limited Setup"): its pairs are embedded a
    chunk at a time without a graph, the loss of all embeddings gives the gradient of each, and the
    chunks are embedded once more, now with a graph, to carry these gradients on to the weights.
    A chunk meets the same random numbers both times, so the gradients are those of one pass that
    draws its dropout chunk by chunk. The price is one more forward pass.

    Args:
        fabric: launched.
        model: what trains, in training mode.
        chunk: pairs embedded at a time; None = the whole batch.
        compile: embed with ``torch.compile``. The model itself stays as it is, so that its state
            has the same names and whoever else calls it runs no graph.

    Raises:
        ConfigError: with ``chunk``, a layer of the model mixes the pairs of a batch.
    """

    def __init__(
        self, fabric: Fabric, model: Model, chunk: int | None, *, compile: bool = False
    ) -> None:
        if chunk is not None:
            check_batch_norm(model)
        self.fabric, self.model, self.chunk = fabric, model, chunk
        self.embed = _compiled(model.embed) if compile else model.embed
        self.module = fabric.setup_module(_Worker(model))

    def add(self, batch: Batch, *, share: float = 1.0, sync: bool = True) -> Tensors:
        """Add ``share`` times the gradient of the batch's loss; ``sync``: averaged over the ranks.

        Returns:
            What the method's ``loss`` gave, without a graph.
        """
        with self.fabric.autocast():  # once, whatever is embedded twice or in a graph
            batch = replace(batch, crops=self.model.crops(batch))
        alone = self.fabric.world_size == 1
        with nullcontext() if alone else across_ranks():
            if self.chunk is None or self.chunk >= len(batch):
                losses = self._backward(lambda: self._losses(batch), share, sync)
            else:
                losses = self._add_by_chunks(batch, self.chunk, share, sync)
        return {name: value.detach() for name, value in losses.items()}

    def _add_by_chunks(self, batch: Batch, size: int, share: float, sync: bool) -> Tensors:
        chunks = [slice(start, start + size) for start in range(0, len(batch), size)]
        states, images, texts = zip(*(self._embed(batch.rows(c)) for c in chunks), strict=True)
        image = Embeddings.concatenate(images).map(_leaf)
        text, places = _pairs_first(texts, [len(part) for part in images])
        text = text.map(_leaf)
        losses = self._backward(lambda: self.model.losses(image, text), share, False)
        after = random_state()
        for chunk, state, where in zip(chunks, states, places, strict=True):
            restore_random_state(state)
            gradients = _gradients(image, chunk), _gradients(text, where)
            self._replay(batch.rows(chunk), *gradients, sync=sync and chunk == chunks[-1])
        restore_random_state(after)
        return losses

    def _losses(self, batch: Batch) -> Tensors:
        return self.model.losses(*self.embed(batch))

    def _embed(self, part: Batch) -> tuple[dict[str, Any], Embeddings, Embeddings]:
        """The random state before, and the embeddings without a graph."""
        state = random_state()
        with torch.no_grad(), self.fabric.autocast():
            return state, *self.embed(part)

    def _replay(self, part: Batch, image: Tensors, text: Tensors, *, sync: bool) -> None:
        """Carry the gradients of a chunk's embeddings on to the weights."""

        def products() -> Tensors:
            new_image, new_text = self.embed(part)
            found = [*_products(new_image, image), *_products(new_text, text)]
            return {"loss": torch.stack(found).sum()}

        self._backward(products, 1 / self._loss_scale(), sync)

    def _backward(self, work: Callable[[], Tensors], share: float, sync: bool) -> Tensors:
        with self.fabric.no_backward_sync(self.module, enabled=not sync):
            losses: Tensors = self.module(work)
            self.fabric.backward(losses["loss"] * share)
        return losses

    def _loss_scale(self) -> float:
        """What Fabric's backward pass multiplies by; the cached gradients have it already."""
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        return 1.0 if scaler is None else float(scaler.get_scale())


class _Worker(nn.Module):
    """What Fabric wraps: any work on the model then goes through its precision and DDP."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], Tensors]) -> Tensors:
        return work()


def _compiled(embed: Embed) -> Embed:
    """Graphs of earlier models are forgotten: torch keeps eight of one function, then no more."""
    torch.compiler.reset()
    compiled: Embed = torch.compile(embed)
    return compiled


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_(x.is_floating_point())


def _pairs_first(
    texts: Sequence[Embeddings], sizes: Sequence[int]
) -> tuple[Embeddings, list[Tensor]]:
    """The texts of all chunks, those of pairs before all false ones, as in a batch at once; and
    where each chunk's are among them."""
    parts = [text.rows(slice(size)) for text, size in zip(texts, sizes, strict=True)]
    false = [
        text.rows(slice(size, None))
        for text, size in zip(texts, sizes, strict=True)
        if len(text) > size
    ]
    whole = Embeddings.concatenate([*parts, *false])
    device = whole.groups[next(iter(whole.groups))].device
    rows = torch.arange(len(whole), device=device)
    true = rows[: sum(sizes)].split(list(sizes))
    untrue = rows[sum(sizes) :].split([len(t) - n for t, n in zip(texts, sizes, strict=True)])
    return whole, [torch.cat(both) for both in zip(true, untrue, strict=True)]


def _gradients(whole: Embeddings, rows: slice | Tensor) -> Tensors:
    """The gradients of some rows; what the loss does not use has none."""
    return {name: x.grad[rows] for name, x in _tensors(whole).items() if x.grad is not None}


def _tensors(embeddings: Embeddings) -> Tensors:
    """All that a loss may pull at."""
    extra = {f"extra {name}": x for name, x in embeddings.extra.items()}
    return embeddings.groups | extra


def _products(part: Embeddings, gradients: Tensors) -> list[Tensor]:
    """Scalars the gradient of whose sum with respect to the embeddings is ``gradients``, padding
    cut off; none where the loss pulls at the other side alone."""
    own = _tensors(part)
    return [(own[name] * _cut(g, own[name])).sum() for name, g in gradients.items()]


def _cut(gradient: Tensor, like: Tensor) -> Tensor:
    return gradient[:, : like.shape[1]] if like.ndim > 1 else gradient
