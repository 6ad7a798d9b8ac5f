"""Phrases of captions matched to a detector's boxes, where nobody has drawn any (METHODS.md 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import linear_sum_assignment

from intarsia.components.box_files import picture_of
from intarsia.components.detectors import Detector
from intarsia.components.nouns import is_known, same_kind
from intarsia.components.text import TextComponents, TextParser
from intarsia.data.boxes import cut
from intarsia.data.problems import EARLY, Problems
from intarsia.errors import DataError, ShapeError
from intarsia.runtime import chunks
from intarsia.types import Phrase, Record, Region, Span

Score = Callable[[Image.Image, Sequence[str], Sequence[Region]], NDArray[np.floating]]
"""A picture, P phrases and R regions of it -> how well each fits each, (P,R)."""

RECORDS_AT_ONCE = 32
FORBIDDEN = 1e6  # what a pair that must not be costs: more than all others together


@dataclass(frozen=True, slots=True)
class Proposals:
    """A record with the regions of a detector, and what its captions speak of.

    ``picture`` is None where it cannot be read; then there are no regions.
    """

    record: Record
    picture: Image.Image | None
    texts: tuple[TextComponents, ...]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The phrases of one caption, and which regions of its picture each may be.

    ``allowed`` (P,R) is what labels say, ``shared`` (P,R) the words that a label shares with the
    adjectives of a phrase.
    """

    caption: int
    spans: tuple[Span, ...]
    texts: tuple[str, ...]
    allowed: NDArray[np.bool_]
    shared: NDArray[np.float64]

    def best(self, score: NDArray[np.floating], floor: float) -> list[tuple[int, int]]:
        """The matching (phrase, region) under a model's ``score`` (P,R), none below ``floor``."""
        return matching(self.shared + score, self.allowed & (score >= floor))

    def best_by_labels(
        self, regions: Sequence[Region], size: tuple[int, int], floor: float
    ) -> list[tuple[int, int]]:
        """The matching without a model, of regions whose own score is not below ``floor``."""
        sure = np.array([region.score >= floor for region in regions])
        clear = _told_apart(self.allowed, self.shared)[:, None]
        return matching(self.shared + _prominence(regions, size), self.allowed & clear & sure)

    def phrases(self, pairs: Iterable[tuple[int, int]]) -> list[Phrase]:
        """(phrase, region) pairs as phrases of a record."""
        return [Phrase(self.caption, self.spans[row], (column,)) for row, column in pairs]


def pseudo_regions(
    records: Iterable[Record],
    detector: Detector,
    parser: TextParser,
    *,
    score: Score | None = None,
    floor: float = 0.0,
    problems: Problems | None = None,
) -> Iterator[Record]:
    """Every record with the detector's regions, and its captions' phrases matched to them.

    Within a caption the matching is one-to-one: as many pairs as there can be and, of these, the
    best in sum. Our reading of "matched by the model itself":

    * Labels say what may match: a phrase and a region whose label is of the kind of the phrase's
      noun (:func:`intarsia.components.nouns.same_kind`). With ``score``, a noun that is none of
      COCO-80 may match any region, and a region without a label any noun.
    * Words decide between those: each adjective of the phrase that the label holds counts 1.
    * So does ``score``. Without it, regions with a high score of their own and a large share of the
      picture win, for captions speak of what is large; and two phrases of one caption that labels
      and words do not tell apart ("a man and a woman", both "person") are left out.

    Args:
        records: whose captions are read; their regions and phrases are replaced.
        detector: as of :func:`intarsia.components.detectors.load_detector`; one that must be told
            what to look for is told the captions' entities.
        parser: finds the phrases.
        score: how well a model finds phrases and regions to fit.
        floor: pairs below it are not made; of ``score`` or, without it, of the region's own score.
        problems: counts pictures that cannot be read, whose records are left without regions, and
            boxes outside their picture, which are left out.

    Raises:
        DataError: Too many are bad.
        ShapeError: ``score`` gives a matrix of another shape.
    """
    for found in proposals(records, detector, parser, problems=problems):
        phrases = list(_phrases(found, score, floor))
        yield replace(found.record, phrases=tuple(phrases))


def proposals(
    records: Iterable[Record],
    detector: Detector,
    parser: TextParser,
    *,
    problems: Problems | None = None,
) -> Iterator[Proposals]:
    """What :func:`pseudo_regions` chooses from; its arguments and errors."""
    problems = Problems() if problems is None else problems
    count = 0
    for chunk in chunks(records, RECORDS_AT_ONCE):
        count += len(chunk)
        problems.expect(count)
        said = (caption for record in chunk for caption in record.captions)
        parsed = parser.parse(said, problems=problems)
        texts = [tuple(islice(parsed, len(record.captions))) for record in chunk]
        pictures = [_opened(record, problems) for record in chunk]
        regions = _detected(detector, chunk, pictures, texts, problems)
        for record, picture, found, captions in zip(chunk, pictures, regions, texts, strict=True):
            yield Proposals(replace(record, regions=tuple(found), phrases=()), picture, captions)
        problems.check(at_least=EARLY)
    problems.check()


def candidates(found: Proposals, *, is_free: bool) -> Iterator[Candidates]:
    """A caption each, where there is anything to match.

    Args:
        found: of one picture.
        is_free: a noun that is none of COCO-80 may be any region, and a region without a label
            any noun: what labels leave open is left to a score.
    """
    regions = found.record.regions
    for index, caption in enumerate(found.texts):
        if not (caption.entities and regions):
            continue
        texts = tuple(caption.text[slice(*entity.span)] for entity in caption.entities)
        nouns = [caption.text[slice(*entity.noun)] for entity in caption.entities]
        spans = tuple(entity.span for entity in caption.entities)
        allowed = _allowed(nouns, regions, is_free)
        yield Candidates(index, spans, texts, allowed, _shared(texts, regions))


def _opened(record: Record, problems: Problems) -> Image.Image | None:
    try:
        return picture_of(record)
    except DataError as error:
        problems.add(record.id, "image", str(error))
        return None


def _detected(
    detector: Detector,
    records: Sequence[Record],
    pictures: Sequence[Image.Image | None],
    texts: Sequence[Sequence[TextComponents]],
    problems: Problems,
) -> list[list[Region]]:
    """Each picture's regions, cut to it; none of those that could not be read."""
    named = [[t for caption in captions for t in caption.entity_texts()] for captions in texts]
    seen = [index for index, picture in enumerate(pictures) if picture]
    images = [picture for picture in pictures if picture]
    found: list[list[Region]] = [[] for _ in records]
    for index, image, regions in zip(
        seen, images, detector(images, [named[index] for index in seen]), strict=True
    ):
        for region in regions:
            box = cut(region.box, image.size, records[index].id, "regions", problems)
            if box is not None:
                found[index].append(replace(region, box=box))
    return found


def _phrases(found: Proposals, score: Score | None, floor: float) -> Iterator[Phrase]:
    picture, regions = found.picture, found.record.regions
    if picture is None:
        return
    for some in candidates(found, is_free=score is not None):
        if score is None:
            pairs = some.best_by_labels(regions, picture.size, floor)
        else:
            pairs = some.best(_scored(score, picture, some.texts, regions), floor)
        yield from some.phrases(pairs)


def matching(worth: NDArray[np.floating], allowed: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The most pairs (row, column) that are allowed and share none, and of these the best in sum.

    >>> allowed = np.array([[True, True], [True, False]])
    >>> matching(np.array([[0.9, 0.1], [0.2, 0.9]]), allowed)
    [(0, 1), (1, 0)]
    """
    rows, columns = linear_sum_assignment(np.where(allowed, worth, -FORBIDDEN), maximize=True)
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(row, column) for row, column in pairs if allowed[row, column]]


def _allowed(nouns: Sequence[str], regions: Sequence[Region], is_free: bool) -> NDArray[np.bool_]:
    """(P,R) whether the labels let a noun's phrase match a region."""
    rows = [
        [
            same_kind(noun, region.label) or (is_free and not (region.label and is_known(noun)))
            for region in regions
        ]
        for noun in nouns
    ]
    return np.array(rows)


def _told_apart(allowed: NDArray[np.bool_], shared: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(P,) whether no other phrase may match the same regions with as many shared words."""
    rows = np.where(allowed, shared, -1.0)
    same = (rows[:, None] == rows[None]).all(axis=2)
    return np.array([row.sum() == 1 for row in same])


def _prominence(regions: Sequence[Region], size: tuple[int, int]) -> NDArray[np.float64]:
    """(R,) in [0, 1]: each region's own score times the root of its share of the picture."""
    boxes = np.array([region.box for region in regions])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    own = np.array([region.score for region in regions])
    worth: NDArray[np.float64] = own * np.sqrt(area / (size[0] * size[1]))
    return worth


def _scored(
    score: Score, picture: Image.Image, phrases: Sequence[str], regions: Sequence[Region]
) -> NDArray[np.float64]:
    found = np.asarray(score(picture, phrases, regions), dtype=np.float64)
    if found.shape != (len(phrases), len(regions)):
        raise ShapeError(
            f"score gave a matrix {found.shape} for {len(phrases)} phrases and {len(regions)} "
            f"regions, must be ({len(phrases)}, {len(regions)})"
        )
    return found


def _shared(phrases: Sequence[str], regions: Sequence[Region]) -> NDArray[np.float64]:
    """(P,R) how many words before its last each phrase shares with each label."""
    words = [set(phrase.lower().split()[:-1]) for phrase in phrases]
    labels = [set(region.label.lower().split()) for region in regions]
    return np.array([[float(len(some & label)) for label in labels] for some in words])
