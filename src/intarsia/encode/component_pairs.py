"""Components of pictures and texts as batches of vectors in the joint space."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from intarsia.backbones.base import Backbone
from intarsia.data.problems import Problems
from intarsia.data.records import KEY_BYTES, Records
from intarsia.encode.components import Components, ImageParts, TextParts
from intarsia.encode.extract import ALONE, Crew, extract_images, extract_texts, readable
from intarsia.encode.pairs import PairIndex
from intarsia.encode.store import Store, VectorStore
from intarsia.encode.towers import Towers
from intarsia.encode.views import WHOLE, key_of
from intarsia.errors import DataError
from intarsia.types import Batch, Box, Features, Record
from intarsia.types import Components as Parts

ROWS_AT_ONCE = 8192
NOTHING = -1  # the row of what is not there


@dataclass(frozen=True)
class Rows:
    """Vectors in the joint space, ``table`` (rows,D) half precision, and where those of pictures or
    texts are in it: ``whole`` (B,), ``entities`` (B,K), ``relations`` (B,L) and ``parts`` (B,L,m),
    all int64; ``boxes`` (B,L,2,4)."""

    table: Tensor
    whole: NDArray[np.int64]
    entities: NDArray[np.int64]
    relations: NDArray[np.int64]
    parts: NDArray[np.int64]
    boxes: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.whole)

    def wholes(self, index: NDArray[np.int64]) -> Tensor:
        return self.table[self.whole[index]].float()

    def components(self, index: NDArray[np.int64], *, roles: bool) -> Parts:
        """The components of some; ``roles`` adds the ends of the relations."""
        boxes = None if self.boxes is None else torch.from_numpy(self.boxes[index])
        return Parts(
            entities=self._vectors(self.entities[index]),
            entity_mask=torch.from_numpy(self.entities[index] >= 0),
            relations=self._vectors(self.relations[index]),
            relation_mask=torch.from_numpy(self.relations[index] >= 0),
            parts=self._vectors(self.parts[index]) if roles else None,
            boxes=boxes if roles else None,
        )

    def _vectors(self, where: NDArray[np.int64]) -> Tensor:
        places = torch.from_numpy(where)
        return self.table[places.clamp(min=0)].float() * (places >= 0)[..., None]


def see_components(
    components: Components,
    records: Records,
    towers: Towers,
    store: Store,
    problems: Problems,
    crew: Crew = ALONE,
) -> list[ImageParts | None]:
    """Find the components of pictures and see to it that the store has the vectors of all; None of
    pictures that cannot be read."""
    found = components.of_pictures(records, problems)
    views = [[] if parts is None else parts.views for parts in found]
    keys = [[] if parts is None else image_keys(parts) for parts in found]
    extract_images(
        records, views, keys, towers, store, problems=problems, crew=crew, description="crops"
    )
    wholes = [WHOLE.key(parts.key) if parts else bytes(KEY_BYTES) for parts in found]
    there = readable(wholes, store)
    return [parts if here else None for parts, here in zip(found, there.tolist(), strict=True)]


def read_components(
    components: Components,
    captions: Sequence[str],
    towers: Towers,
    store: Store,
    crew: Crew = ALONE,
    problems: Problems | None = None,
) -> list[TextParts]:
    """Find the components of texts and see to it that the store has the vectors of all."""
    found = components.of_texts(captions, problems)
    needed = list(dict.fromkeys(text for parts in found for text in parts.texts))
    extract_texts(needed, towers, store, crew=crew, description="phrases")
    return found


def image_keys(parts: ImageParts) -> list[bytes]:
    """What the vectors of :attr:`ImageParts.views` go by."""
    return [view.key(parts.key) for view in parts.views]


def image_rows(
    store: Store, backbone: Backbone, components: Components, found: Sequence[ImageParts]
) -> Rows:
    spec = components.spec
    local = _Local()
    whole = np.array([local.row(WHOLE.key(part.key)) for part in found], np.int64)
    entities = np.full((len(found), spec.num_entities), NOTHING)
    relations = np.full((len(found), spec.num_relations), NOTHING)
    ends = np.full((len(found), spec.num_relations, 2), NOTHING)
    boxes = np.zeros((len(found), spec.num_relations, 2, 4), np.float32)
    for i, part in enumerate(found):
        for k, view in enumerate(part.entities):
            entities[i, k] = local.row(view.key(part.key))
        for k, (view, pair) in enumerate(zip(part.relations, part.pairs, strict=True)):
            relations[i, k] = local.row(view.key(part.key))
            ends[i, k] = [entities[i, end] for end in pair]
            boxes[i, k] = [_unit(part.regions[end].box, part.size) for end in pair]
    table = _joint_table(store["image_global"], local.keys, backbone, "image_global")
    return Rows(table, whole, entities, relations, ends, boxes)


def text_rows(
    store: Store, backbone: Backbone, components: Components, found: Sequence[TextParts]
) -> Rows:
    spec = components.spec
    local = _Local()
    whole = np.array([local.row(key_of(part.text)) for part in found], np.int64)
    entities = np.full((len(found), spec.num_entities), NOTHING)
    relations = np.full((len(found), spec.num_relations), NOTHING)
    triplets = np.full((len(found), spec.num_relations, 3), NOTHING)
    for i, part in enumerate(found):
        for k, text in enumerate(part.entities):
            entities[i, k] = local.row(key_of(text))
        for k, (text, ends) in enumerate(zip(part.relations, part.triplets, strict=True)):
            relations[i, k] = local.row(key_of(text))
            triplets[i, k] = [local.row(key_of(end)) for end in ends]
    table = _joint_table(store["text_global"], local.keys, backbone, "text_global")
    return Rows(table, whole, entities, relations, triplets)


class _Local:
    """Rows of a table of one's own, a key each, in the order in which they are asked for."""

    def __init__(self) -> None:
        self._rows: dict[bytes, int] = {}

    def row(self, key: bytes) -> int:
        return self._rows.setdefault(key, len(self._rows))

    @property
    def keys(self) -> list[bytes]:
        return list(self._rows)


def image_features(
    rows: Rows, device: torch.device, *, roles: bool, batch_size: int
) -> Iterator[Features]:
    """``image_global`` and ``image_parts`` of pictures, a batch at a time."""
    for some in _batches(rows, batch_size):
        parts = rows.components(some, roles=roles)
        yield Features(image_global=rows.wholes(some), image_parts=parts).to(device)


def text_features(
    rows: Rows, device: torch.device, *, roles: bool, batch_size: int
) -> Iterator[Features]:
    """``text_global`` and ``text_parts`` of texts, a batch at a time."""
    for some in _batches(rows, batch_size):
        parts = rows.components(some, roles=roles)
        yield Features(text_global=rows.wholes(some), text_parts=parts).to(device)


def _batches(rows: Rows, size: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), size):
        yield np.arange(start, min(start + size, len(rows)))


class ComponentPairs(PairIndex, Dataset[Batch]):
    """Pairs whose components are in the store, given in the joint space already.

    Args:
        records: of the pairs.
        components: finds them.
        backbone: frozen, on its device, in evaluation mode.
        store: of the backbone's vectors; gets what it lacks.
        roles: whether batches hold the ends of the relations.
        problems: gets the pictures that cannot be read, whose pairs are left out.
        crew: who computes what the store lacks.

    Raises:
        DataError: too many pictures cannot be read, or no picture with a caption can.
    """

    def __init__(
        self,
        records: Sequence[Record],
        components: Components,
        backbone: Backbone,
        store: Store,
        *,
        roles: bool,
        problems: Problems | None = None,
        crew: Crew = ALONE,
    ) -> None:
        super().__init__(Records.of(records))
        problems = Problems() if problems is None else problems
        towers = Towers(backbone)
        found = see_components(components, self.records, towers, store, problems, crew)
        self.keep(torch.tensor([part is not None for part in found]))
        if not len(self.order):
            raise DataError("the data set has no readable picture with a caption")
        texts = read_components(components, self.records.captions, towers, store, crew, problems)
        seen = [part for part in found if part is not None]
        self.place = torch.cumsum(torch.tensor([part is not None for part in found]), 0) - 1
        self.roles = roles
        self.image = image_rows(store, backbone, components, seen)
        self.text = text_rows(store, backbone, components, texts)

    def __getitem__(self, pairs: Sequence[int]) -> Batch:
        index = torch.as_tensor(pairs)
        rows = self.order[index]
        pictures = self.pictures[rows]
        where, said = self.place[pictures].numpy(), rows.numpy()
        features = Features(
            image_global=self.image.wholes(where),
            text_global=self.text.wholes(said),
            image_parts=self.image.components(where, roles=self.roles),
            text_parts=self.text.components(said, roles=self.roles),
        )
        return self.with_truth(Batch(index, pictures, features=features), rows)


@torch.no_grad()
def _joint_table(
    vectors: VectorStore, keys: Sequence[bytes], backbone: Backbone, name: str
) -> Tensor:
    """Tower states of some keys in the joint space, (rows, D) half precision."""
    project, device = _projection(backbone, name)
    places = vectors.find(keys)
    parts = [
        project(vectors.read(some).float().to(device)).half().cpu()
        for some in np.split(places, range(ROWS_AT_ONCE, len(places), ROWS_AT_ONCE))
    ]
    return torch.cat(parts)


def _projection(backbone: Backbone, name: str) -> tuple[Callable[[Tensor], Tensor], torch.device]:
    """(rows, W) tower states -> (rows, D), and where that happens."""

    def project(states: Tensor) -> Tensor:
        states = states.to(next(backbone.parameters()).dtype)
        is_image = name == "image_global"
        given = Features(image_global=states) if is_image else Features(text_global=states)
        return backbone.project(given).require(name).float()

    return project, next(backbone.parameters()).device


def _unit(box: Box, size: tuple[int, int]) -> Box:
    (width, height), (x0, y0, x1, y1) = size, box
    return x0 / width, y0 / height, x1 / width, y1 / height
