"""Ranking a test set with a sum of terms, streamed, against the bare matrix products.

``python -m benchmarks.scoring``: a small test set with its baselines, then COCO's size.
"""

from __future__ import annotations

import torch
from benchmarks import harness
from benchmarks.harness import Case, Runs
from torch import Tensor
from torch.nn.functional import normalize

from intarsia.evaluation.retrieval import rank_with_top
from intarsia.terms import Dot, MeanMax
from intarsia.terms.similarity import halved, pairwise_scores
from intarsia.types import Embeddings

TERMS = (Dot("global"), MeanMax("entities"), MeanMax("relations"))
PRODUCTS_AT_ONCE = 2560  # rows of the bare products: as fast as any, and they fit in memory


def ranking(I: int, T: int, K: int, D: int, device: str = "cpu") -> Runs:  # noqa: E741
    runs = streamed(I, T, K, D, device)
    image, text = embeddings(I, K, D, 0, device), embeddings(T, K, D, 1, device)
    owner = owners(I, T)
    whole_image, whole_text = halved(image), halved(text)
    baselines = {
        "streamed float32": lambda: rank_with_top(image, text, TERMS, owner),
        "whole matrix bfloat16": lambda: whole(whole_image, whole_text),
    }
    return Runs(runs.ours, baselines, runs.limit)


def streamed(I: int, T: int, K: int, D: int, device: str = "cpu") -> Runs:  # noqa: E741
    image = halved(embeddings(I, K, D, 0, device))
    text = halved(embeddings(T, K, D, 1, device))
    owner = owners(I, T)
    return Runs(
        lambda: rank_with_top(image, text, TERMS, owner),
        limit=("bf16 GEMMs", lambda: products(image, text)),
    )


def whole(image: Embeddings, text: Embeddings) -> tuple[Tensor, Tensor]:
    """All scores at once, sorted: what the stream replaces."""
    i2t, t2i = pairwise_scores(image, text, TERMS)
    return i2t.argsort(1, descending=True), t2i.argsort(0, descending=True)


def products(image: Embeddings, text: Embeddings) -> None:
    """Each group's products, a block at a time into the same memory."""
    for name in image.groups:
        x, y = (side[name].reshape(-1, side[name].shape[-1]) for side in (image, text))
        numbers = x.new_empty(len(x) * min(len(y), PRODUCTS_AT_ONCE))
        for part in y.split(PRODUCTS_AT_ONCE):
            out = numbers[: len(x) * len(part)].view(len(x), len(part))
            torch.mm(x, part.mT, out=out)


def embeddings(rows: int, k: int, d: int, seed: int, device: str = "cpu") -> Embeddings:
    generator = torch.Generator(device).manual_seed(seed)
    sizes = {"global": (rows, d), "entities": (rows, k, d), "relations": (rows, k, d)}
    groups = {
        name: torch.randn(*size, generator=generator, device=device) for name, size in sizes.items()
    }
    return Embeddings({name: normalize(x, dim=-1) for name, x in groups.items()})


def owners(num_images: int, num_texts: int) -> Tensor:
    return torch.arange(num_texts) // (num_texts // num_images)


CASES = [Case("rank + top 10", ranking, {"I": 500, "T": 2500, "K": 10, "D": 512})]
COCO = Case("rank + top 10", streamed, {"I": 5000, "T": 25000, "K": 10, "D": 512})

if __name__ == "__main__":
    harness.run("scoring", CASES)
    harness.run("scoring_coco", [COCO])
