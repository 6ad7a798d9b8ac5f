"""Every data set by its name."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from intarsia.data.coco import coco
from intarsia.data.flickr import flickr8k
from intarsia.data.flickr30k_csv import flickr30k_csv
from intarsia.data.flickr_entities import flickr30k_entities
from intarsia.data.image_folder import image_folder
from intarsia.data.karpathy import coco_karpathy, flickr8k_karpathy, flickr30k
from intarsia.data.order import WHOLE, Part, parsed
from intarsia.data.problems import Problems, distinct
from intarsia.data.records import Records
from intarsia.data.refcoco import refcoco
from intarsia.data.table import read_table
from intarsia.data.table_file import table_file
from intarsia.data.tar import webdataset
from intarsia.data.visual_genome import visual_genome
from intarsia.errors import ConfigError, unknown
from intarsia.runtime import data_root
from intarsia.types import Record


class Reader(Protocol):
    """Gives the records of a part of a split, in the order of their ids."""

    def __call__(
        self, root: Path, split: str, problems: Problems, part: Part = WHOLE, /
    ) -> Iterable[Record]: ...


logger = logging.getLogger(__name__)


def read(
    name: str, root: Path | None = None, split: str = "train", problems: Problems | None = None
) -> Records:
    """The records of a data set; what is wrong with it is told in one warning at the end.

    Args:
        name: One of ``READERS``.
        root: As for :func:`place_of`; ``{split}`` in it stands for the split.
        split: As the reader calls it; a single file has none, save by ``{split}`` in its path. A
            slice takes a part (:class:`~intarsia.data.order.Part`): ``train[:5500]``,
            ``train[-500:]`` by position, ``train[:90%]`` by what the ids say.
        problems: Collects the bad records and says how many are too many.

    Returns:
        The records by index; pictures are read when a record is looked at.

    Raises:
        ConfigError: The name or split is unknown, or a path is missing.
        DataError: The data are not there or of another format, or too many records are bad.
    """
    split, part = parsed(split)
    if name in WHOLE_FILES and "{split}" not in str(root):
        level = logging.INFO if split in WHOLE_NAMES else logging.WARNING
        logger.log(level, "%s has no splits: %r is all of it", root or name, split)
    place = Path(str(place_of(name, root)).replace("{split}", split))
    problems = Problems() if problems is None else problems
    records = Records.of(READERS[name](place, split, problems, part))
    if problems:
        logger.warning(problems.summary())
    return records


def place_of(name: str, root: Path | None = None) -> Path:
    """Where a data set lies.

    Args:
        name: One of ``READERS``.
        root: The folder of a known data set, which by default is its name (or that of the data set
            whose pictures it has, ``BESIDE``) in :func:`data_root`; the path of one's own files,
            for which there is no default.

    Raises:
        ConfigError: The name is unknown, or the path of one's own files is missing.
    """
    if name not in READERS:
        raise ConfigError(unknown("data set", name, READERS))
    if root is None and name in OWN_FILES:
        raise ConfigError(
            f"the data set {name!r} needs the path of its files as root (--root PATH)"
        )
    return root or data_root() / folder_of(name)


BESIDE = {"coco-karpathy": "coco", "flickr8k-karpathy": "flickr8k", "flickr30k-csv": "flickr30k"}
"""Data sets that are other files beside the pictures of another one."""


def folder_of(name: str) -> str:
    """What the folder of a data set is called."""
    return BESIDE.get(name, name)


GENERATED = {"scenes": "all", "scenes_places": "places", "scenes_plain": "plain"}
"""Data sets without files, and which captions their scenes have."""


def _scenes(captions: str) -> Reader:
    def read_scenes(
        _: Path, split: str, problems: Problems, part: Part = WHOLE, /
    ) -> Iterator[Record]:
        from intarsia.data.scenes import SceneSet

        scenes = SceneSet(split, captions=captions)
        chosen = part.of(range(len(scenes)), scenes.id_of)
        return distinct((scenes[index] for index in chosen), problems)

    return read_scenes


READERS: dict[str, Reader] = {
    "flickr8k": flickr8k,
    "flickr8k-karpathy": flickr8k_karpathy,
    "flickr30k": flickr30k,
    "flickr30k-csv": flickr30k_csv,
    "flickr30k_entities": flickr30k_entities,
    "coco": coco,
    "coco-karpathy": coco_karpathy,
    "visual_genome": visual_genome,
    "refcoco": refcoco,
    "refcoco+": refcoco,
    "refcocog": refcoco,
    "file": lambda root, _, problems, part=WHOLE: table_file(root, problems, part),
    "webdataset": lambda root, _, problems, part=WHOLE: webdataset(root, problems, part),
    "table": lambda root, _, problems, part=WHOLE: read_table(root, problems, part),
    "image_folder": image_folder,
    "imagenet": image_folder,
    **{name: _scenes(captions) for name, captions in GENERATED.items()},
}
WHOLE_FILES = ("file", "webdataset", "table")
WHOLE_NAMES = ("train", "test", "all")
"""What verbs call a split unless they are told otherwise: of a single file that is all of it."""
OWN_FILES = (*WHOLE_FILES, "image_folder")
CLASS_FOLDERS = ("image_folder", "imagenet")
"""Pictures sorted into folders, one a class."""
