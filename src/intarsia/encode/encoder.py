"""A backbone and a method that are asked: vectors of pictures and texts, similarities, maps."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from intarsia.backbones.base import Backbone
from intarsia.data.images import AnyImage, picture, source_of
from intarsia.data.problems import Problems
from intarsia.data.records import Records
from intarsia.encode.component_pairs import (
    image_features,
    image_rows,
    read_components,
    see_components,
    text_features,
    text_rows,
)
from intarsia.encode.components import Components, ComponentSpec
from intarsia.encode.inputs import BLANK, Picture, Pictures, Texts, pictures_of, texts_of
from intarsia.encode.modes import Asked
from intarsia.encode.store import Store
from intarsia.encode.towers import Towers
from intarsia.errors import ConfigError, CutTextWarning, DataError
from intarsia.methods import Method
from intarsia.runtime import chunks, in_threads, quietly
from intarsia.terms.similarity import pairwise_scores
from intarsia.types import Box, Dense, Embeddings, Features, Record, Region, TokenBatch

MISSING: Any = object()
IMAGES_AT_ONCE = 128
TEXTS_AT_ONCE = 256


class Encoder(nn.Module):
    """What a model answers, from any number of threads, in whatever mode it is.

    A picture is a path, the bytes of a file, a PIL image, an (H,W,3) uint8 array or a (3,H,W) or
    (H,W,3) uint8 tensor. Answers are ordinary tensors without a gradient, where the model is:
    ``.cpu()`` moves them, and what does not fit there is asked for some pictures or texts at a
    time (:meth:`image_batches`, :meth:`text_batches`).

    Args:
        backbone: its precision is that of the towers and projections.
        method: what is made of the backbone's vectors.
        dense: how the patches of a ViT are taken.
        components: how components are found, for methods that match them.
    """

    def __init__(
        self, backbone: Backbone, method: Method, *, dense: Dense, components: ComponentSpec
    ) -> None:
        super().__init__()
        self.backbone, self.method, self.component_spec = backbone, method, components
        self.dense: Dense | None = dense if "patches" in method.needs else None
        self.cache: Path | None = None
        self.compiled = False
        self._patches: Dense = dense
        self._asked = Asked()

    def __getstate__(self) -> dict[str, Any]:
        made = ("components", "store", "towers")
        return {name: value for name, value in self.__dict__.items() if name not in made}

    def _apply(self, *arguments: Any, **options: Any) -> Any:
        """Moved or in another precision, it makes other vectors and needs other towers."""
        self._forget()
        return super()._apply(*arguments, **options)  # type: ignore[no-untyped-call]

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        self._forget()
        return super().load_state_dict(*arguments, **options)

    def _forget(self) -> None:
        for name in ("store", "towers"):
            self.__dict__.pop(name, None)

    @property
    def device(self) -> torch.device:
        return next(self.method.parameters()).device

    def asked(self) -> AbstractContextManager[None]:
        """Evaluation mode for as long as somebody is inside."""
        return self._asked(self)

    @cached_property
    def towers(self) -> Towers:
        """The backbone's towers; compiled where ``compiled`` was set before they were asked."""
        return Towers(self.backbone, compiled=self.compiled)

    @cached_property
    def components(self) -> Components:
        """Finds components; what it finds is kept in the folder ``cache`` if that is set."""
        return Components(self.component_spec, self.cache and self.cache / "components")

    @cached_property
    def store(self) -> Store:
        """Where vectors of components are kept, in the folder ``cache``."""
        return Store(self.cache and self.cache / "vectors", self.backbone.fingerprint())

    def _kept(self) -> Store:
        """The store, or one for this call alone: without a ``cache`` nothing is kept."""
        return Store(None, "") if self.cache is None else self.store

    @property
    def matches_components(self) -> bool:
        return "components" in self.method.needs

    @property
    def takes_regions(self) -> bool:
        """Whether regions have to be given with the pictures: nothing else finds them."""
        return self.matches_components and self.component_spec.detector is None

    @torch.no_grad()
    def image_features(
        self, images: Pictures, *, patches: bool = False, whole: bool = False
    ) -> Features:
        """What the backbone gives for one or many pictures, all at once.

        Args:
            images: one picture, or any iterable of them.
            patches: also for methods that need none.
            whole: scale the whole picture to a square, where the transform would cut one out.
        """
        prepare = self._prepare(whole)
        pixels = list(self._pixels(images, whole))
        given = torch.stack(pixels or [prepare(picture(BLANK))])
        found = self._see(given, self._patches if patches else self.dense)
        return found if pixels else found.rows(slice(0))

    def _prepare(self, whole: bool) -> Callable[[Image.Image], Tensor]:
        return self.backbone.transform.squashed() if whole else self.backbone.preprocess

    def _pixels(self, images: Pictures, whole: bool = False) -> Iterator[Tensor]:
        """Each picture's (3,S,S), decoded ahead in threads."""
        prepare = self._prepare(whole)
        return in_threads(lambda image: prepare(picture(image)), pictures_of(images))

    def _see(self, pixels: Tensor, dense: Dense | None) -> Features:
        """What the backbone gives for (B,3,S,S) pixels."""
        with self.asked():
            states = self.towers.images(pixels, dense=dense)
            return self._for_method(self.backbone.project(states))

    @torch.no_grad()
    def text_features(self, texts: Texts) -> Features:
        """What the backbone gives for one or many texts, all at once."""
        given = list(texts_of(texts))
        tokens = self.backbone.tokenize(given or [""])
        self.tell_cut(tokens.cut)
        found = self._of_tokens(tokens)
        return found if given else found.rows(slice(0))

    def _of_tokens(self, tokens: TokenBatch) -> Features:
        tokens = tokens.to(self.device)
        with self.asked():
            return replace(self._for_method(self.backbone.encode_text(tokens)), tokens=tokens)

    def _for_method(self, features: Features) -> Features:
        dtype = next(self.method.parameters()).dtype
        return features.map(lambda x: x.to(dtype) if x.is_floating_point() else x)

    def encode_images(
        self,
        images: Pictures,
        *,
        regions: Iterable[Sequence[Region]] | None = None,
        batch_size: int = IMAGES_AT_ONCE,
    ) -> Embeddings:
        """One or many pictures -> their embeddings, a row each, in order.

        Args:
            images: one picture, or any iterable of them, which is read as it is needed.
            regions: a list of regions for each picture, for methods that match components where
                no detector finds them; without, the whole picture is its one entity.
            batch_size: pictures at a time.

        Raises:
            ConfigError: the method does not take regions.
            DataError: a picture cannot be read, or there is not one list of regions a picture.
        """
        parts = list(self.image_batches(images, regions=regions, batch_size=batch_size))
        if not parts:
            return self.encode_images(BLANK).rows(slice(0))
        return Embeddings.concatenate(parts)

    def image_batches(
        self,
        images: Pictures,
        *,
        regions: Iterable[Sequence[Region]] | None = None,
        batch_size: int = IMAGES_AT_ONCE,
    ) -> Iterator[Embeddings]:
        """:meth:`encode_images`, ``batch_size`` pictures after the other."""
        if regions is not None and not self.takes_regions:
            raise ConfigError(self._no_regions())
        if self.matches_components:
            records = _records(pictures_of(images), regions)
            return self.record_batches(records, batch_size=batch_size)
        batches = map(torch.stack, chunks(self._pixels(images), _checked(batch_size)))
        found = (self._see(pixels, self.dense) for pixels in batches)
        return self._answers(found, self.method.encode_image)

    def record_batches(
        self, records: Iterable[Record], *, batch_size: int = IMAGES_AT_ONCE
    ) -> Iterator[Embeddings]:
        """:meth:`image_batches` of the pictures of records, for methods that match components: with
        their regions where nothing else finds any, and by their ids and files' names where a
        detector's answers go by these."""
        found = self._component_images(records, _checked(batch_size))
        return self._answers(found, self.method.encode_image)

    @torch.no_grad()
    def _answers(
        self, features: Iterator[Features], encode: Callable[[Features], Embeddings]
    ) -> Iterator[Embeddings]:
        """Each batch encoded; between two of them the model is the caller's."""
        while True:
            with self.asked(), quietly():
                found = next(features, None)
                if found is None:
                    return
                answer = encode(found)
            yield answer

    def _no_regions(self) -> str:
        name = type(self.method).__name__
        if self.matches_components:
            return f"{name} here finds regions by {self.component_spec.detector}: give none"
        return f"{name} does not use regions: leave them out (ComAlign matches them with phrases)"

    def _component_images(self, records: Iterable[Record], batch_size: int) -> Iterator[Features]:
        for some in chunks(records, batch_size):
            store = self._kept()
            with self.components.lock:
                seen = see_components(
                    self.components, Records.of(some), self.towers, store, Problems(0.0)
                )
                found = [part for part in seen if part is not None]
                rows = image_rows(store, self.backbone, self.components, found)
            yield from image_features(
                rows, self.device, roles=self._takes_roles, batch_size=batch_size
            )

    @property
    def _takes_roles(self) -> bool:
        return "roles" in self.method.needs

    def encode_texts(self, texts: Texts, *, batch_size: int = TEXTS_AT_ONCE) -> Embeddings:
        """One or many texts -> their embeddings, a row each, in order; one string is one text.

        Texts beyond the context are cut, with a :class:`CutTextWarning` that counts them;
        ``cut`` of the result says which.

        Args:
            texts: one text, or any iterable of them.
            batch_size: texts at a time.
        """
        parts = list(self.text_batches(texts, batch_size=batch_size))
        if not parts:
            return self.encode_texts("").rows(slice(0))
        found = Embeddings.concatenate(parts)
        self.tell_cut(found.cut)
        return found

    @torch.no_grad()
    def text_batches(
        self, texts: Texts, *, batch_size: int = TEXTS_AT_ONCE
    ) -> Iterator[Embeddings]:
        """:meth:`encode_texts`, ``batch_size`` texts after the other; of those that
        are cut nobody is warned."""
        _checked(batch_size)
        for some in chunks(texts_of(texts), batch_size):
            tokens = self.backbone.tokenize(some)
            with self.asked(), quietly():
                components = self.matches_components
                found = self._component_texts(some) if components else self._of_tokens(tokens)
                answer = self.method.encode_text(found)
            yield replace(answer, cut=None if tokens.cut is None else tokens.cut.to(self.device))

    def _component_texts(self, texts: list[str]) -> Features:
        store = self._kept()
        with self.components.lock:
            found = read_components(self.components, texts, self.towers, store)
            rows = text_rows(store, self.backbone, self.components, found)
        roles = self._takes_roles
        return next(text_features(rows, self.device, roles=roles, batch_size=len(texts)))

    def tell_cut(self, cut: Tensor | None) -> None:
        """Warn of texts that were cut, if any were."""
        if cut is not None and (count := int(cut.sum())):
            told = (
                f"{count} of {len(cut)} texts are longer than the {self.backbone.dims.context} "
                f"tokens of {self.backbone.name} and were cut: their ends do not count"
            )
            warnings.warn(CutTextWarning(told), stacklevel=4)

    def similarity(self, image: Embeddings, text: Embeddings) -> tuple[Tensor, Tensor]:
        """Image-to-text and text-to-image similarity, both (I,T); with a gradient where an
        embedding asks for one, whatever weights the terms have."""
        vectors = (x for side in (image, text) for x in side.groups.values())
        asks = torch.is_grad_enabled() and any(x.requires_grad for x in vectors)
        with torch.set_grad_enabled(asks):
            return pairwise_scores(image, text, self.method.terms)

    @torch.no_grad()
    def alignment(self, image: Picture, text: str) -> Tensor:
        """(vectors of the picture, vectors of the text): who matches whom inside one pair."""
        return self.method.alignment(self.encode_images([image]), self.encode_texts([text]))

    @torch.no_grad()
    def patch_maps(self, image: Picture, phrases: Texts, *, whole: bool = False) -> Tensor:
        """Where each phrase is in one picture: (P,h,w), higher = better match.

        A map covers what the backbone sees of the picture: for many only the central square, the
        rest of the longer side being cut off. :meth:`seen` gives that part as a box.

        Args:
            image: one picture.
            phrases: one or many.
            whole: scale the whole picture to a square instead, so that the map covers all of it.
        """
        return self.maps_of([image], [list(texts_of(phrases))], whole=whole)[0]

    @torch.no_grad()
    def maps_of(
        self, images: Sequence[Picture], phrases: Sequence[Sequence[str]], *, whole: bool = False
    ) -> list[Tensor]:
        """:meth:`patch_maps` of a few pictures at once, each with its own phrases."""
        counts = [len(some) for some in phrases]
        texts = {text: i for i, text in enumerate(dict.fromkeys(chain.from_iterable(phrases)))}
        which = [texts[text] for some in phrases for text in some]
        owner = torch.arange(len(images)).repeat_interleave(torch.tensor(counts, dtype=torch.long))
        with self.asked():
            text = self.text_features(list(texts)).rows(torch.tensor(which, dtype=torch.long))
            image = self.image_features(images, patches=True, whole=whole).rows(owner)
            maps = self.method.patch_map(image, text)
        return list(maps.view(len(which), *self.backbone.dims.grid).split(counts))

    def seen(self, image: Picture) -> Box:
        """The part of a picture that the backbone sees and a map covers, in its pixels."""
        (shown,) = pictures_of([image])
        return self.backbone.transform.seen(picture(shown).size)


def _records(
    images: Iterator[AnyImage], regions: Iterable[Sequence[Region]] | None
) -> Iterator[Record]:
    """A record a picture, with its regions; it has no id that anything could go by."""
    pairs = ((image, ()) for image in images) if regions is None else _paired(images, regions)
    for image, own in pairs:
        yield Record("", source_of(image), (), tuple(own))


def _paired(
    images: Iterator[AnyImage], regions: Iterable[Sequence[Region]]
) -> Iterator[tuple[AnyImage, Sequence[Region]]]:
    """Each picture with its list.

    Raises:
        DataError: the lists are more or fewer than the pictures, or a region stands for a list.
    """
    for number, (image, own) in enumerate(zip_longest(images, regions, fillvalue=MISSING)):
        if isinstance(own, Region):
            raise DataError(f"regions are a list for each picture, but item {number} is a region")
        if image is MISSING or own is MISSING:
            fewer, more = ("lists", "pictures") if own is MISSING else ("pictures", "lists")
            raise DataError(
                f"there are {number} {fewer} and more {more}: give a list of regions a picture"
            )
        yield image, own


def _checked(batch_size: int) -> int:
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size!r}: give a whole number of at least 1")
    return batch_size
