"""Linear probe: how much of the classes is in a model's frozen global vectors?

A multinomial logistic regression on the vectors of labelled training pictures, by L-BFGS. Vectors
are normalised, centred and scaled by one number, so that one grid of penalties suits every model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from intarsia.data.problems import Problems
from intarsia.errors import DataError
from intarsia.evaluation.boxes import label_ranks
from intarsia.evaluation.harness import Evaluation
from intarsia.evaluation.metrics import Array, summarise
from intarsia.evaluation.zero_shot import class_labels, class_outcomes, global_vectors
from intarsia.model import Model
from intarsia.runtime import progress
from intarsia.types import Record

PENALTIES = tuple(10.0**power for power in range(0, -7, -1))
HELD_OUT = 0.2
STEPS = 300


@dataclass(frozen=True)
class ProbeEvaluation(Evaluation):
    """An evaluation and the ``penalty`` that was chosen for it."""

    penalty: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """Scores of C classes: ``weight`` (C,D) and ``bias`` (C,) on vectors less ``centre`` (D,),
    divided by ``scale``."""

    weight: Tensor
    bias: Tensor
    centre: Tensor
    scale: Tensor

    def scores(self, vectors: Tensor) -> Tensor:
        """(I,D) -> (I,C)."""
        return F.linear((vectors - self.centre) / self.scale, self.weight, self.bias)


def evaluate_probe(
    model: Model,
    train: Sequence[Record],
    test: Sequence[Record],
    problems: Problems,
    *,
    names: Sequence[str],
) -> ProbeEvaluation:
    """Top-1 and top-5 on ``test`` of a logistic regression on the global vectors of ``train``.

    The penalty is the one with the most hits on a fifth of each class of ``train`` that is held
    out, of equals the greatest; the regression is then fitted on all of ``train``.

    Args:
        model: whose vectors are probed; it is not trained.
        train: pictures whose one caption is the name of their class.
        test: others.
        problems: collects unreadable pictures of both.
        names: of all classes.

    Raises:
        DataError: a caption is no class, no class has two training pictures, or too many pictures
            are bad.
    """
    asked, scores, penalty = probe_scores(model, train, test, problems, names=names)
    true = class_labels(asked, names)
    outcomes = class_outcomes(label_ranks(scores, true), true, len(names))
    return ProbeEvaluation(summarise(outcomes), outcomes, penalty=penalty)


def probe_scores(
    model: Model,
    train: Sequence[Record],
    test: Sequence[Record],
    problems: Problems,
    *,
    names: Sequence[str],
) -> tuple[Sequence[Record], Tensor, float]:
    """The readable records of ``test``, their scores of the classes (I,C), and the penalty.

    The arguments and errors are those of :func:`evaluate_probe`.
    """
    for records in (train, test):
        class_labels(records, names)
    (known, vectors), (asked, others) = (
        global_vectors(model, records, problems) for records in (train, test)
    )
    labels = class_labels(known, names)
    generator = torch.Generator().manual_seed(0)
    penalty = choose_penalty(vectors, labels, len(names), generator)
    return asked, fit_probe(vectors, labels, len(names), penalty).scores(others), penalty


def fit_probe(
    vectors: Tensor,
    labels: Array,
    num_classes: int,
    penalty: float,
    start: Probe | None = None,
) -> Probe:
    """Minimise mean cross-entropy + ``penalty`` / 2 * ||weight||^2; the bias is free.

    Args:
        vectors: (I,D).
        labels: (I,) classes from 0 to ``num_classes`` - 1.
        num_classes: C.
        penalty: of the weights, on vectors that are centred and have a mean square norm of 1.
        start: where to begin; None = zero.
    """
    centre = vectors.mean(0)
    scale = (vectors - centre).square().sum(1).mean().sqrt().clamp(min=1e-12)
    inputs, target = (vectors - centre) / scale, torch.from_numpy(labels)
    fresh = torch.zeros(num_classes, vectors.shape[1]), torch.zeros(num_classes)
    weight, bias = fresh if start is None else (start.weight.clone(), start.bias.clone())
    weight.requires_grad_(), bias.requires_grad_()
    optimiser = torch.optim.LBFGS(
        [weight, bias],
        max_iter=STEPS,
        tolerance_grad=1e-6,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(F.linear(inputs, weight, bias), target)
        value = value + penalty / 2 * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return Probe(weight.detach(), bias.detach(), centre, scale)


def choose_penalty(
    vectors: Tensor, labels: Array, num_classes: int, generator: torch.Generator
) -> float:
    """The penalty with the most hits on held-out vectors; of equals the greatest.

    Raises:
        DataError: no class has two vectors, so that none can be held out.
    """
    out = held_out(labels, generator)
    if not out.any():
        raise DataError(
            f"no class has two of the {len(labels)} training pictures: one to fit and one to "
            "choose the penalty by are needed"
        )
    hits: dict[float, float] = {}
    probe = None
    for penalty in progress(PENALTIES, "fitting with each penalty"):
        probe = fit_probe(vectors[~out], labels[~out], num_classes, penalty, probe)
        hits[penalty] = float((label_ranks(probe.scores(vectors[out]), labels[out]) == 0).mean())
    return max(hits, key=lambda penalty: hits[penalty])


def held_out(labels: Array, generator: torch.Generator) -> Array:
    """(I,) True for a random fifth of each class: at least one of it, but never all.

    >>> held_out(np.array([0] * 10 + [1] * 2 + [2]), torch.Generator()).sum()
    np.int64(3)
    """
    out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = torch.randperm(len(members), generator=generator).numpy()
        number = min(max(1, round(HELD_OUT * len(members))), len(members) - 1)
        out[members[order[:number]]] = True
    return out
