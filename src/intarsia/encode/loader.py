"""The loader: from records and views of them to pixels, decoded by workers while a model works."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from intarsia.backbones.base import ImageTransform
from intarsia.data.images import load_image
from intarsia.data.records import Records
from intarsia.encode.views import View
from intarsia.errors import DataError
from intarsia.runtime import in_threads, loading, num_workers
from intarsia.types import Batch

T = TypeVar("T")

WORTH_WORKERS = 8  # batches


@dataclass(frozen=True, slots=True)
class Looks:
    """What is to be looked at: ``views[i]`` of ``records[i]``, which is decoded once."""

    records: Records
    views: Sequence[Sequence[View]]

    def batches(self, size: int) -> list[list[int]]:
        """Records in order, together until they have ``size`` views."""
        found: list[list[int]] = [[]]
        count = 0
        for index, views in enumerate(self.views):
            if count >= size:
                found.append([])
                count = 0
            found[-1].append(index)
            count += len(views)
        return found if found[-1] else []


@dataclass(frozen=True, slots=True)
class Seen:
    """All views of some records: ``pixels`` (V,3,S,S) uint8 of those in ``records``, in order;
    ``problems`` says why the others could not be read."""

    records: list[int]
    pixels: Tensor
    problems: list[tuple[int, str]]

    def pin_memory(self) -> Seen:
        return Seen(self.records, self.pixels.pin_memory(), self.problems)


def load(
    looks: Looks, transform: ImageTransform, *, batch_size: int, device: torch.device
) -> Iterator[Seen]:
    """All that is to be looked at, about ``batch_size`` views at a time.

    For a GPU worker processes run ahead, and pixels come in pinned memory. On a CPU, where they
    would only take the cores from the model, or for a few batches, before which they would not have
    started, the threads of this process decode between two of its batches.
    """
    dataset = _Pictures(looks, transform)
    batches = looks.batches(batch_size)
    if device.type == "cpu" or len(batches) < WORTH_WORKERS:
        return (dataset.__getitems__(batch) for batch in batches)
    return iter(
        DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=_as_it_is,
            **loading(num_workers(device), device),
        )
    )


class _Pictures(Dataset[Any]):
    def __init__(self, looks: Looks, transform: ImageTransform) -> None:
        self.looks, self.transform = looks, transform

    def __getitems__(self, indices: Sequence[int]) -> Seen:
        records = self.looks.records.__getitems__(indices)
        found = list(in_threads(self._pixels, zip(indices, records, strict=True)))
        read = [(i, x) for i, x in zip(indices, found, strict=True) if isinstance(x, Tensor)]
        problems = [(i, x) for i, x in zip(indices, found, strict=True) if isinstance(x, str)]
        blank = torch.zeros(0, 3, self.transform.size, self.transform.size, dtype=torch.uint8)
        pixels = torch.cat([x for _, x in read] or [blank])
        return Seen([index for index, _ in read], pixels, problems)

    def _pixels(self, item: tuple[int, Any]) -> Tensor | str:
        """(V,3,S,S) of a record's views, or why it cannot be read."""
        index, record = item
        try:
            image = load_image(record.image)
        except DataError as error:
            return str(error)
        return torch.stack([view.pixels(image, self.transform) for view in self.looks.views[index]])


def ahead(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Batches on the device, each made ready while the one before it is at work.

    A thread takes the next; copies to a GPU run in a stream of their own, from pinned memory, so
    that neither waits for the other.
    """
    batches = _taken_ahead(batches)
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    stream = torch.cuda.Stream(device)
    waiting: tuple[Batch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            copied = batch.to(device)
            event = stream.record_event()
        if waiting is not None:
            yield _arrived(*waiting, device)
        waiting = copied, event
    if waiting is not None:
        yield _arrived(*waiting, device)


def _taken_ahead(batches: Iterable[Batch]) -> Iterator[Batch]:
    iterator = iter(batches)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, iterator, None)
        while (batch := waiting.result()) is not None:
            waiting = pool.submit(next, iterator, None)
            yield batch


def _arrived(batch: Batch, event: torch.cuda.Event, device: torch.device) -> Batch:
    """A batch that the stream of the model may use: it waits for the copy, the host does not."""
    stream = torch.cuda.current_stream(device)
    stream.wait_event(event)

    def used(x: Tensor) -> Tensor:
        x.record_stream(stream)
        return x

    return batch.map(used)


def _as_it_is(found: T) -> T:
    return found
