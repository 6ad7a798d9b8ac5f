"""Data sets as they are asked for on the command line, and what each is called in tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from intarsia.data.problems import Problems
from intarsia.data.readers import CLASS_FOLDERS, OWN_FILES, READERS, folder_of, read
from intarsia.data.records import Records
from intarsia.errors import ConfigError, unknown
from intarsia.evaluation.compositional import COMPOSITIONAL
from intarsia.suite.names import labels

SPLITS: dict[str, tuple[str, ...]] = {
    "flickr8k": ("test", "dev"),
    "flickr30k": ("test",),
    "flickr30k_entities": ("test",),
    "coco": ("val2017", "train2017"),
    "coco-karpathy": ("test",),
    "refcoco": ("testA", "unc/testA"),
    "refcoco+": ("testA", "unc/testA"),
    "refcocog": ("test", "umd/test"),
    "imagenet": ("val",),
    "image_folder": ("val",),
}
"""Splits of data sets: the first one that is there is taken; of others, ``test``. All but one's own
files are looked for in the root."""


@dataclass(frozen=True)
class Source:
    """A data set as asked for: ``NAME``, ``NAME:SPLIT``, ``NAME@PATH`` or ``NAME:SPLIT@PATH``.

    ``label`` is what it is called in tables, which no other of a plan is.
    """

    name: str
    splits: tuple[str, ...]
    path: Path
    label: str = ""
    max_bad_fraction: float = 0.01

    @classmethod
    def parse(cls, text: str, root: Path, default: str | None = None) -> Source:
        """``default`` is the split where none is asked for; None = those of ``SPLITS``.

        >>> Source.parse("flickr8k:dev[:200]", Path("data"))
        Source(name='flickr8k', splits=('dev[:200]',), path=PosixPath('data/flickr8k'), \
label='flickr8k', max_bad_fraction=0.01)
        """
        front, _, path = text.partition("@")
        name, _, split = front.partition(":")
        valid = [*READERS, *COMPOSITIONAL]
        if name not in valid:
            raise ConfigError(unknown("data set", name, valid))
        if name in OWN_FILES and not path:
            raise ConfigError(f"the data set {name!r} needs its path: write {name}@PATH")
        wanted = split or default
        splits = (wanted,) if wanted else SPLITS.get(name, ("test",))
        place = Path(path) if path else root / folder_of(name)
        return cls(name, splits, place, place.absolute().name if name in CLASS_FOLDERS else name)

    def read(self, split: str) -> Records:
        return read(self.name, self.path, split, self.problems())

    def problems(self) -> Problems:
        return Problems(self.max_bad_fraction)


def labelled(sources: Sequence[Source]) -> list[Source]:
    """With what tells those apart that lie at several places under one name."""
    labelled = []
    for source in sources:
        places = [s.path.resolve() for s in sources if s.label == source.label]
        distinct = [str(place) for place in dict.fromkeys(places)]
        own = dict(zip(distinct, labels(distinct), strict=True))[str(source.path.resolve())]
        label = source.label if len(distinct) == 1 else f"{source.label} {own}"
        labelled.append(replace(source, label=label))
    return labelled
