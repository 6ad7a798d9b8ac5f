"""Finding the weights of ComAlign's similarity on training pictures (ComAlign eq. 10 and 11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from intarsia.data.problems import Problems
from intarsia.drawing import save
from intarsia.errors import ConfigError
from intarsia.evaluation.harness import encoded_pictures
from intarsia.evaluation.retrieval import first_captions, similarity_terms
from intarsia.evaluation.vectors import all_texts, together
from intarsia.model import Model
from intarsia.runtime import atomic, progress
from intarsia.terms.similarity import pairwise_scores
from intarsia.types import Embeddings, Record

GRID = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
RECALL_AT = (1, 5, 10)


@dataclass(frozen=True)
class Tuning:
    """Mean of R@1/5/10 in percent at every point of the grid, and the best point.

    ``i2t`` (G,G) over alpha1 and alpha2, ``t2i`` (G,) over beta1.
    """

    grid: tuple[float, ...]
    i2t: Tensor
    t2i: Tensor
    alpha1: float
    alpha2: float
    beta1: float
    n: int

    def as_dict(self) -> dict[str, object]:
        names = ("alpha1", "alpha2", "beta1", "n", "grid")
        tables = {"i2t": self.i2t.tolist(), "t2i": self.t2i.tolist()}
        return {name: getattr(self, name) for name in names} | tables


@torch.inference_mode()
def tune(model: Model, records: Sequence[Record], problems: Problems, captions: int = 5) -> Tuning:
    """Search the grid on ``records`` and set the model's mixture to the best point.

    Of equals the smallest weights win. Never use the split that you report.

    Raises:
        ConfigError: the method has no mixture.
    """
    mixture = getattr(model.method, "mixture", None)
    if not isinstance(mixture, Tensor):
        raise ConfigError(f"{type(model.method).__name__} has no weights to tune; ComAlign has")
    good, image = encoded_pictures(
        model, records, problems, lambda r: bool(r.captions), "a caption"
    )
    texts, truth = first_captions(good, captions)
    correct = truth.mask(torch.arange(len(good)), torch.arange(len(texts)))
    mixture.fill_(1.0)
    image, text = together(image, all_texts(model, texts))
    (base_i2t, i2t, reverse), (base_t2i, t2i) = _summands(model, image, text)
    correct = correct.to(base_i2t.device)
    weights = list(product(GRID, GRID))
    across = torch.tensor(
        [
            _recall(base_i2t + a * i2t + b * reverse, correct)
            for a, b in progress(weights, "weights")
        ]
    ).view(len(GRID), len(GRID))
    back = torch.tensor([_recall((base_t2i + b * t2i).mT, correct.mT) for b in GRID])
    first, second = divmod(int(across.argmax()), len(GRID))
    found = Tuning(
        GRID, across, back, GRID[first], GRID[second], GRID[int(back.argmax())], len(good)
    )
    mixture.copy_(torch.tensor([found.alpha1, found.alpha2, found.beta1]))
    return found


def _summands(
    model: Model, image: Embeddings, text: Embeddings
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(I,T) each: the base's score, what alpha1 and what alpha2 weighs; and the base's, what beta1
    weighs. The mixture is 1 throughout."""
    terms = similarity_terms(model.method, image, text)
    base = [term for term in terms if term.group == "base"]
    own = [replace(term, reverse=0.0) for term in terms if term.group != "base"]
    reverse = [replace(term, i2t=0.0) for term in terms if term.directed]
    base_i2t, base_t2i = pairwise_scores(image, text, base)
    own_i2t, own_t2i = pairwise_scores(image, text, own)
    return (base_i2t, own_i2t, pairwise_scores(image, text, reverse)[0]), (base_t2i, own_t2i)


def _recall(scores: Tensor, correct: Tensor) -> float:
    """The mean of R@1/5/10 of queries (rows) among items (columns)."""
    best = scores.masked_fill(~correct, -torch.inf).amax(1, keepdim=True)
    before = ((scores >= best) & ~correct).sum(1)
    return sum(100 * float((before < k).float().mean()) for k in RECALL_AT) / len(RECALL_AT)


def plot(found: Tuning, path: Path) -> None:
    """The paper's figure 6: recall over each weight, the others at their best."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    i, j = found.grid.index(found.alpha1), found.grid.index(found.alpha2)
    curves = {
        "alpha1": (found.i2t[:, j], found.alpha1),
        "alpha2": (found.i2t[i], found.alpha2),
        "beta1": (found.t2i, found.beta1),
    }
    for axis, (name, (values, best)) in zip(
        figure.subplots(1, 3, sharey=False), curves.items(), strict=True
    ):
        axis.plot(found.grid, values.numpy(), marker="o", markersize=3)
        axis.axvline(best, linewidth=1, linestyle="--", color="tab:red")
        axis.set(xlabel=f"{name} (best {best:g})", ylabel="mean of R@1, 5, 10 (%)")
        axis.set_title("text to image" if name == "beta1" else "image to text")
    with atomic(path) as draft:
        save(figure, draft, format=path.suffix[1:], dpi=120)
