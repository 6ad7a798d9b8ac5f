"""Region retrieval: find the regions that a phrase names among those of all pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intarsia.data.problems import Problems
from intarsia.data.records import chosen
from intarsia.errors import DataError
from intarsia.evaluation.boxes import TEXTS_AT_ONCE, roi_vectors, square_input
from intarsia.evaluation.harness import Evaluation
from intarsia.evaluation.mentions import mentions, readable, regions_inside
from intarsia.evaluation.metrics import Array, Outcomes, median_metric, require_no_nan, summarise
from intarsia.model import Model
from intarsia.ops.true_texts import same_words
from intarsia.runtime import chunks
from intarsia.types import Box, Record

RECALL_AT = (1, 5, 10)
QUERIES_AT_ONCE = 256


@dataclass(frozen=True, slots=True, eq=False)
class Collection:
    """The regions of all pictures, (record, box) with their vectors (N,D), and the queries: the
    places of the regions that each text names, and the texts' vectors (Q,D)."""

    regions: list[tuple[Record, Box]]
    vectors: Tensor
    right: dict[str, list[int]]
    queries: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Of each query: how many wrong regions score at least as high as its best right one, and the
    places of the best right and the best wrong region; (Q,) each."""

    ranks: Array
    right: Array
    wrong: Array


def evaluate_region_retrieval(
    model: Model, records: Sequence[Record], problems: Problems
) -> Evaluation:
    """Recall@1/5/10 of the regions that a phrase names among the regions of all pictures.

    A query is a distinct text of the whole collection, whatever its letter case and white space: a
    phrase, or the name of a category in records without phrases. Any region that some record says
    it of is right. A region that it would fit as well, but is not said of, counts as wrong: figures
    are lower bounds, to be compared between models only. Pictures are seen whole, in the corner of
    a black square.

    Raises:
        DataError: no text names a region, too many pictures are bad, or a score is NaN.
    """
    found = collect_regions(model, records, problems)
    ranks = rank_regions(found.queries, found.vectors, list(found.right.values())).ranks
    outcomes = {f"r{k}": Outcomes.of_hits(ranks < k) for k in RECALL_AT}
    named = np.array([len(places) for places in found.right.values()])
    outcomes["r1_chance"] = Outcomes(100 * named / len(found.vectors))
    metrics = summarise(outcomes) | {"median_rank": median_metric(ranks + 1)}
    return Evaluation(metrics, outcomes)


def collect_regions(model: Model, records: Sequence[Record], problems: Problems) -> Collection:
    """The regions and the texts that name them, as the protocol sees them, on the CPU.

    Raises:
        DataError: no text names a region, or too many pictures are bad.
    """
    regions: list[tuple[Record, Box]] = []
    vectors: list[Tensor] = []
    right: dict[str, set[int]] = {}
    with square_input(model, None):
        pictures = readable(chosen(records, lambda record: bool(record.regions)), problems)
        for some in chunks(pictures, model.backbone.images_at_once):
            images: list[Image.Image] = []
            boxes: list[list[Box]] = []
            for record, image in some:
                inside = regions_inside(record, image.size, problems)
                if not inside:
                    continue
                places = {index: len(regions) + i for i, index in enumerate(inside)}
                images.append(image)
                boxes.append([region.box for region in inside.values()])
                regions += [(record, box) for box in boxes[-1]]
                for text, named in _named(record, places).items():
                    right.setdefault(same_words(text), set()).update(named)
            if images:
                vectors.append(roi_vectors(model, images, boxes).float().cpu())
        problems.check()
        if not right:
            raise DataError(f"none of {len(records)} records has a phrase or a label with a box")
        named_by = {text: sorted(named) for text, named in right.items()}
        queries = phrase_vectors(model, list(named_by))
        return Collection(regions, torch.cat(vectors), named_by, queries)


def rank_regions(queries: Tensor, regions: Tensor, right: Sequence[Sequence[int]]) -> Ranking:
    """Where the regions that each query names come among all.

    Args:
        queries: (Q,D).
        regions: (N,D).
        right: for each query the places of the regions it names.

    Raises:
        DataError: a score is NaN.

    >>> regions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    >>> found = rank_regions(torch.tensor([[1.0, 0.0]]), regions, [[1, 2]])
    >>> found.ranks.tolist(), found.right.tolist(), found.wrong.tolist()
    ([1], [2], [0])
    """
    parts = []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        scores = queries[start : start + QUERIES_AT_ONCE] @ regions.mT
        require_no_nan(scores.numpy(force=True), "the scores of the regions")
        is_right = torch.zeros_like(scores, dtype=torch.bool)
        for row, places in enumerate(right[start : start + QUERIES_AT_ONCE]):
            is_right[row, list(places)] = True
        best, own = scores.masked_fill(~is_right, -torch.inf).max(1, keepdim=True)
        others = scores.masked_fill(is_right, -torch.inf)
        parts.append(torch.stack([(others >= best).sum(1), own[:, 0], others.argmax(1)]))
    return Ranking(*torch.cat(parts, 1).numpy(force=True))


def _named(record: Record, places: Mapping[int, int]) -> dict[str, list[int]]:
    """The places of the regions that each text of a record names, if it has any."""
    found = {
        text: [places[index] for index in sorted(set().union(*meanings) & places.keys())]
        for text, meanings in mentions(record).items()
    }
    return {text: named for text, named in found.items() if named}


@torch.inference_mode()
def phrase_vectors(model: Model, texts: Sequence[str]) -> Tensor:
    """(Q,D) normalised, on the CPU."""
    parts = [
        model.method.phrase_vectors(model.text_features(texts[start : start + TEXTS_AT_ONCE]))
        for start in range(0, len(texts), TEXTS_AT_ONCE)
    ]
    return torch.cat(parts).float().cpu()
