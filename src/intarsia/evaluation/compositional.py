"""Benchmarks of compositional understanding by their names: read, evaluate, and ask blindly.

=============  ==========================================  =====================================
name           files in the root                           metrics (percent)
=============  ==========================================  =====================================
``aro``        ``visual_genome_{relation,attribution}.     ``relation_macro``, ``_micro``,
               json``                                      ``attribution_macro``, ``_micro``
``svo``        ``svo_probes.csv``                          ``subject``, ``verb``, ``object``,
                                                           ``all``
``sugarcrepe`` ``add_att.json`` ... ``swap_obj.json``      each file, ``macro``, ``micro``
``winoground`` ``examples.jsonl``                          ``text``, ``image``, ``group``
``fg-ovd``     ``1_attributes.json`` ...                   each file, and ``<file>_rank``
=============  ==========================================  =====================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from intarsia.data.problems import Problems
from intarsia.evaluation.blind import NgramModel, blind_scores
from intarsia.evaluation.compositional_aro import aro_outcomes, read_aro
from intarsia.evaluation.compositional_cases import Case, Cases, by_case, score_cases
from intarsia.evaluation.compositional_fgovd import fgovd_outcomes, read_fgovd
from intarsia.evaluation.compositional_sugarcrepe import read_sugarcrepe, sugarcrepe_outcomes
from intarsia.evaluation.compositional_svo import read_svo, svo_outcomes
from intarsia.evaluation.compositional_winoground import read_winoground, winoground_outcomes
from intarsia.evaluation.harness import Evaluation
from intarsia.evaluation.metrics import Outcomes, require_no_nan, summarise
from intarsia.model import Model
from intarsia.types import Record


@dataclass(frozen=True, slots=True)
class Benchmark:
    """How to read a benchmark's files, ``read(root, images, problems)``, and what it reports."""

    read: Callable[[Path, Path, Problems], list[Case]]
    outcomes: Callable[[Sequence[Case], Tensor], dict[str, Outcomes]]

    def evaluate(self, model: Model, cases: Sequence[Case], problems: Problems) -> Evaluation:
        """What ``model`` scores on the cases whose picture can be shown; what the protocol leaves
        out of the files is ``counted``.

        Raises:
            DataError: Too many pictures cannot, or a score is NaN.
        """
        found = self._evaluation(*score_cases(model, cases, problems))
        return replace(found, counted=cases.left_out) if isinstance(cases, Cases) else found

    def blind(self, cases: Sequence[Case], language: NgramModel) -> Evaluation:
        """What a language model scores without the pictures (:mod:`intarsia.evaluation.blind`)."""
        flat = blind_scores([text for case in cases for text in case.texts], language)
        return self._evaluation(cases, by_case(flat, cases))

    def _evaluation(self, cases: Sequence[Case], scores: Tensor) -> Evaluation:
        require_no_nan(scores.float().numpy(force=True), "the scores (case, text)")
        outcomes = self.outcomes(cases, scores)
        return Evaluation(summarise(outcomes), outcomes, answered=cases)


def true_texts(items: Iterable[Record | Case]) -> Iterator[str]:
    """What must not have taught a blind judge: all captions of a record, a case's first text."""
    for item in items:
        yield from item.captions if isinstance(item, Record) else item.texts[:1]


COMPOSITIONAL = {
    "aro": Benchmark(read_aro, aro_outcomes),
    "svo": Benchmark(read_svo, svo_outcomes),
    "sugarcrepe": Benchmark(read_sugarcrepe, sugarcrepe_outcomes),
    "winoground": Benchmark(read_winoground, winoground_outcomes),
    "fg-ovd": Benchmark(read_fgovd, fgovd_outcomes),
}
