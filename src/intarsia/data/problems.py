"""Bad records: counted and named, tolerated while few, fatal once many."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from intarsia.errors import DataError
from intarsia.types import Record

EARLY = 100  # records to see before giving up in the middle of a data set


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong (``reason``) with which ``field`` of which ``source`` (a path, line or id)."""

    source: str
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.source}: {self.field}: {self.reason}"


class Problems:
    """The bad records of a data set, shared by all who read it; ``len`` is their number.

    The same problem told twice (say, in two epochs) counts once.

    >>> problems = Problems(max_fraction=0.5)
    >>> problems.seen(4)
    >>> problems.add("a.jpg", "image", "no such file")
    >>> problems.check()
    >>> problems.summary()
    '1 of 4 records are bad (25%): 1 image'
    """

    def __init__(self, max_fraction: float = 0.01) -> None:
        self.max_fraction = max_fraction
        self.num_seen = 0
        self._bad: dict[Problem, None] = {}
        self._skipped: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._bad)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._bad)

    def seen(self, count: int = 1) -> None:
        """Count records, good or bad: what the fraction is taken of."""
        self.num_seen += count

    def expect(self, count: int) -> None:
        """Records whose pictures come next: they count unless their reader has counted them."""
        self.num_seen = max(self.num_seen, count)

    def add(self, source: object, field: str, reason: str) -> None:
        self._bad[Problem(str(source), field, reason)] = None

    def skip(self, reason: str, count: int = 1) -> None:
        """Count what is left out on purpose; it is reported but does not make a data set bad."""
        self._skipped[reason] += count

    def check(self, at_least: int = 0) -> None:
        """Judge what has been read so far, unless fewer than ``at_least`` records were seen.

        Raises:
            DataError: More than ``max_fraction`` of the records are bad.
        """
        if not self._bad or self.num_seen < at_least or self._fraction() <= self.max_fraction:
            return
        first = "; ".join(str(problem) for problem, _ in zip(self._bad, range(3), strict=False))
        raise DataError(
            f"{len(self)} of {self.num_seen} records are bad ({self._fraction():.3%}), more than "
            f"the {self.max_fraction:.3%} allowed; the first: {first}. Mend the data or raise "
            "--max-bad-fraction"
        )

    def summary(self) -> str:
        fields = Counter(problem.field for problem in self._bad)
        text = f"{len(self)} of {self.num_seen} records are bad ({100 * self._fraction():.3g}%)"
        if fields:
            text += ": " + ", ".join(f"{count} {name}" for name, count in fields.most_common())
        return "; ".join([text, *(f"{n} skipped: {why}" for why, n in self._skipped.items())])

    def write(self, path: Path) -> None:
        """One JSON object a line: every problem, then what was skipped and how often."""
        lines: list[dict[str, object]] = [asdict(problem) for problem in self._bad]
        lines += [{"skipped": reason, "count": n} for reason, n in self._skipped.items()]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        path.write_text(text, encoding="utf-8")

    def _fraction(self) -> float:
        return len(self._bad) / max(self.num_seen, 1)


def screened(
    candidates: Iterable[Record], problems: Problems, *, need_captions: bool = True
) -> Iterator[Record]:
    """The sound ones of a reader's candidates; the others go to ``problems``.

    A record with a used id, a missing picture file or (with ``need_captions``) no caption left is
    dropped; an empty caption is dropped from its record. Candidates with phrases or negatives,
    which refer to captions by index, have no empty caption.

    Raises:
        DataError: Too many are bad, judged from the hundredth on and at the end.
    """
    ids: set[str] = set()
    for record in candidates:
        problems.seen()
        problems.check(at_least=EARLY)
        source = record.image if isinstance(record.image, Path) else record.id
        if record.id in ids:
            problems.add(source, "id", f"{record.id!r} is used twice")
            continue
        ids.add(record.id)
        if isinstance(record.image, Path) and not os.path.isfile(record.image):
            problems.add(source, "image", "no such file")
            continue
        captions = tuple(caption.strip() for caption in record.captions)
        for index, caption in enumerate(captions):
            if not caption:
                problems.add(source, f"captions[{index}]", "empty")
        captions = tuple(caption for caption in captions if caption)
        if captions or not need_captions:
            yield replace(record, captions=captions)
        elif not record.captions:
            problems.add(source, "captions", "none")
    problems.check()
