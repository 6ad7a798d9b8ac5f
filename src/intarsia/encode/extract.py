"""From records to vectors in the store: what is missing there is looked at once, by all devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from intarsia.data.problems import Problem, Problems
from intarsia.data.records import Records
from intarsia.encode.loader import Looks, load
from intarsia.encode.store import ENTRY, NOWHERE, Store, VectorStore
from intarsia.encode.towers import TEXTS_AT_ONCE, Towers
from intarsia.encode.views import View, key_of
from intarsia.runtime import bar, chunks
from intarsia.types import Dense

VIEWS_AT_ONCE = 256
TEXTS_SORTED = 2048  # at a time: texts of about one length go together


@dataclass(frozen=True, slots=True)
class Crew:
    """The processes that share the work: this one is number ``rank`` of ``world``; ``gather`` waits
    for all and tells each what was wrong with the pictures of all."""

    rank: int = 0
    world: int = 1
    gather: Callable[[list[Problem]], list[list[Problem]]] = lambda own: [own]

    def does(self, key: bytes) -> bool:
        """Whether what goes by a key is this one's to do: the key alone decides, since the others
        may have begun, and what they have done is not missing any more."""
        return int.from_bytes(key[:8], "little") % self.world == self.rank


ALONE = Crew()


def extract_images(
    records: Records,
    views: Sequence[Sequence[View]],
    keys: Sequence[Sequence[bytes]],
    towers: Towers,
    store: Store,
    *,
    dense: Dense | None = None,
    problems: Problems,
    crew: Crew = ALONE,
    description: str = "pictures",
) -> None:
    """See to it that the store has the vectors of all views of all records' pictures.

    Args:
        records: I of them.
        views: what is looked at of each.
        keys: what each view goes by.
        towers: what looks.
        store: gets ``image_global`` and, with ``dense``, the patches.
        dense: which patches.
        problems: gets the pictures that cannot be read; their views stay out of the store.
        crew: who does it; each takes a share of what is missing.
        description: what the progress bar says.

    Raises:
        DataError: too many cannot be read.
    """
    names = {"image_global": "image_global"}
    if dense:
        names[patches_name(dense)] = "image_patches"
    wanted = _missing(keys, [store[name] for name in names])
    todo = [i for i, some in enumerate(wanted) if some and crew.does(keys[i][0])]
    chosen = [[views[i][k] for k in wanted[i]] for i in todo]
    looks = Looks(records.at(todo), chosen)
    bad: list[Problem] = []
    with bar(sum(map(len, chosen)), description) as advance:
        found = load(
            looks, towers.backbone.transform, batch_size=VIEWS_AT_ONCE, device=towers.device
        )
        for seen in found:
            for index, reason in seen.problems:
                problems.add(looks.records.id_of(index), "image", reason)
                bad.append(Problem(looks.records.id_of(index), "image", reason))
                if crew.world == 1:
                    problems.check()
            some = [keys[todo[index]][k] for index in seen.records for k in wanted[todo[index]]]
            if some:
                states = towers.images(seen.pixels, dense=dense)
                for name, field in names.items():
                    store[name].add(some, states.require(field))
            advance(len(some))
    bad += _alike(records, keys, todo, bad)
    for problem in chain.from_iterable(crew.gather(bad)):
        problems.add(problem.source, problem.field, problem.reason)
    if bad or crew.world > 1:
        problems.check()
    store.refresh()


def _alike(
    records: Records, keys: Sequence[Sequence[bytes]], tried: Sequence[int], bad: Sequence[Problem]
) -> list[Problem]:
    """What is bad of the pictures that were not tried because they are the same as one that was."""
    if not bad:
        return []
    reasons = {problem.source: problem.reason for problem in bad}
    known = {keys[i][0]: reasons.get(records.id_of(i)) for i in tried}
    rest = set(range(len(keys))) - set(tried)
    return [
        Problem(records.id_of(i), "image", reason)
        for i in sorted(rest)
        if keys[i] and (reason := known.get(keys[i][0]))
    ]


def extract_texts(
    texts: Sequence[str],
    towers: Towers,
    store: Store,
    *,
    tokens: bool = False,
    crew: Crew = ALONE,
    description: str = "texts",
) -> None:
    """See to it that the store has ``text_global`` and, with ``tokens``, ``text_tokens`` (those of
    real tokens) of all texts, under their :func:`key_of`."""
    names = ["text_global", "text_tokens"] if tokens else ["text_global"]
    keys = [key_of(text) for text in texts]
    found = _missing([[key] for key in keys], [store[name] for name in names])
    missing = zip(texts, keys, found, strict=True)
    todo = [text for text, key, is_missing in missing if is_missing and crew.does(key)]
    with bar(len(todo), description) as advance:
        for window in chunks(todo, TEXTS_SORTED):
            for some in chunks(sorted(window, key=len), TEXTS_AT_ONCE):
                states, _ = towers.texts(some)
                keys = [key_of(text) for text in some]
                store["text_global"].add(keys, states.require("text_global"))
                if tokens:
                    rows, mask = states.require("text_tokens"), states.require("text_mask")
                    real = [row[own] for row, own in zip(rows.cpu(), mask.cpu(), strict=True)]
                    store["text_tokens"].add(keys, real)
                advance(len(some))
    crew.gather([])
    store.refresh()


def _missing(keys: Sequence[Sequence[bytes]], fields: Sequence[VectorStore]) -> list[list[int]]:
    """Of each row of keys, the places of those that one of the fields lacks; of equal keys the
    first alone."""
    flat = [key for some in keys for key in some]
    lacking = np.zeros(len(flat), dtype=bool)
    for field in fields:
        lacking |= field.find(flat)[:, 0] == NOWHERE
    first = np.zeros_like(lacking)
    first[np.unique(np.array(flat, dtype=ENTRY["key"]), return_index=True)[1]] = True
    lacking &= first
    ends = np.cumsum([len(some) for some in keys])
    rows = np.split(lacking, ends[:-1]) if len(keys) else []
    return [np.flatnonzero(row).tolist() for row in rows]


def readable(keys: Sequence[bytes], store: Store) -> Tensor:
    """(I,) bool: which pictures' whole views, by their keys, the store has."""
    return torch.from_numpy(store["image_global"].find(keys)[:, 0] != NOWHERE)


def patches_name(dense: Dense) -> str:
    return f"image_patches_{dense}"
