"""Components of pictures and texts as batches of vectors in the joint space."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from intarsia.backbones.base import Backbone
from intarsia.data.problems import Problems
from intarsia.encode.components import ComponentStore, ImageParts, TextParts
from intarsia.encode.pairs import PairIndex
from intarsia.encode.vectors import VectorStore, key_of
from intarsia.errors import DataError
from intarsia.types import Batch, Box, Components, Features, Record

ROWS_AT_ONCE = 8192
NOTHING = -1  # the row of what is not there


@dataclass(frozen=True)
class Rows:
    """Where the vectors of pictures or texts are in a table: ``whole`` (B,), ``entities`` (B,K),
    ``relations`` (B,L) and ``parts`` (B,L,m), all int64; ``boxes`` (B,L,2,4)."""

    whole: np.ndarray
    entities: np.ndarray
    relations: np.ndarray
    parts: np.ndarray
    boxes: np.ndarray | None = None


def image_rows(store: ComponentStore, found: Sequence[ImageParts]) -> Rows:
    spec = store.spec
    pairs = np.full((len(found), spec.num_relations, 2), NOTHING)
    boxes = np.zeros((len(found), spec.num_relations, 2, 4), np.float32)
    entities = _rows(store.images, [part.entities for part in found], spec.num_entities)
    for i, part in enumerate(found):
        for k, ends in enumerate(part.pairs):
            pairs[i, k] = [entities[i, end] for end in ends]
            boxes[i, k] = [_unit(part.regions[end].box, part.size) for end in ends]
    relations = _rows(store.images, [part.relations for part in found], spec.num_relations)
    whole = store.images.rows([part.whole for part in found])
    return Rows(whole, entities, relations, pairs, boxes)


def text_rows(store: ComponentStore, found: Sequence[TextParts]) -> Rows:
    spec = store.spec

    def keys(texts: Sequence[str]) -> list[bytes]:
        return [key_of(text) for text in texts]

    triplets = np.full((len(found), spec.num_relations, 3), NOTHING)
    for i, part in enumerate(found):
        for k, triplet in enumerate(part.triplets):
            triplets[i, k] = store.texts.rows(keys(triplet))
    return Rows(
        store.texts.rows(keys([part.text for part in found])),
        _rows(store.texts, [keys(part.entities) for part in found], spec.num_entities),
        _rows(store.texts, [keys(part.relations) for part in found], spec.num_relations),
        triplets,
    )


def gathered(table: Tensor, rows: Rows, index: np.ndarray | slice, *, roles: bool) -> Components:
    """The components of some rows; ``roles`` adds the ends of the relations."""

    def vectors(where: np.ndarray) -> Tensor:
        places = torch.from_numpy(where[index])
        found = table[places.clamp(min=0)].float()
        return found * (places >= 0)[..., None]

    boxes = None if rows.boxes is None else torch.from_numpy(rows.boxes[index])
    return Components(
        entities=vectors(rows.entities),
        entity_mask=torch.from_numpy(rows.entities[index] >= 0),
        relations=vectors(rows.relations),
        relation_mask=torch.from_numpy(rows.relations[index] >= 0),
        parts=vectors(rows.parts) if roles else None,
        boxes=boxes if roles else None,
    )


def image_features(
    store: ComponentStore, found: Sequence[ImageParts], *, roles: bool, batch_size: int
) -> Iterator[Features]:
    """``image_global`` and ``image_parts`` of pictures that the store holds, a batch at a time."""
    rows = image_rows(store, found)
    for whole, parts in _joint(
        store.images, store.backbone, "image_global", rows, roles, batch_size
    ):
        yield Features(image_global=whole, image_parts=parts)


def text_features(
    store: ComponentStore, found: Sequence[TextParts], *, roles: bool, batch_size: int
) -> Iterator[Features]:
    """``text_global`` and ``text_parts`` of texts that the store holds, a batch at a time."""
    rows = text_rows(store, found)
    for whole, parts in _joint(store.texts, store.backbone, "text_global", rows, roles, batch_size):
        yield Features(text_global=whole, text_parts=parts)


def _joint(
    store: VectorStore, backbone: Backbone, name: str, rows: Rows, roles: bool, batch_size: int
) -> Iterator[tuple[Tensor, Components]]:
    """Whole and components in the joint space, a batch at a time."""
    project, device = _projection(backbone, name)
    table = torch.from_numpy(np.array(store.table()))
    for start in range(0, len(rows.whole), batch_size):
        some = slice(start, start + batch_size)
        parts = gathered(table, rows, some, roles=roles).to(device).with_vectors(project)
        yield project(table[rows.whole[some]].float().to(device)), parts


class ComponentPairs(PairIndex, Dataset[Batch]):
    """Pairs whose components come from a :class:`ComponentStore`, in the joint space already."""

    def __init__(
        self,
        store: ComponentStore,
        records: Sequence[Record],
        *,
        roles: bool,
        problems: Problems | None = None,
    ) -> None:
        super().__init__(records)
        found = store.add_pictures(records, problems)
        self.keep(torch.tensor([part is not None for part in found]))
        if not len(self.order):
            raise DataError("the data set has no readable picture with a caption")
        texts = store.add_texts([caption for record in records for caption in record.captions])
        store.close()
        readable = [part for part in found if part is not None]
        self.place = torch.cumsum(torch.tensor([part is not None for part in found]), 0) - 1
        self.roles = roles
        self.image, self.text = image_rows(store, readable), text_rows(store, texts)
        self.image_table = _joint_table(store.images, store.backbone, "image_global")
        self.text_table = _joint_table(store.texts, store.backbone, "text_global")

    def __getitem__(self, pairs: Sequence[int]) -> Batch:
        index = torch.as_tensor(pairs)
        rows = self.order[index]
        pictures = self.pictures[rows]
        where = self.place[pictures].numpy()
        features = Features(
            image_global=self.image_table[self.image.whole[where]].float(),
            text_global=self.text_table[self.text.whole[rows.numpy()]].float(),
            image_parts=gathered(self.image_table, self.image, where, roles=self.roles),
            text_parts=gathered(self.text_table, self.text, rows.numpy(), roles=self.roles),
        )
        return Batch(index, pictures, features=features)


def _projection(backbone: Backbone, name: str) -> tuple[Callable[[Tensor], Tensor], torch.device]:
    """(rows, W) tower states -> (rows, D), and where that happens."""

    def project(states: Tensor) -> Tensor:
        states = states.to(next(backbone.parameters()).dtype)
        is_image = name == "image_global"
        given = Features(image_global=states) if is_image else Features(text_global=states)
        return backbone.project(given).require(name).float()

    return project, next(backbone.parameters()).device


@torch.inference_mode()
def _joint_table(store: VectorStore, backbone: Backbone, name: str) -> Tensor:
    """A store's tower states in the joint space, (rows, D) half precision."""
    project, device = _projection(backbone, name)
    table = store.table()
    parts = [
        project(torch.from_numpy(np.array(table[i : i + ROWS_AT_ONCE])).float().to(device))
        for i in range(0, len(table), ROWS_AT_ONCE)
    ]
    return torch.cat([part.half().cpu() for part in parts])


def _rows(store: VectorStore, keys: Sequence[Sequence[bytes]], length: int) -> np.ndarray:
    rows = np.full((len(keys), length), NOTHING)
    for row, some in zip(rows, keys, strict=True):
        row[: len(some)] = store.rows(some)
    return rows


def _unit(box: Box, size: tuple[int, int]) -> Box:
    (width, height), (x0, y0, x1, y1) = size, box
    return x0 / width, y0 / height, x1 / width, y1 / height
