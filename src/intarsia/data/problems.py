"""Bad records, captions and boxes: counted and named, tolerated while few, fatal once many."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

from intarsia.data.paths import located
from intarsia.errors import DataError
from intarsia.types import Phrase, Record

HALF = "has half a character (a lone surrogate)"
EARLY = 100  # records to see before giving up in the middle of a data set

Kind = Literal["records", "captions", "boxes", "phrases", "rows", "masks"]
PARTS: dict[str, Kind] = {"captions": "captions", "regions": "boxes", "phrases": "phrases"}
"""What an entry of a field of :class:`~intarsia.types.Record` is."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong (``reason``) with which ``field`` of which ``source`` (a path, line or id)."""

    source: str
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.source}: {self.field}: {self.reason}"


class BadField(ValueError):
    """What is wrong with a field of the entry or row being read."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason = field, reason


class Problems:
    """What is bad in a data set, shared by all who read it; ``len`` is the number of problems.

    Every kind of thing is counted by itself: bad boxes are a share of the boxes, bad records (each
    once, however much is wrong with it) one of the records. The same problem told twice (say, in
    two epochs) counts once.

    >>> problems = Problems(max_fraction=0.5)
    >>> problems.seen(4)
    >>> problems.add("a.jpg", "image", "no such file")
    >>> problems.check()
    >>> problems.summary()
    '1 of 4 records are bad (25%): 1 image'
    """

    def __init__(self, max_fraction: float = 0.01) -> None:
        self.max_fraction = max_fraction
        self._seen: Counter[Kind] = Counter()
        self._problems: dict[Problem, Kind] = {}
        self._bad: dict[Kind, set[tuple[str, str]]] = defaultdict(set)
        self._skipped: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._problems)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._problems)

    @property
    def num_seen(self) -> int:
        """How many records were seen."""
        return self._seen["records"]

    def seen(self, count: int = 1, kind: Kind = "records") -> None:
        """Count things of a kind, good or bad: what its fraction is taken of."""
        self._seen[kind] += count

    def seen_record(self, record: Record) -> None:
        """Count a record with its captions, boxes and phrases."""
        self.seen()
        for field, kind in PARTS.items():
            self.seen(len(getattr(record, field)), kind)

    def expect(self, count: int) -> None:
        """Records whose pictures come next: they count unless their reader has counted them."""
        self._seen["records"] = max(self.num_seen, count)

    def add(self, source: object, field: str, reason: str, kind: Kind | None = None) -> None:
        """Tell what is wrong with something that was counted.

        Args:
            source: A path, line or id.
            kind: Of what is bad. By default the record, or, where ``field`` is an entry of a list
                such as ``regions[3]``, what that holds.
        """
        problem = Problem(str(source), field, reason)
        if kind is None:
            name, bracket, _ = field.partition("[")
            kind = PARTS.get(name, "records") if bracket else "records"
        if problem not in self._problems:
            self._problems[problem] = kind
            self._bad[kind].add((problem.source, "" if kind == "records" else field))

    def leave_out(self, source: object, field: str, reason: str, kind: Kind) -> None:
        """Tell of what a reader leaves out of its records, and count it: nobody else will."""
        self.seen(kind=kind)
        self.add(source, field, reason, kind)

    @contextmanager
    def entry(self, source: object, kind: Kind) -> Iterator[None]:
        """Reads one entry of a file, which is left out if it lacks a field or has another form."""
        try:
            yield
        except DataError:
            raise
        except BadField as error:
            self.leave_out(source, error.field, error.reason, kind)
        except KeyError as error:
            self.leave_out(source, str(error.args[0]), "is missing", kind)
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            self.leave_out(source, "entry", f"is of another format: {error}", kind)

    def skip(self, reason: str, count: int = 1) -> None:
        """Count what is left out on purpose; it is reported but does not make a data set bad."""
        self._skipped[reason] += count

    def check(self, at_least: int = 0) -> None:
        """Judge what has been read so far, unless fewer than ``at_least`` records were seen.

        With ``at_least`` only records are judged: other things may not all be counted yet.

        Raises:
            DataError: More than ``max_fraction`` of the things of a kind are bad.
        """
        if not self._problems or self.num_seen < at_least:
            return
        kinds: list[Kind] = ["records"] if at_least else list(self._bad)
        for kind in kinds:
            if self._fraction(kind) > self.max_fraction:
                raise DataError(self._verdict(kind))

    def summary(self) -> str:
        kinds: list[Kind] = ["records", *(kind for kind in self._bad if kind != "records")]
        texts = [self._told(kind) for kind in kinds]
        texts += [f"{count} skipped: {why}" for why, count in self._skipped.items()]
        return "; ".join(texts)

    def write(self, path: Path) -> None:
        """One JSON object a line: every problem, then what was skipped and how often."""
        lines: list[dict[str, object]] = [asdict(problem) for problem in self]
        lines += [{"skipped": reason, "count": n} for reason, n in self._skipped.items()]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        path.write_text(text, encoding="utf-8")

    def _of(self, kind: Kind) -> Iterator[Problem]:
        return (problem for problem, other in self._problems.items() if other == kind)

    def _total(self, kind: Kind) -> int:
        """How many there are; where nobody counted them there is at least one a record."""
        return max(self._seen[kind] or self.num_seen, len(self._bad[kind]))

    def _fraction(self, kind: Kind) -> float:
        return len(self._bad[kind]) / max(self._total(kind), 1)

    def _told(self, kind: Kind) -> str:
        fields = Counter(problem.field for problem in self._of(kind))
        text = f"{len(self._bad[kind])} of {self._total(kind)} {kind} are bad"
        text += f" ({100 * self._fraction(kind):.3g}%)"
        if fields:
            text += ": " + ", ".join(f"{count} {name}" for name, count in fields.most_common())
        return text

    def _verdict(self, kind: Kind) -> str:
        first = "; ".join(map(str, islice(self._of(kind), 3)))
        return (
            f"{len(self._bad[kind])} of {self._total(kind)} {kind} are bad "
            f"({self._fraction(kind):.3%}), more than the {self.max_fraction:.3%} allowed; the "
            f"first: {first}. Mend the data or raise --max-bad-fraction"
        )


def distinct(candidates: Iterable[Record], problems: Problems) -> Iterator[Record]:
    """All records but those whose id was used before, which go to ``problems``."""
    ids: set[str] = set()
    for record in candidates:
        problems.seen_record(record)
        if record.id in ids:
            problems.add(_source(record), "id", f"{record.id!r} is used twice")
        else:
            ids.add(record.id)
            yield record


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
    for record in distinct(candidates, problems):
        problems.check(at_least=EARLY)
        found = _with_file(record)
        if found is None:
            problems.add(_source(record), "image", "no such file")
            continue
        if not is_unicode(f"{_source(found)}{found.id}"):
            problems.add(ascii(str(_source(found))), "image", "its name is not UTF-8: rename it")
            continue
        if not all(map(is_unicode, _fixed_texts(found))):
            problems.add(_source(record), "text", HALF)
            continue
        captions = tuple(map(str.strip, found.captions))
        moved = [len(text) - len(text.lstrip()) for text in found.captions]
        for index, caption in enumerate(captions):
            if not caption:
                problems.add(_source(record), f"captions[{index}]", "empty")
            elif not is_unicode(caption):
                problems.add(_source(record), f"captions[{index}]", HALF)
        captions = tuple(caption for caption in captions if caption and is_unicode(caption))
        if captions or not need_captions:
            phrases = tuple(_earlier(phrase, moved[phrase.caption]) for phrase in found.phrases)
            yield replace(found, captions=captions, phrases=phrases)
        else:
            problems.add(_source(record), "captions", "none")
    problems.check()


def _earlier(phrase: Phrase, places: int) -> Phrase:
    """The phrase in a caption that has lost so many characters before it."""
    start, end = (max(0, place - places) for place in phrase.span)
    return replace(phrase, span=(start, end)) if places else phrase


def _fixed_texts(record: Record) -> Iterator[str]:
    """The texts that a record cannot do without: its captions where they are referred to."""
    yield from (region.label for region in record.regions)
    yield from (negative.text for negative in record.negatives)
    if record.phrases or record.negatives:
        yield from record.captions


def is_unicode(text: str) -> bool:
    """Whether a text can be written: half a pair of a JSON file, or a byte of a file's name that
    is no UTF-8, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _source(record: Record) -> object:
    return record.image if isinstance(record.image, Path) else record.id


def _with_file(record: Record) -> Record | None:
    """The record with the picture's name as the disk has it; None if there is no such file."""
    if not isinstance(record.image, Path):
        return record
    path = located(record.image)
    if path is None or not os.path.isfile(path):
        return None
    return record if path is record.image else replace(record, image=path)
