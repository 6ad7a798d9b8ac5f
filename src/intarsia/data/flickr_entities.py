"""Flickr30k Entities: which boxes the phrases of Flickr30k's captions speak of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.etree import ElementTree

from intarsia.data.annotated import fitted
from intarsia.data.boxes import cut
from intarsia.data.files import existing_folder, format_of, read_text
from intarsia.data.order import WHOLE, Part, ordered
from intarsia.data.paths import is_hidden
from intarsia.data.problems import Problems, screened
from intarsia.errors import ConfigError, DataError, unknown
from intarsia.types import Box, Phrase, Record, Region, Span

Mention = tuple[Span, str, str]

CORNERS = ("xmin", "ymin", "xmax", "ymax")
MARKUP = re.compile(r"\[/EN#(\d+)/(\S+) ([^\[\]]+)\]")
NOT_VISUAL = "notvisual"


def flickr30k_entities(
    root: Path, split: str, problems: Problems, part: Part = WHOLE
) -> Iterator[Record]:
    """Flickr30k Entities: ``Annotations/ID.xml``, ``Sentences/ID.txt`` and ``SPLIT.txt`` of ids.

    The pictures lie in ``flickr30k-images/`` or ``images/``. A phrase speaks of all boxes of its
    coreference chain, which are regions labelled with the chain's type ("people"). Phrases of
    chains without a box (scenes, things out of sight) have no regions; those that are not visual
    ("each other") are no phrases. Pixels are counted from 1 in the files, and both ends belong to
    the box; what sticks out of the picture is cut off. The records come in the order of their ids.

    Args:
        split: train, val or test: whatever list is there.

    Raises:
        ConfigError: There is no such list.
        DataError: A folder is missing, a file is of another format, or too many records are bad.
    """
    keys = list(part.of(entity_ids(root, split)))
    yield from entity_records(root, keys, problems)


def entity_ids(root: Path, split: str) -> list[str]:
    """The ids of a split in their order.

    Raises:
        ConfigError: There is no such list.
    """
    lists = {path.stem: path for path in root.glob("*.txt") if not is_hidden(Path(path.name))}
    if split not in lists:
        raise ConfigError(f"{root}: {unknown('split of flickr30k_entities', split, lists)}")
    return ordered(read_text(lists[split]).split(), str)


def entity_records(root: Path, keys: Iterable[str], problems: Problems) -> Iterator[Record]:
    """The records of the pictures with these ids."""
    folder = existing_folder(root, ("flickr30k-images", "images"))
    yield from fitted(screened(_records(keys, root, folder, problems), problems), problems)


def _records(keys: Iterable[str], root: Path, folder: Path, problems: Problems) -> Iterator[Record]:
    for key in keys:
        annotations = root / "Annotations" / f"{key}.xml"
        sentences = root / "Sentences" / f"{key}.txt"
        try:
            boxes, chains, size = _boxes(annotations, problems)
            lines = read_text(sentences).splitlines()
        except DataError as error:
            problems.leave_out(key, "annotations", str(error), "records")
            continue
        captions: list[str] = []
        phrases: list[Phrase] = []
        types = dict.fromkeys(chains, "")
        for number, line in enumerate(filter(str.strip, lines), start=1):
            caption, mentions = _sentence(line, f"{sentences}:{number}", problems)
            for span, chain, kind in mentions:
                if chain in chains:
                    types[chain] = types[chain] or kind
                    phrases.append(Phrase(len(captions), span, chains[chain]))
                else:
                    reason = f"EN#{chain} is no object of {annotations.name}"
                    problems.leave_out(f"{sentences}:{number}", "chain", reason, "phrases")
            captions.append(caption)
        labels = [""] * len(boxes)
        for chain, places in chains.items():
            for place in places:
                labels[place] = labels[place] or types[chain]
        regions = tuple(map(Region, boxes, labels))
        image = folder / f"{key}.jpg"
        yield Record(key, image, tuple(captions), regions, tuple(phrases), size=size)


def _boxes(
    path: Path, problems: Problems
) -> tuple[list[Box], dict[str, tuple[int, ...]], tuple[int, int]]:
    """The boxes of a picture, of each chain those that show it (indices), and its size."""
    try:
        root = ElementTree.fromstring(read_text(path))
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: not XML: {error}") from error
    boxes: list[Box] = []
    chains: dict[str, tuple[int, ...]] = {}
    with format_of(path):
        size = int(_text(root, "size/width")), int(_text(root, "size/height"))
        for number, item in enumerate(root.iter("object"), start=1):
            found: tuple[int, ...] = ()
            for corners in item.iter("bndbox"):
                x0, y0, x1, y1 = (float(_text(corners, name)) for name in CORNERS)
                where = f"{path}: object {number}"
                box = cut((x0 - 1, y0 - 1, x1, y1), size, where, "bndbox", problems)
                if box is not None:
                    boxes.append(box)
                    found = (*found, len(boxes) - 1)
            for name in item.iter("name"):
                chain = (name.text or "").strip()
                chains[chain] = (*chains.get(chain, ()), *found)
    return boxes, chains, size


def _text(element: ElementTree.Element, name: str) -> str:
    found = element.findtext(name)
    if found is None:
        raise KeyError(name)
    return found


def _sentence(line: str, where: str, problems: Problems) -> tuple[str, list[Mention]]:
    """A caption without its markup, and its visual phrases: span, chain and type.

    >>> _sentence("[/EN#1/people A man] helps [/EN#0/notvisual it] .", "", Problems())
    ('A man helps it .', [((0, 5), '1', 'people')])
    """
    text, end, mentions = "", 0, []
    line = line.strip()
    for match in MARKUP.finditer(line):
        chain, kind, words = match.groups()
        text += line[end : match.start()]
        end = match.end()
        if NOT_VISUAL not in kind.split("/"):
            mentions.append(((len(text), len(text) + len(words)), chain, kind))
        text += words
    text += line[end:]
    if "/EN#" in text:
        problems.leave_out(where, "phrase", f"broken markup in {text!r}", "phrases")
    return text, mentions
