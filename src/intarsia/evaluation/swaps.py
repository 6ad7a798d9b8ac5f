"""Hard-negative accuracy on captions whose words are bound to one another in another way."""

from __future__ import annotations

from collections.abc import Sequence

from intarsia.components.swapping import swaps
from intarsia.components.text import TextParser
from intarsia.data.problems import Problems
from intarsia.evaluation.harness import Evaluation, evaluate_negatives
from intarsia.model import Model
from intarsia.types import Record

__all__ = ["evaluate_swaps", "swaps"]


def evaluate_swaps(model: Model, records: Sequence[Record], problems: Problems) -> Evaluation:
    """Share of swapped and shuffled captions that score strictly below the true one, by kind."""
    return evaluate_negatives(model, swaps(records, TextParser()), problems)
