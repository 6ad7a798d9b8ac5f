"""Hard negatives told apart by a picture's given regions, whatever the method's own similarity is.

The score of a caption is the mean over its noun phrases of the best region of the picture
(ComAlign eq. 2 from text to image): what a model knows of regions and phrases, without a detector's
mistakes. Phrases are found by spaCy and embedded alone, regions as in box classification.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from intarsia.components.text import TextParser
from intarsia.data.problems import Problems
from intarsia.data.records import chosen
from intarsia.errors import DataError
from intarsia.evaluation.boxes import roi_vectors, square_input
from intarsia.evaluation.harness import Evaluation
from intarsia.evaluation.mentions import readable, regions_inside
from intarsia.evaluation.metrics import summarise
from intarsia.evaluation.negatives import hard_negative_outcomes
from intarsia.evaluation.region_retrieval import phrase_vectors
from intarsia.model import Model
from intarsia.runtime import progress
from intarsia.types import Record


def evaluate_region_negatives(
    model: Model, records: Sequence[Record], problems: Problems
) -> Evaluation:
    """Share of hard negatives whose phrases match the picture's regions strictly worse, by kind.

    A case whose captions do not both name something is skipped and counted.

    Raises:
        DataError: no record has regions and negatives, or no case has phrases on both sides.
    """
    cases = list(_cases(model, records, problems))
    problems.check()
    if not cases:
        raise DataError(f"none of {len(records)} records has regions and hard negatives")
    pairs = [
        (record.captions[n.caption], n.text) for _, record, _ in cases for n in record.negatives
    ]
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    phrases = {
        text: [" ".join(text[slice(*entity.span)].split()) for entity in found.entities]
        for text, found in zip(
            progress(texts, "parsing captions"), TextParser().parse(texts), strict=True
        )
    }
    distinct = list(dict.fromkeys(p for some in phrases.values() for p in some))
    place = {phrase: i for i, phrase in enumerate(distinct)}
    vectors = phrase_vectors(model, distinct)
    scores, kinds, owners = [], [], []
    answered: list[Record] = []
    for owner, record, regions in cases:
        best = (vectors @ regions.mT).amax(1)
        asked = []
        for negative in record.negatives:
            both = [phrases[t] for t in (record.captions[negative.caption], negative.text)]
            if not all(both):
                problems.skip("hard negative without a phrase")
                continue
            scores.append([float(best[[place[p] for p in some]].mean()) for some in both])
            kinds.append(negative.kind)
            owners.append(owner)
            asked.append(negative)
        answered.append(replace(record, negatives=tuple(asked)))
    if not scores:
        raise DataError("no hard negative has a phrase in both of its captions")
    true, false = torch.tensor(scores).T
    outcomes = hard_negative_outcomes(true, false, kinds, np.array(owners))
    return Evaluation(summarise(outcomes), outcomes, answered=answered)


def _cases(
    model: Model, records: Sequence[Record], problems: Problems
) -> Iterator[tuple[int, Record, torch.Tensor]]:
    """Each readable record with the vectors (R,D) of its regions."""
    kept = chosen(records, lambda record: bool(record.regions and record.negatives))
    with square_input(model, None):
        for owner, (record, image) in enumerate(readable(kept, problems)):
            boxes = [region.box for region in regions_inside(record, image.size, problems).values()]
            if boxes:
                yield (
                    owner,
                    replace(record, image=b""),
                    roi_vectors(model, [image], [boxes]).float().cpu(),
                )
