"""Hard-negative accuracy: does the true caption score strictly higher than the false one?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from intarsia.errors import ShapeError
from intarsia.evaluation.metrics import Array, Metric, Outcomes, require_no_nan, summarise


def hard_negative_outcomes(
    positive: Tensor, negative: Tensor, kinds: Sequence[str], clusters: Array | None = None
) -> dict[str, Outcomes]:
    """Hits of each kind, of all kinds weighed alike (``macro``) and of all queries (``micro``).

    Args:
        positive: (Q,) scores of the true captions.
        negative: (Q,) scores of the false ones; a tie is wrong.
        kinds: The kind of each query's false caption.
        clusters: (Q,) picture of each query, where a picture has several.

    Raises:
        ShapeError: The three do not have one entry a query.
        DataError: A score is NaN.
    """
    if not len(positive) == len(negative) == len(kinds):
        raise ShapeError(
            f"{len(positive)} positive scores, {len(negative)} negative scores and "
            f"{len(kinds)} kinds; there must be one of each a query"
        )
    true, false = positive.float().numpy(force=True), negative.float().numpy(force=True)
    require_no_nan(true, "the positive scores")
    require_no_nan(false, "the negative scores")
    every = Outcomes.of_hits(true > false, clusters)
    labels = np.array(kinds)
    outcomes = {}
    for kind in dict.fromkeys(kinds):
        mine = labels == kind
        outcomes[kind] = Outcomes(every.values[mine], None if clusters is None else clusters[mine])
    outcomes["macro"] = Outcomes(every.values, clusters, labels)
    outcomes["micro"] = every
    return outcomes


def hard_negative_metrics(
    positive: Tensor, negative: Tensor, kinds: Sequence[str], clusters: Array | None = None
) -> dict[str, Metric]:
    """Accuracy in percent of each kind, ``macro`` and ``micro``, with n and 95% interval.

    >>> import torch
    >>> scores = torch.tensor([0.9, 0.8, 0.7, 0.5]), torch.tensor([0.1, 0.2, 0.7, 0.6])
    >>> metrics = hard_negative_metrics(*scores, ["swap", "add", "add", "add"])
    >>> {name: round(metric.value, 1) for name, metric in metrics.items()}
    {'swap': 100.0, 'add': 33.3, 'macro': 66.7, 'micro': 50.0}
    """
    return summarise(hard_negative_outcomes(positive, negative, kinds, clusters))
