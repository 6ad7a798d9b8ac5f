"""WebDataset tar shards."""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, Self

from intarsia.data.order import WHOLE, Part, ordered
from intarsia.data.paths import is_hidden
from intarsia.data.problems import Problems, screened
from intarsia.errors import DataError
from intarsia.types import FilePart, Record

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
KEY_AND_EXTENSION = re.compile(r"(?:\./)?((?:.*/)?[^./]+)\.([^/]+)")
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")

Member = tuple[str, str, bytes | FilePart]  # key, extension, content or where it lies


def webdataset(pattern: str | Path, problems: Problems, part: Part = WHOLE) -> Iterator[Record]:
    """Records of tar shards, without unpacking: pictures stay where they lie in a shard.

    Those of a compressed shard, where nothing can be found by its place, are held in memory.

    A sample is the run of members with the same name up to its first dot: a picture (jpg, jpeg, png
    or webp) with ``txt`` and / or ``json`` (``caption`` or ``captions``); other members and hidden
    files are ignored. The id is ``<shard stem>/<key>``; which is what records are ordered by.

    Args:
        pattern: A path with ``{000..012}`` ranges or ``*``, ``?``, ``[...]``. What exists is taken
            as it is written, whichever of these characters its name holds.

    Raises:
        DataError: A shard is missing or is not a tar file, or too many samples are bad.
    """
    shards = _expand(str(pattern))
    records = (record for shard in shards for record in _records(shard, problems))
    yield from screened(ordered(records, lambda record: record.id, part), problems)


class _Header(tarfile.TarInfo):
    """Raises on a broken or missing header, which tarfile takes for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf == bytes(tarfile.BLOCKSIZE):  # the end-of-archive mark
                raise
            raise tarfile.ReadError(f"{error} before the end-of-archive mark") from error


def _expand(pattern: str) -> list[Path]:
    """
    >>> [str(path) for path in _expand("a-{08..10}.tar")]
    ['a-08.tar', 'a-09.tar', 'a-10.tar']
    """
    if os.path.exists(pattern):
        return [Path(pattern)]
    literal, rest = _literal(pattern)
    if braces := BRACES.search(rest):
        first, last = braces.groups()
        numbers = (str(n).zfill(len(first)) for n in range(int(first), int(last) + 1))
        head, tail = rest[: braces.start()], rest[braces.end() :]
        return [path for n in numbers for path in _expand(os.path.join(literal, head + n + tail))]
    if not glob.has_magic(rest):
        return [Path(pattern)]
    if found := glob.glob(os.path.join(glob.escape(literal), rest)):
        return [Path(name) for name in sorted(found)]
    raise DataError(f"{pattern}: matches no file")


def _literal(pattern: str) -> tuple[str, str]:
    """The folder that exists, whatever characters it is named with, and the pattern below it."""
    path = Path(pattern)
    folder = next((parent for parent in path.parents if parent.is_dir()), Path())
    return str(folder), str(path.relative_to(folder))


def _records(shard: Path, problems: Problems) -> Iterator[Record]:
    for key, members in groupby(_members(shard, problems), key=lambda member: member[0]):
        where = f"{shard}/{key}"
        sample = {extension: content for _, extension, content in members}
        images = [sample[extension] for extension in IMAGE_EXTENSIONS if extension in sample]
        if images:
            yield Record(f"{shard.stem}/{key}", images[0], _captions(sample, where, problems))
        else:
            found = ", ".join(sample)
            reason = f"none of {', '.join(IMAGE_EXTENSIONS)} among {found}"
            problems.leave_out(where, "image", reason, "records")


def _members(shard: Path, problems: Problems) -> Iterator[Member]:
    """The files of a shard; one cut short is a problem, for its samples so far are good."""
    opened = False
    try:
        archive, by_place = _open(shard)
        opened = True
        with archive:
            for member in archive:
                is_visible = not is_hidden(PurePosixPath(member.name))
                match = KEY_AND_EXTENSION.fullmatch(member.name) if is_visible else None
                if match and member.isreg():
                    yield match[1], match[2].lower(), _content(archive, member, shard, by_place)
    except (tarfile.TarError, EOFError, OSError) as error:
        if not opened:
            raise DataError(f"{shard}: not a readable tar file: {error}") from error
        problems.add(shard, "shard", f"cut short, the rest of it is lost: {error}")


def _open(shard: Path) -> tuple[tarfile.TarFile, bool]:
    """Where the shard is not compressed, its members can be found by their place; else a stream."""
    try:
        return tarfile.open(shard, "r:", tarinfo=_Header), True
    except tarfile.ReadError:
        return tarfile.open(shard, "r|*", tarinfo=_Header), False


def _content(
    archive: tarfile.TarFile, member: tarfile.TarInfo, shard: Path, by_place: bool
) -> bytes | FilePart:
    """Of a picture where it lies, if it can be found there again; of all else what it is."""
    is_picture = PurePosixPath(member.name).suffix[1:].lower() in IMAGE_EXTENSIONS
    if is_picture and by_place and not member.issparse():
        if member.offset_data + member.size > shard.stat().st_size:
            raise EOFError("unexpected end of data")
        return FilePart(shard, member.offset_data, member.size)
    content = archive.extractfile(member)
    assert content is not None
    return content.read()


def _captions(sample: dict[str, Any], where: str, problems: Problems) -> tuple[str, ...]:
    captions: list[Any] = []
    try:
        if "txt" in sample:
            captions.append(sample["txt"].decode("utf-8-sig"))
        if "json" in sample:
            captions += _of_json(json.loads(sample["json"]))
    except ValueError as error:
        problems.leave_out(where, "caption", f"not readable: {error}", "captions")
    texts = (caption for caption in captions if isinstance(caption, str))
    return tuple(dict.fromkeys(texts))


def _of_json(content: Any) -> list[Any]:
    if not isinstance(content, dict):
        raise ValueError(f"json must be an object, is {type(content).__name__}")
    captions = content.get("captions") or content.get("caption")
    return captions if isinstance(captions, list) else [captions]
