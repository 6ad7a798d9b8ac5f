"""Pages whose tables stand between marks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from docs_tables import cards, performance, results
from intarsia.errors import DataError, unknown
from intarsia.shipped import SHIPPED

ROOT = Path(__file__).parent.parent
CARDS = tuple(f"src/intarsia/shipped/{name}/README.md" for name in SHIPPED)
PAGES = ("README.md", "docs/results.md", "docs/performance.md", *CARDS)
TABLES = results.TABLES | performance.TABLES | cards.TABLES
MARK = re.compile(r"<!-- (?:table: (\S+)|/table) -->")

Tables = Mapping[str, Callable[[], str]]


def written(page: str, text: str, tables: Tables = TABLES) -> str:
    """The text of a page with every table made anew.

    Raises:
        DataError: A mark has no partner, or names no table.
    """
    marks = list(MARK.finditer(text))
    parts, place = [], 0
    for begin, end in zip(marks[::2], [*marks[1::2], None], strict=False):
        name = begin[1]
        if name is None or end is None or end[1] is not None:
            raise DataError(f"{page}: the mark {begin[0].strip()} has no partner")
        if name not in tables:
            raise DataError(f"{page}: {unknown('table', name, tables)}")
        parts += [text[place : begin.end()], f"\n\n{tables[name]().strip()}\n\n", end[0]]
        place = end.end()
    return "".join([*parts, text[place:]])


def used(text: str) -> list[str]:
    """Names of a page's tables, in their order."""
    return [mark[1] for mark in MARK.finditer(text) if mark[1]]
