"""What flows through the library, and the one legend of shape letters.

Legend, used in every docstring:

    B  batch                      D  joint embedding width
    I  images, T  texts           M  image patches (h * w of the grid)
    N  text tokens                R  regions of an image
    P  phrases of a caption       K  vectors of a group (slots, components, patches)

Boxes are ``(x0, y0, x1, y1)`` in pixels of the picture as it is shown (after EXIF rotation), x to
the right, y down. Spans are ``(start, end)`` character offsets into a caption, end exclusive.
Masks are bool, True = real.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from intarsia.errors import ShapeError

Box = tuple[float, float, float, float]
Span = tuple[int, int]
Dense = Literal["value", "plain"]
Normalise = Literal["none", "row-max"]


@dataclass(frozen=True, slots=True)
class FilePart:
    """``length`` bytes from ``start`` on of a file that holds more, such as a tar shard."""

    path: Path
    start: int
    length: int

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.start)
            return file.read(self.length)

    def __str__(self) -> str:
        return f"{self.path} at byte {self.start}"


ImageSource = Path | FilePart | bytes | np.ndarray
"""A file, a part of one, its encoded bytes, or (H,W,3) uint8."""


@dataclass(frozen=True, slots=True)
class Region:
    """A box of a picture, what it shows and how sure its source is (1 for human labels)."""

    box: Box
    label: str = ""
    score: float = 1.0


@dataclass(frozen=True, slots=True)
class Phrase:
    """A span of one caption and the regions it speaks of (indices into ``Record.regions``)."""

    caption: int
    span: Span
    regions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Negative:
    """A false caption made from the true one with index ``caption``; ``kind`` says how."""

    caption: int
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Record:
    """One picture with its captions and whatever is known below the whole image.

    ``size`` is the picture's (width, height) as it is shown, where that is known without a look.
    """

    id: str
    image: ImageSource
    captions: tuple[str, ...]
    regions: tuple[Region, ...] = ()
    phrases: tuple[Phrase, ...] = ()
    negatives: tuple[Negative, ...] = ()
    size: tuple[int, int] | None = None

    def phrase_text(self, phrase: Phrase) -> str:
        start, end = phrase.span
        return self.captions[phrase.caption][start:end]


@dataclass(frozen=True, slots=True)
class Dims:
    """What a method must know of its backbone: width D, patch grid (h, w), most tokens N, the
    inverse temperature at which its joint space was trained (None = a fresh space), and the bias
    (None = it was trained without: no sigmoid loss)."""

    embed: int
    grid: tuple[int, int]
    context: int
    scale: float | None = field(default=None, compare=False, repr=False)
    bias: float | None = field(default=None, compare=False, repr=False)

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]


class _Batched:
    """Row operations shared by the tensor containers below (every tensor's first axis is B)."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The same container with ``function`` applied to each tensor."""
        changes: dict[str, object] = {}
        for item in fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                changes[item.name] = function(value)
            elif isinstance(value, _Batched):
                changes[item.name] = value.map(function)
            elif isinstance(value, dict):
                changes[item.name] = {name: function(tensor) for name, tensor in value.items()}
        return replace(self, **changes)  # type: ignore[type-var]

    def to(self, device: torch.device | str) -> Self:
        """Copied without waiting towards an accelerator; towards the CPU, whole on return."""
        ahead = torch.device(device).type != "cpu"
        return self.map(lambda tensor: tensor.to(device, non_blocking=ahead))

    def pin_memory(self) -> Self:
        """In page-locked memory, as a ``DataLoader`` asks for; copies to a GPU need not wait."""
        return self.map(lambda tensor: tensor.pin_memory())

    def rows(self, index: slice | Tensor) -> Self:
        return self.map(lambda tensor: tensor[index])


@dataclass(frozen=True, slots=True)
class TokenBatch(_Batched):
    """Tokenised texts.

    ``ids`` (B,N) and ``attention`` (B,N; padding False) feed the text tower; ``mask`` (B,N) is
    True for real tokens only, so neither padding nor BOS/EOS/CLS/SEP; ``offsets`` (B,N,2) are
    each token's character span in its text, (0, 0) where ``mask`` is False. ``cut`` (B,) is True
    where the text had more tokens than the context holds.
    """

    ids: Tensor
    attention: Tensor
    mask: Tensor
    offsets: Tensor
    cut: Tensor | None = None

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    def trimmed(self) -> TokenBatch:
        """As wide as the longest text; what is left out is padding, which must mean nothing."""
        width = int(self.attention.any(0).sum())
        names = ("ids", "attention", "mask", "offsets")
        return replace(self, **{name: getattr(self, name)[:, :width] for name in names})


@dataclass(frozen=True, slots=True)
class Links(_Batched):
    """Which region each phrase of a caption speaks of, for B pairs with up to P such links.

    ``boxes`` (B,P,4) of the regions, the backbone's input being the square from (0, 0) to (1, 1);
    ``words`` (B,P,2) the phrase's first and last + 1 token, counting real tokens only; ``labels``
    (B,P) int64, equal for phrases of the same words; ``mask`` (B,P). ``regions`` (B,P,K) int64 are
    first the region's number in its picture, then those of the regions that it overlaps (IoU > 0.5;
    also of other captions), filled up with -1. ``phrases`` (B,P,N) are the phrases tokenised as
    texts of their own, where a method asks for them.
    """

    boxes: Tensor
    words: Tensor
    labels: Tensor
    mask: Tensor
    regions: Tensor
    phrases: TokenBatch | None = None


@dataclass(frozen=True, slots=True)
class Components(_Batched):
    """The named pieces of B pictures or of B texts, each a vector of its own (ComAlign III-A).

    ``entities`` (B,K,D) are crops of regions or noun phrases, ``relations`` (B,L,D) crops of pairs
    of regions or "subject action object" phrases, best first. ``parts`` are the ends of each
    relation: (B,L,2,D) its two regions, or (B,L,3,D) subject, action and object; ``boxes``
    (B,L,2,4) where the two regions lie, the picture being the square from (0, 0) to (1, 1).
    """

    entities: Tensor
    entity_mask: Tensor
    relations: Tensor
    relation_mask: Tensor
    parts: Tensor | None = None
    boxes: Tensor | None = None

    def with_vectors(self, function: Callable[[Tensor], Tensor]) -> Components:
        """The same with ``function``, (rows, W) -> (rows, D), applied to all vectors."""
        changes = {
            name: function(value.flatten(0, -2)).unflatten(0, value.shape[:-1])
            for name in ("entities", "relations", "parts")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Features(_Batched):
    """What a backbone gives for a batch: of pictures, of texts, or of pairs.

    ``image_global`` (B,D), ``image_patches`` (B,M,D), ``text_global`` (B,D), ``text_tokens``
    (B,N,D) with ``text_mask`` (B,N). A backbone's ``*_states`` give the same fields in the towers'
    own widths; its ``project`` turns those into the joint width D. Vectors are not normalised.
    ``links`` are the known (region, phrase) pairs inside each pair; ``image_crops`` (B,P,D) the
    global vectors of their regions' crops, ``text_phrases`` (B,P,D) those of the phrases alone.
    ``image_parts`` and ``text_parts`` are the components of each side. ``tokens`` are the texts as
    they went into the tower, special tokens with them: ``tokens.ids[tokens.mask]`` are those of
    ``text_tokens[text_mask]``, which may stand elsewhere. None = not computed.
    """

    image_global: Tensor | None = None
    image_patches: Tensor | None = None
    text_global: Tensor | None = None
    text_tokens: Tensor | None = None
    text_mask: Tensor | None = None
    links: Links | None = None
    image_crops: Tensor | None = None
    text_phrases: Tensor | None = None
    image_parts: Components | None = None
    text_parts: Components | None = None
    tokens: TokenBatch | None = None

    def require(self, name: str) -> Tensor:
        value = getattr(self, name)
        if not isinstance(value, Tensor):
            have = [f.name for f in fields(self) if getattr(self, f.name) is not None]
            raise ShapeError(f"features lack {name!r}; they hold {', '.join(have) or 'nothing'}")
        return value

    def joined(self, other: Features) -> Features:
        """The fields of both; ``other`` fills what this one lacks."""
        names = [f.name for f in fields(self)]
        mine = {name: getattr(self, name) for name in names}
        return Features(**{n: getattr(other, n) if mine[n] is None else mine[n] for n in names})


@dataclass(frozen=True, slots=True)
class FalseTexts(_Batched):
    """Up to P false captions of each of B pairs: hard negatives.

    ``ids`` (B,P) int64 are their :attr:`Embeddings.ids`, which the pair's picture does not have;
    ``mask`` (B,P). Either ``tokens`` (B,P,N) or the text tower's cached ``states`` (B,P,...), or
    both.
    """

    ids: Tensor
    mask: Tensor
    tokens: TokenBatch | None = None
    states: Features | None = None

    def packed(self) -> FalseTexts:
        """The F that there are as rows of their own: ``ids`` (F,), ``mask`` (F,) and so on."""
        real = self.mask.flatten().nonzero()[:, 0]
        return self.map(lambda x: x.flatten(0, 1)[real])


@dataclass(frozen=True, slots=True)
class Batch(_Batched):
    """B pairs on their way into a model.

    ``pictures`` (B,) int64 says which picture each pair is of, ``pairs`` (B,) its place in the data
    set. ``said`` (B,) and ``true`` (B,K) are the ids of what its caption says and of all that is
    true of its picture (:class:`intarsia.ops.true_texts.TrueTexts`); None = no captions are shared.
    ``crops`` (B,P,D) are global vectors of the links' regions where they are known already.
    Either ``pixels`` (B,3,H,W) uint8 and ``tokens``, or the towers' cached ``states``, or
    ``features`` that a wholly frozen backbone has projected already.
    ``links`` where the method asks for them. ``false`` are hard negatives of the captions.
    ``problems`` names the pictures that could not be read, (record id, reason), whose pairs were
    replaced by the next readable ones.
    """

    pairs: Tensor
    pictures: Tensor
    pixels: Tensor | None = None
    tokens: TokenBatch | None = None
    states: Features | None = None
    features: Features | None = None
    links: Links | None = None
    crops: Tensor | None = None
    problems: tuple[tuple[str, str], ...] = ()
    said: Tensor | None = None
    true: Tensor | None = None
    false: FalseTexts | None = None

    def __len__(self) -> int:
        return int(self.pairs.shape[0])

    @property
    def image_ids(self) -> Tensor:
        """:attr:`Embeddings.ids` of the pictures."""
        return self.pictures if self.true is None else self.true

    @property
    def text_ids(self) -> Tensor:
        """:attr:`Embeddings.ids` of the captions."""
        return self.pictures if self.said is None else self.said


@dataclass(frozen=True, slots=True)
class Embeddings(_Batched):
    """Named groups of L2-normalised vectors, ready for dot products.

    ``groups[name]`` is (B,D) or (B,K,D); ``masks[name]`` (B,K) where some of the K are padding.
    ``ids`` int64, (B,) of texts, says what each is about, and of pictures, (B,) or (B,K), all that
    is true of each, filled up with -1: a text whose id a picture has is a positive of it, never a
    negative. ``labels[name]`` (B,K) does the same for a group's vectors.
    ``cut`` (B,) is True for texts whose ends were beyond the context, so that they do not count.
    ``extra[name]`` (B,...) is whatever else a method's loss reads, such as token ids or states
    before they are normalised; a method puts it there in training only.
    """

    groups: dict[str, Tensor]
    masks: dict[str, Tensor] = field(default_factory=dict)
    ids: Tensor | None = None
    labels: dict[str, Tensor] = field(default_factory=dict)
    cut: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, group: str) -> Tensor:
        return self.groups[group]

    def __len__(self) -> int:
        return int(next(iter(self.groups.values())).shape[0])

    def cpu(self) -> Embeddings:
        return self.to("cpu")

    @staticmethod
    def concatenate(parts: Sequence[Embeddings]) -> Embeddings:
        """Rows of all parts in order; groups of unequal K are padded, which needs their masks."""

        def join(tables: list[Mapping[str, Tensor]], name: str) -> Tensor:
            tensors = [table[name] for table in tables]
            if tensors[0].ndim == 1 or len({t.shape[1:] for t in tensors}) == 1:
                return torch.cat(tensors)
            longest = max(t.shape[1] for t in tensors)
            padded = [t.new_zeros((t.shape[0], longest, *t.shape[2:])) for t in tensors]
            for target, tensor in zip(padded, tensors, strict=True):
                target[:, : tensor.shape[1]] = tensor
            return torch.cat(padded)

        first = parts[0]
        groups = {name: join([p.groups for p in parts], name) for name in first.groups}
        masks = {name: join([p.masks for p in parts], name) for name in first.masks}
        labels = {name: join([p.labels for p in parts], name) for name in first.labels}
        extra = {name: join([p.extra for p in parts], name) for name in first.extra}
        ids, cut = (
            None if getattr(first, name) is None else torch.cat([getattr(p, name) for p in parts])
            for name in ("ids", "cut")
        )
        return Embeddings(groups, masks, ids, labels, cut, extra)
