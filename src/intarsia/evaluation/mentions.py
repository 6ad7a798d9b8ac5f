"""Which regions the pictures of a data set have, and which texts speak of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from PIL import Image

from intarsia.components.box_files import picture_of
from intarsia.data.boxes import cut
from intarsia.data.problems import Problems
from intarsia.errors import DataError
from intarsia.evaluation.prompts import spoken
from intarsia.runtime import in_threads, progress
from intarsia.types import Record, Region

Counting = Literal["mentions", "distinct"]
"""Published protocols ask of every mention in every sentence; ours of each distinct text once."""
Asked = tuple[str, tuple[int, ...]]
"""A text and the regions that it speaks of, as indices."""


def readable(records: Sequence[Record], problems: Problems) -> Iterator[tuple[Record, Image.Image]]:
    """:func:`numbered` without the numbers."""
    return ((record, image) for _, record, image in numbered(records, problems))


def numbered(
    records: Sequence[Record], problems: Problems
) -> Iterator[tuple[int, Record, Image.Image]]:
    """The place, itself and the picture of each record whose picture can be decoded, which threads
    do ahead; the others go to ``problems``.

    Raises:
        DataError: too many cannot.
    """
    problems.expect(len(records))
    for place, (record, found) in enumerate(in_threads(_decoded, progress(records, "pictures"))):
        if isinstance(found, str):
            problems.add(record.id, "image", found)
            problems.check()
        else:
            yield place, record, found


def _decoded(record: Record) -> tuple[Record, Image.Image | str]:
    """The picture, or why there is none."""
    try:
        return record, picture_of(record)
    except DataError as error:
        return record, str(error)


def regions_inside(record: Record, size: tuple[int, int], problems: Problems) -> dict[int, Region]:
    """The regions of a picture of ``size`` (width, height) by their index, cut at its border.

    Those of which less than a pixel is left go to ``problems``.
    """
    found = {}
    for index, region in enumerate(record.regions):
        box = cut(region.box, size, record.id, f"regions[{index}]", problems)
        if box is not None:
            found[index] = replace(region, box=box)
    return found


def mentions(record: Record) -> dict[str, set[tuple[int, ...]]]:
    """What each distinct text means: sets of regions, as indices; more than one if ambiguous.

    The texts are the record's phrases that have regions. A record without phrases (COCO) has the
    names of its regions' categories instead, each of which means all regions of its category.

    >>> regions = (Region((0, 0, 9, 9), "wall-brick"), Region((2, 2, 5, 5), "wall-brick"))
    >>> mentions(Record("1", b"", (), regions))
    {'brick wall': {(0, 1)}}
    """
    found: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    if record.phrases:
        for phrase in record.phrases:
            if phrase.regions:
                found[record.phrase_text(phrase)].add(phrase.regions)
        return dict(found)
    categories: dict[str, list[int]] = defaultdict(list)
    for index, region in enumerate(record.regions):
        if region.label:
            categories[spoken(region.label)].append(index)
    return {name: {tuple(indices)} for name, indices in categories.items()}


def asked_of(record: Record, counting: Counting) -> tuple[list[Asked], int]:
    """What is to be found in a picture, and how many texts are left out as ambiguous.

    ``mentions``: every phrase of every caption that has regions, as often as it is said, whatever
    else the same words mean elsewhere (Flickr30k Entities; RefCOCO's expressions). ``distinct``:
    each text once, and none that means several sets of regions. A record without phrases has the
    names of its categories in either.

    >>> from intarsia.types import Phrase
    >>> man = Phrase(0, (0, 3), (0,)), Phrase(1, (0, 3), (1,)), Phrase(2, (0, 3), (0,))
    >>> record = Record("1", b"", ("man A", "man B", "man C"), phrases=man)
    >>> asked_of(record, "mentions"), asked_of(record, "distinct")
    (([('man', (0,)), ('man', (1,)), ('man', (0,))], 0), ([], 1))
    """
    if counting == "mentions" and record.phrases:
        said = [phrase for phrase in record.phrases if phrase.regions]
        return [(record.phrase_text(phrase), phrase.regions) for phrase in said], 0
    meant = mentions(record)
    clear = [(text, next(iter(sets))) for text, sets in meant.items() if len(sets) == 1]
    return clear, len(meant) - len(clear)
