"""Outputs of frozen towers, computed once and kept on disk.

A store is a folder: ``meta.json`` and one ``.npy`` file a field, opened as memory maps. Token
states are packed (real tokens only) with offsets. Files appear by rename, so a store that was
interrupted lacks fields and is completed the next time; it never holds half a field.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from torch.utils.data import Dataset

from intarsia.backbones.base import Backbone
from intarsia.data.images import load_image
from intarsia.data.problems import Problems
from intarsia.encode.links import links_of
from intarsia.encode.pairs import PairIndex
from intarsia.errors import DataError
from intarsia.runtime import atomic, progress
from intarsia.types import Batch, Dense, Features, Links, Record

TEXTS_AT_ONCE, TEXTS_SORTED = 64, 2048


class FeatureStore:
    """Tower states of a data set under one backbone, half precision.

    Raises:
        DataError: the folder holds states of other records or of another backbone.
    """

    def __init__(self, folder: Path, records: Sequence[Record], backbone: Backbone) -> None:
        self.folder, self.records, self.backbone = folder, records, backbone
        meta = {"records": content_key(records), "backbone": backbone.fingerprint()}
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "meta.json"
        if path.exists():
            found = json.loads(path.read_text())
            for key, value in meta.items():
                if found.get(key) != value:
                    raise DataError(
                        f"{folder} holds features of {key} {found.get(key)}, not {value}: "
                        "name another folder or delete it"
                    )
        else:
            with atomic(path) as draft:
                draft.write_text(json.dumps(meta))

    def ensure(
        self, *, patches: Dense | None, tokens: bool, problems: Problems | None = None
    ) -> None:
        """Compute what is missing of the fields asked for."""
        image = ["image_global", "readable"] + ([patches_name(patches)] if patches else [])
        text = ["text_global"] + (["text_tokens", "text_lengths"] if tokens else [])
        with FileLock(self.folder / ".lock"):
            problems = Problems() if problems is None else problems
            if all(self._file(name).exists() for name in image):
                self._recall(problems)
            else:
                self._run_images(patches, problems)
            if not all(self._file(name).exists() for name in text):
                self._run_texts(tokens)

    def _recall(self, problems: Problems) -> None:
        """Report again the pictures that could not be read when the store was made."""
        problems.expect(len(self.records))
        for index in np.flatnonzero(~self.load("readable")).tolist():
            problems.add(self.records[index].id, "image", "unreadable when the store was made")
        problems.check()

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    @torch.inference_mode()
    def _run_images(self, dense: Dense | None, problems: Problems) -> None:
        readable = np.ones(len(self.records), dtype=bool)
        problems.expect(len(self.records))
        with _growing(self.folder) as write:
            step = self.backbone.images_at_once
            starts = range(0, len(self.records), step)
            for start in progress(starts, f"image features, by {step}"):
                part = self.records[start : start + step]
                pixels = self._pixels(part, start, readable, problems)
                states = self.backbone.image_states(pixels.to(self.device), dense=dense)
                write("image_global", states.require("image_global"))
                if dense:
                    write(patches_name(dense), states.require("image_patches"))
            write("readable", torch.from_numpy(readable))

    def _pixels(
        self, records: Sequence[Record], start: int, readable: np.ndarray, problems: Problems
    ) -> Tensor:
        size = self.backbone.transform.size
        pixels = torch.zeros(len(records), 3, size, size, dtype=torch.uint8)
        for index, record in enumerate(records):
            try:
                pixels[index] = self.backbone.preprocess(load_image(record.image))
            except DataError as error:
                readable[start + index] = False
                problems.add(record.id, "image", str(error))
                problems.check()
        return pixels

    @torch.inference_mode()
    def _run_texts(self, with_tokens: bool) -> None:
        captions = [caption for record in self.records for caption in record.captions]
        with _growing(self.folder) as write:
            starts = range(0, len(captions), TEXTS_SORTED)
            for start in progress(starts, f"text features, by {TEXTS_SORTED}"):
                pooled, tokens = self._texts(captions[start : start + TEXTS_SORTED])
                write("text_global", torch.stack(pooled))
                if with_tokens:
                    write("text_tokens", torch.cat(tokens))
                    write("text_lengths", torch.tensor([len(states) for states in tokens]))

    def _texts(self, captions: Sequence[str]) -> tuple[list[Tensor], list[Tensor]]:
        """Pooled vector and real tokens' states of each caption; alike lengths go together."""
        by_length = sorted(range(len(captions)), key=lambda index: len(captions[index]))
        rows: dict[int, tuple[Tensor, Tensor]] = {}
        for start in range(0, len(captions), TEXTS_AT_ONCE):
            part = by_length[start : start + TEXTS_AT_ONCE]
            batch = self.backbone.tokenize([captions[index] for index in part])
            states = self.backbone.text_states(batch.to(self.device))
            pooled, tokens = states.require("text_global"), states.require("text_tokens")
            for row, index in enumerate(part):
                rows[index] = pooled[row].cpu(), tokens[row].cpu()[batch.mask[row]]
        ordered = [rows[index] for index in range(len(captions))]
        return [pooled for pooled, _ in ordered], [tokens for _, tokens in ordered]

    def load(self, name: str) -> np.ndarray:
        """One field as a read-only memory map."""
        array: np.ndarray = np.load(self._file(name), mmap_mode="r")
        return array


class CachedPairs(PairIndex, Dataset[Batch]):
    """Pairs whose tower states come from a :class:`FeatureStore`.

    Args:
        store: with the states.
        patches: which dense patches the batches hold.
        tokens: whether they hold token states.
        links: whether they hold the known (region, phrase) pairs.
        phrases: with those, the tokens of each phrase alone.
    """

    def __init__(
        self,
        store: FeatureStore,
        *,
        patches: Dense | None,
        tokens: bool,
        links: bool = False,
        phrases: bool = False,
    ) -> None:
        super().__init__(store.records)
        self.keep(torch.from_numpy(np.array(store.load("readable"))))
        if not len(self.order):
            raise DataError("the data set has no readable picture with a caption")
        self.image_global = store.load("image_global")
        self.image_patches = store.load(patches_name(patches)) if patches else None
        self.text_global = store.load("text_global")
        self.text_tokens = store.load("text_tokens") if tokens else None
        lengths = store.load("text_lengths") if tokens else np.zeros(0, dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(lengths)])
        self.links: Links | None = None
        if links:
            captions = [caption for record in store.records for caption in record.captions]
            backbone = store.backbone
            known = backbone.tokenize(captions)
            self.links = links_of(store.records, backbone, known, phrases=phrases)

    def __getitem__(self, pairs: Sequence[int]) -> Batch:
        index = torch.as_tensor(pairs)
        rows = self.order[index]
        pictures = self.pictures[rows]
        tokens, mask = self._tokens(rows.numpy())
        states = Features(
            image_global=_rows(self.image_global, pictures),
            image_patches=None
            if self.image_patches is None
            else _rows(self.image_patches, pictures),
            text_global=_rows(self.text_global, rows),
            text_tokens=tokens,
            text_mask=mask,
        )
        links = None if self.links is None else self.links.rows(rows)
        return Batch(index, pictures, states=states, links=links)

    def _tokens(self, rows: np.ndarray) -> tuple[Tensor | None, Tensor | None]:
        if self.text_tokens is None:
            return None, None
        lengths = self.starts[rows + 1] - self.starts[rows]
        width = max(1, int(lengths.max()))
        padded = np.zeros((len(rows), width, self.text_tokens.shape[1]), np.float32)
        for target, start, length in zip(padded, self.starts[rows], lengths, strict=True):
            target[:length] = self.text_tokens[start : start + length]
        mask = np.arange(width) < lengths[:, None]
        return torch.from_numpy(padded), torch.from_numpy(mask)


def patches_name(dense: Dense) -> str:
    return f"image_patches_{dense}"


def content_key(records: Iterable[Record]) -> str:
    """A hash of the records' ids, captions and pictures (files by path, size and time)."""
    digest = hashlib.blake2b(digest_size=8)
    for record in records:
        if isinstance(record.image, Path):
            stat = record.image.stat()
            image = f"{record.image.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()
        else:
            image = bytes(record.image)
        for part in (record.id.encode(), image, *(c.encode() for c in record.captions)):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return digest.hexdigest()


def _rows(array: np.ndarray, index: Tensor) -> Tensor:
    return torch.from_numpy(array[index.numpy()]).float()


@contextmanager
def _growing(folder: Path) -> Iterator[Any]:
    """Arrays that grow by ``write(name, rows)`` and appear whole when the block ends well."""
    files: dict[str, Any] = {}
    shapes: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
    counts: dict[str, int] = {}

    def write(name: str, rows: Tensor) -> None:
        array = rows.cpu()
        array = array.half() if array.is_floating_point() else array
        if array.is_floating_point() and not array.isfinite().all():
            raise DataError(f"{folder}: {name} has values that half precision cannot hold")
        data = array.numpy()
        if name not in files:
            files[name] = (folder / f"{name}.part").open("wb")
            shapes[name], counts[name] = (data.dtype, data.shape[1:]), 0
        counts[name] += len(data)
        files[name].write(np.ascontiguousarray(data).tobytes())

    try:
        yield write
    finally:
        for file in files.values():
            file.close()
    for name, (dtype, shape) in shapes.items():
        raw = np.memmap(folder / f"{name}.part", dtype, "r", shape=(counts[name], *shape))
        with atomic(folder / f"{name}.npy") as draft, draft.open("wb") as file:
            np.save(file, raw)
        (folder / f"{name}.part").unlink()
