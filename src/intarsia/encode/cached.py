"""Pairs whose tower states are in the store: for towers that are frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from intarsia.backbones.base import Backbone
from intarsia.components.hard_negatives import FalseCaptions
from intarsia.data.problems import Problems
from intarsia.data.records import Records
from intarsia.encode.extract import (
    ALONE,
    Crew,
    extract_images,
    extract_texts,
    patches_name,
    readable,
)
from intarsia.encode.pairs import LinkedPairs
from intarsia.encode.store import Places, Store, VectorStore
from intarsia.encode.towers import Towers
from intarsia.encode.views import WHOLE, key_of
from intarsia.errors import DataError
from intarsia.types import Batch, Dense, FalseTexts, Features, Record


class CachedPairs(LinkedPairs, Dataset[Batch]):
    """Pairs whose tower states are computed once and kept.

    Args:
        records: of the pairs.
        backbone: frozen, on its device, in evaluation mode.
        store: of the backbone's states; gets what it lacks.
        patches: which dense patches the batches hold.
        tokens: whether they hold token states.
        ids: whether they hold the tokens themselves.
        links: whether they hold the known (region, phrase) pairs.
        phrases: with those, the tokens of each phrase alone.
        false: negatives of the captions, which batches then hold.
        problems: gets the pictures that cannot be read, whose pairs are left out.
        crew: who computes what the store lacks.

    Raises:
        DataError: too many pictures cannot be read, or no picture with a caption can.
    """

    def __init__(
        self,
        records: Sequence[Record],
        backbone: Backbone,
        store: Store,
        *,
        patches: Dense | None,
        tokens: bool,
        ids: bool = False,
        links: bool = False,
        phrases: bool = False,
        false: FalseCaptions | None = None,
        problems: Problems | None = None,
        crew: Crew = ALONE,
    ) -> None:
        super().__init__(Records.of(records), backbone, links=links, phrases=phrases, false=false)
        problems = Problems() if problems is None else problems
        problems.expect(len(records))
        towers = Towers(backbone)
        if backbone.ends_train:
            patches = None  # the map is there already
        keys = [WHOLE.key(key) for key in self.records.picture_keys()]
        texts = self.records.captions
        extract_images(
            self.records,
            [[WHOLE]] * len(keys),
            [[key] for key in keys],
            towers,
            store,
            dense=patches,
            problems=problems,
            crew=crew,
            description="image features",
        )
        read = texts if false is None else [*texts, *false.texts]
        extract_texts(read, towers, store, tokens=tokens, crew=crew, description="text features")
        self.keep(readable(keys, store))
        if not len(self.order):
            raise DataError("the data set has no readable picture with a caption")
        names = [key_of(text) for text in read]  # the false texts' behind the captions'
        self.image_global = _Column(store["image_global"], keys)
        self.image_patches = _Column(store[patches_name(patches)], keys) if patches else None
        self.text_global = _Column(store["text_global"], names)
        self.text_tokens = _Column(store["text_tokens"], names) if tokens else None
        self.ids = ids

    def __getitem__(self, pairs: Sequence[int]) -> Batch:
        index = torch.as_tensor(pairs)
        rows = self.order[index]
        pictures = self.pictures[rows]
        states = replace(
            self._texts(rows),
            image_global=self.image_global[pictures].squeeze(1),
            image_patches=None if self.image_patches is None else self.image_patches[pictures],
        )
        links = None
        if self.linker is not None:
            links = self.linker(self.captioned(rows), self.tokens_of(rows))
        words = self.tokens_of(rows) if self.ids else None
        batch = Batch(index, pictures, states=states, links=links, tokens=words)
        return replace(self.with_truth(batch, rows), false=self._false(rows))

    def _texts(self, rows: Tensor) -> Features:
        """The states of some texts, the false ones being counted behind the captions."""
        tokens, mask = (None, None) if self.text_tokens is None else self.text_tokens.padded(rows)
        whole = self.text_global[rows].squeeze(1)
        return Features(text_global=whole, text_tokens=tokens, text_mask=mask)

    def _false(self, rows: Tensor) -> FalseTexts | None:
        """The negatives of some captions; where one has none, the states of another stand."""
        if self.false is None:
            return None
        places = self.false.places[rows].flatten().clamp(min=0)
        words = self.false.tokens(rows, self.tokenizer) if self.ids else None
        return self.false.of(rows, words, self._texts(places + len(self.pictures)))


class _Column:
    """One field of the store for all pictures or all captions, by their index."""

    def __init__(self, vectors: VectorStore, keys: Sequence[bytes]) -> None:
        self.vectors = vectors
        self.places: Places = vectors.find(keys)

    def __getitem__(self, index: Tensor) -> Tensor:
        """(B,n,W) of some, all of which have n rows."""
        found = self.vectors.read(self.places[index.numpy()]).float()
        return found.view(len(index), -1, found.shape[1])

    def padded(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """(B,N,W) and the mask (B,N) of some, whatever their numbers of rows."""
        places = self.places[index.numpy()]
        counts = places[:, 2].tolist()
        rows = self.vectors.read(places).float().split(counts)
        mask = torch.arange(max(1, max(counts))) < torch.tensor(counts)[:, None]
        padded = pad_sequence(list(rows), batch_first=True)
        return padded if padded.shape[1] else padded.new_zeros(*mask.shape, padded.shape[2]), mask
