"""Links of phrases to regions where nobody has drawn any, found anew by the model as it trains."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from intarsia.backbones.base import ImageTransform
from intarsia.components.detectors import Detector, load_detector
from intarsia.components.pseudo import Candidates, Proposals, candidates, proposals
from intarsia.components.text import TextParser
from intarsia.data.problems import Problems
from intarsia.data.records import Records, without_pictures
from intarsia.encode.cached import CachedPairs
from intarsia.encode.lines import JsonLines
from intarsia.encode.links import word_ranges
from intarsia.encode.pairs import LivePairs, Pairs
from intarsia.errors import ConfigError
from intarsia.model import Model
from intarsia.ops.ranks import current_ranks
from intarsia.ops.regions import pool_regions, pool_words
from intarsia.runtime import bar, chunks
from intarsia.types import Batch, Features, Record, Region, TokenBatch

PAIRS_AT_ONCE = 64


@dataclass(frozen=True)
class PseudoSpec:
    """Phrases of the captions matched to boxes, as ``components.pseudo.pseudo_regions`` does it.

    Args:
        detector: as of ``load_detector``; None takes the regions of the records.
        options: of the detector.
        parser: spaCy model.
        floor: of the regions' own scores, for the matching by labels that training starts with.
        refresh: epochs between two matchings by the model being trained; None = labels only.
        score_floor: of the cosine of phrase and region, for the matchings by the model.
    """

    detector: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    parser: str = "en_core_web_sm"
    floor: float = 0.0
    refresh: int | None = None
    score_floor: float = 0.0


class PseudoLinks:
    """Which phrase is which region, for the pairs of one data set.

    A matching by the model compares a phrase's lexeme in its caption with the region of the dense
    map (both as HarmoCLIP's lexeme-region loss has them); labels still say what may be.

    Args:
        records: whose captions are read; their phrases are replaced, and their regions too where
            there is a detector.
        spec: how.
        cache: folder that keeps what detectors find.
        problems: as of ``pseudo_regions``.

    Raises:
        ConfigError: ``refresh`` is below 1.
    """

    def __init__(
        self, records: Sequence[Record], spec: PseudoSpec, cache: Path, problems: Problems
    ) -> None:
        if spec.refresh is not None and spec.refresh < 1:
            raise ConfigError(f"pseudo.refresh is {spec.refresh}: give at least 1 epoch, or null")
        self.spec = spec
        self._places: list[_Place] = []
        self._matching: Tensor | None = None
        detector = _detector(records, spec, cache)
        given = Records.of(records)
        found = proposals(given, detector, TextParser(spec.parser), problems=problems)
        self.records = given.retold(self._matched_by_labels(found, len(given)))

    def _matched_by_labels(self, found: Iterable[Proposals], num: int) -> Iterator[Record]:
        with bar(num, "regions and phrases") as advance:
            for number, one in enumerate(found):
                self._places += _places(one, number)
                yield _by_labels(one, self.spec.floor)
                advance(1)

    def are_due(self, before: int, now: int) -> bool:
        """Whether the model is to match anew between the steps of two epochs."""
        every = self.spec.refresh
        return every is not None and before >= 0 and now // every > before // every

    @torch.no_grad()
    def refresh(self, model: Model, pairs: Pairs) -> int:
        """Give ``pairs`` the links that the model finds; inside ``across_ranks`` every rank looks
        at its share.

        Returns:
            How many.
        """
        assert isinstance(pairs, LivePairs | CachedPairs)
        ranks = current_ranks()
        share = list(chunks(range(len(pairs)), PAIRS_AT_ONCE))[ranks.rank :: ranks.size]
        found: list[tuple[int, int, int]] = []
        with model.asked(), bar(sum(map(len, share)), "links") as advance:
            for some in share:
                batch = pairs[some]
                asked = batch.pairs == torch.tensor(some)  # not what stands for unreadable ones
                batch = replace(batch, problems=()).rows(asked)
                rows = pairs.order[batch.pairs]
                found += self._matched(model, batch, rows, pairs.tokens_of(rows))
                advance(len(some))
        own = torch.tensor(found, dtype=torch.int32, device=model.device).view(-1, 3)
        everything = torch.cat(ranks.gather(own)).cpu()
        by_caption = everything[:, 0].argsort(stable=True)
        self._matching = everything[by_caption]
        self._link(pairs)
        return len(everything)

    def _matched(
        self, model: Model, batch: Batch, rows: Tensor, tokens: TokenBatch
    ) -> Iterator[tuple[int, int, int]]:
        """(caption, phrase, region) of what the model matches in a batch."""
        scores = self._scores(model, batch, rows.tolist(), tokens)
        for row, score in zip(rows.tolist(), scores, strict=True):
            if (some := self._places[row].candidates) is not None:
                part = score[: some.allowed.shape[0], : some.allowed.shape[1]]
                for phrase, region in some.best(part, self.spec.score_floor):
                    yield row, phrase, region

    def state(self) -> Tensor | None:
        """The last matching by the model, (links, 3): caption, phrase, region."""
        return self._matching

    def restore(self, state: Tensor | None, pairs: Pairs) -> None:
        """Give ``pairs`` the links of a :meth:`state`."""
        self._matching = state
        if state is not None:
            self._link(pairs)

    def _link(self, pairs: Pairs) -> None:
        assert isinstance(pairs, LivePairs | CachedPairs) and self._matching is not None
        phrases: list[list[Any]] = [[] for _ in self.records]
        for row, phrase, region in self._matching.tolist():
            place = self._places[row]
            assert place.candidates is not None
            phrases[place.record] += place.candidates.phrases([(phrase, region)])
        told = zip(without_pictures(self.records), phrases, strict=True)
        pairs.relink(
            self.records.retold(replace(record, phrases=tuple(some)) for record, some in told)
        )

    def _scores(
        self, model: Model, batch: Batch, rows: Sequence[int], tokens: TokenBatch
    ) -> NDArray[np.float32]:
        """(B,P,R) cosines of the candidates' phrases and regions; ``tokens`` are the rows'."""
        places = [self._places[row] for row in rows]
        boxes = [self._boxes(place, model.backbone.transform) for place in places]
        words = [word_ranges(tokens, *_spans(i, place)) for i, place in enumerate(places)]
        features = _features(model, replace(batch, links=None).to(model.device))
        regions = pool_regions(
            features.require("image_patches"), model.backbone.dims.grid, _padded(boxes, model)
        )
        lexemes = pool_words(
            features.require("text_tokens"), features.require("text_mask"), _padded(words, model)
        )
        vectors = (x.float().cpu().numpy() for x in (lexemes, regions.mT))
        return np.matmul(*vectors)

    def _boxes(self, place: _Place, transform: ImageTransform) -> Tensor:
        """(R,4) of a picture in the unit of the backbone's input, cut to it."""
        (record,) = self.records.without_pictures([place.record])
        boxes = [region.box for region in record.regions]
        placed = transform.boxes(boxes, place.size) if boxes else [(0.0, 0.0, 0.0, 0.0)]
        return (torch.tensor(placed) / transform.size).clamp(0, 1)


@dataclass(frozen=True, slots=True)
class _Place:
    """A caption: its record, the size of the picture and what may be matched."""

    record: int
    size: tuple[int, int]
    candidates: Candidates | None


def _places(found: Proposals, record: int) -> Iterator[_Place]:
    size = found.picture.size if found.picture else (0, 0)
    known = {some.caption: some for some in candidates(found, is_free=True)}
    for caption in range(len(found.texts)):
        yield _Place(record, size, known.get(caption))


def _by_labels(found: Proposals, floor: float) -> Record:
    if found.picture is None:
        return found.record
    regions, size = found.record.regions, found.picture.size
    phrases = [
        phrase
        for some in candidates(found, is_free=False)
        for phrase in some.phrases(some.best_by_labels(regions, size, floor))
    ]
    return replace(found.record, phrases=tuple(phrases))


def _spans(row: int, place: _Place) -> tuple[Tensor, Tensor]:
    """(P,) a caption's row of a batch, once a phrase, and (P,2) the phrases' spans."""
    spans = [] if place.candidates is None else list(place.candidates.spans)
    return torch.full((len(spans),), row), torch.tensor(spans, dtype=torch.long).view(-1, 2)


def _features(model: Model, batch: Batch) -> Features:
    """What the model sees of a batch of pairs; of a picture that several share, once."""
    if batch.pixels is None or batch.tokens is None:
        return model.features(batch)
    pictures, row = batch.pictures.unique(return_inverse=True)
    first = torch.full_like(pictures, len(batch)).scatter_reduce(
        0, row, torch.arange(len(batch), device=row.device), "amin"
    )
    image = model.backbone.encode_image(batch.pixels[first], dense=model.dense)
    return image.rows(row).joined(model.backbone.encode_text(batch.tokens))


def _padded(parts: list[Tensor], model: Model) -> Tensor:
    return pad_sequence(parts, batch_first=True).to(model.device)


def _detector(records: Sequence[Record], spec: PseudoSpec, cache: Path) -> Detector:
    if spec.detector is None:
        return _OwnRegions(records)
    return _Keeping(load_detector(spec.detector, **spec.options), cache)


class _OwnRegions:
    """In the place of a detector: the regions that the records have."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._regions = {record.id: list(record.regions) for record in without_pictures(records)}

    def __call__(
        self, images: Sequence[Image.Image], texts: Sequence[Sequence[str]] | None = None
    ) -> list[list[Region]]:
        return [self._regions[image.info["record"]] for image in images]

    def fingerprint(self) -> str:
        return "own"


class _Keeping:
    """A detector that looks at a picture once, and keeps what it finds in a file."""

    def __init__(self, detector: Detector, folder: Path) -> None:
        self._detector = detector
        self._found = JsonLines(folder / f"regions-{detector.fingerprint()}.jsonl")

    def __call__(
        self, images: Sequence[Image.Image], texts: Sequence[Sequence[str]] | None = None
    ) -> list[list[Region]]:
        asked = [[] for _ in images] if texts is None else texts
        keys = [_key(image, some) for image, some in zip(images, asked, strict=True)]
        missing = [i for i, key in enumerate(keys) if key not in self._found.entries]
        if missing:
            regions = self._detector([images[i] for i in missing], [asked[i] for i in missing])
            rows = [[[*r.box, r.score, r.label] for r in some] for some in regions]
            self._found.add({keys[i]: row for i, row in zip(missing, rows, strict=True)})
        found = [self._found.entries[key] for key in keys]
        return [[Region((a, b, c, d), t, score) for a, b, c, d, score, t in rows] for rows in found]

    def fingerprint(self) -> str:
        return self._detector.fingerprint()


def _key(image: Image.Image, texts: Sequence[str]) -> str:
    """Of the picture's content, its name (which boxes from files go by) and what is looked for."""
    names = [image.info.get(name) for name in ("record", "file")]
    digest = hashlib.blake2b(repr((image.size, names, list(texts))).encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.hexdigest()
