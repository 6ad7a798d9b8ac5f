"""Region retrieval: find the regions that a phrase names among those of all pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intarsia.data.problems import Problems
from intarsia.errors import DataError
from intarsia.evaluation.boxes import TEXTS_AT_ONCE, roi_vectors, square_input
from intarsia.evaluation.harness import Evaluation
from intarsia.evaluation.mentions import mentions, readable, regions_inside
from intarsia.evaluation.metrics import Array, Outcomes, median_metric, require_no_nan, summarise
from intarsia.model import Model
from intarsia.types import Box, Record

RECALL_AT = (1, 5, 10)
QUERIES_AT_ONCE = 256


@dataclass(frozen=True, slots=True, eq=False)
class Collection:
    """The vectors of all regions (N,D), and for each query the places of those it names."""

    vectors: Tensor
    right: dict[str, list[int]]


def evaluate_region_retrieval(
    model: Model, records: Sequence[Record], problems: Problems
) -> Evaluation:
    """Recall@1/5/10 of the regions that a phrase names among the regions of all pictures.

    A query is a distinct text of the whole collection, in lower case: a phrase, or the name of a
    category in records without phrases. Any region that some record says it of is right. A region
    that it would fit as well, but is not said of, counts as wrong: figures are lower bounds, to be
    compared between models only. Pictures are seen whole, in the corner of a black square.

    Raises:
        DataError: no text names a region, too many pictures are bad, or a score is NaN.
    """
    model.eval()
    with square_input(model, None):
        found = _collect(model, readable([r for r in records if r.regions], problems), problems)
        problems.check()
        if not found.right:
            raise DataError(f"none of {len(records)} records has a phrase or a label with a box")
        queries = _phrase_vectors(model, list(found.right))
    ranks = best_ranks(queries, found.vectors, list(found.right.values()))
    outcomes = {f"r{k}": Outcomes.of_hits(ranks < k) for k in RECALL_AT}
    named = np.array([len(places) for places in found.right.values()])
    outcomes["r1_chance"] = Outcomes(100 * named / len(found.vectors))
    metrics = summarise(outcomes) | {"median_rank": median_metric(ranks + 1)}
    return Evaluation(metrics, outcomes)


def best_ranks(queries: Tensor, regions: Tensor, right: Sequence[Sequence[int]]) -> Array:
    """How many wrong regions score at least as high as the best right one of each query, (Q,).

    Args:
        queries: (Q,D).
        regions: (N,D).
        right: for each query the places of the regions it names.

    Raises:
        DataError: a score is NaN.

    >>> regions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    >>> best_ranks(torch.tensor([[1.0, 0.0]]), regions, [[1, 2]]).tolist()
    [1]
    """
    ranks = []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        scores = queries[start : start + QUERIES_AT_ONCE] @ regions.mT
        require_no_nan(scores.numpy(force=True), "the scores of the regions")
        is_right = torch.zeros_like(scores, dtype=torch.bool)
        for row, places in enumerate(right[start : start + QUERIES_AT_ONCE]):
            is_right[row, list(places)] = True
        best = scores.masked_fill(~is_right, -torch.inf).amax(1, keepdim=True)
        ranks.append(((scores >= best) & ~is_right).sum(1))
    return np.asarray(torch.cat(ranks).numpy(force=True))


def _collect(
    model: Model, pictures: Iterable[tuple[Record, Image.Image]], problems: Problems
) -> Collection:
    vectors: list[Tensor] = []
    right: dict[str, list[int]] = {}
    total = 0
    waiting = iter(pictures)
    while some := list(islice(waiting, model.backbone.images_at_once)):
        images: list[Image.Image] = []
        boxes: list[list[Box]] = []
        for record, image in some:
            regions = regions_inside(record, image.size, problems)
            if not regions:
                continue
            places = dict(zip(regions, range(total, total + len(regions)), strict=True))
            total += len(regions)
            images.append(image)
            boxes.append([region.box for region in regions.values()])
            for text, meanings in mentions(record).items():
                named = [places[index] for index in sorted(set().union(*meanings) & places.keys())]
                if named:
                    right.setdefault(text.lower(), []).extend(named)
        if images:
            vectors.append(roi_vectors(model, images, boxes).float().cpu())
    return Collection(torch.cat(vectors) if vectors else torch.zeros(0, 0), right)


@torch.inference_mode()
def _phrase_vectors(model: Model, texts: Sequence[str]) -> Tensor:
    """(Q,D) normalised, on the CPU."""
    parts = [
        model.method.phrase_vectors(model.text_features(texts[start : start + TEXTS_AT_ONCE]))
        for start in range(0, len(texts), TEXTS_AT_ONCE)
    ]
    return torch.cat(parts).float().cpu()
