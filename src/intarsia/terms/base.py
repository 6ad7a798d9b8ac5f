"""The contract of a term: what a method's similarity is the sum of."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor

from intarsia.errors import ShapeError
from intarsia.ops.contrastive import never_empty, scored_info_nce
from intarsia.ops.sigmoid import scored_sigmoid
from intarsia.types import Embeddings

Entry = Literal["vector", "vectors", "candidates"]


class Side(NamedTuple):
    """A group of some pictures or of some texts: (B,...) ``vectors`` and their (B,K) ``mask``,
    None = all real."""

    vectors: Tensor
    mask: Tensor | None = None

    @property
    def real(self) -> Tensor | None:
        """(B,1) bool, which of them have a real vector; None = all."""
        return None if self.mask is None else self.mask.any(1, keepdim=True)

    def never_empty(self) -> Side:
        """With all vectors of what has no real one."""
        return Side(self.vectors, never_empty(self.mask))

    def row(self, index: int) -> Side:
        """One of them, still with its first axis."""
        own = slice(index, index + 1)
        return Side(self.vectors[own], None if self.mask is None else self.mask[own])


@dataclass(frozen=True)
class Term(ABC):
    """One summand of the similarity of a picture and a text: how one group of vectors is scored.

    A subclass says how in :meth:`scores`; what it then says of matched pairs, of alignment and in
    training follows from that, and may be replaced by something faster.

    The score from picture to text may differ from that from text to picture: it enters the
    image-to-text similarity with the weight ``i2t``, the other enters the text-to-image similarity
    with ``t2i``, and with ``reverse`` the image-to-text similarity, too (ComAlign eq. 10).

    ``entry`` says how the term enters an index: as one ``vector`` a side whose dot product is the
    score (:meth:`index_vectors`); as all the ``vectors`` of the group, scored where some vectors
    are near; or not at all, so that it can only rank ``candidates`` that other terms have found.
    ``directed`` says whether the two scores differ, ``takes_masks`` whether some vectors of a group
    may be padding.
    """

    group: str
    i2t: float = 1.0
    t2i: float = 1.0
    reverse: float = 0.0

    entry: ClassVar[Entry] = "candidates"
    directed: ClassVar[bool] = False
    takes_masks: ClassVar[bool] = True

    @abstractmethod
    def scores(self, x: Side, y: Side) -> tuple[Tensor, Tensor]:
        """All of I pictures with all of T texts: from picture to text and from text to picture,
        both (I,T) and differentiable; one and the same tensor twice unless ``directed``.

        Every row has a real vector where it has a mask (:meth:`pairwise` sees to the others).
        Weights of layers that the scores are made with are trained.
        """

    def pairwise(self, x: Side, y: Side) -> tuple[Tensor, Tensor]:
        """:meth:`scores`, and 0 for a picture or a text without any real vector."""
        i2t, t2i = self.scores(x.never_empty(), y.never_empty())
        for real in (x.real, None if y.real is None else y.real.mT):
            if real is not None:
                i2t, t2i = i2t.where(real, 0.0), t2i.where(real, 0.0)
        return i2t, t2i

    def paired(self, x: Side, y: Side) -> tuple[Tensor, Tensor]:
        """Picture b with text b alone, both directions (B,). Unless replaced, pair by pair."""
        found = [self.pairwise(x.row(b), y.row(b)) for b in range(len(x.vectors))]
        i2t, t2i = ([both[way].view(1) for both in found] for way in (0, 1))
        none = x.vectors.new_zeros(0, dtype=torch.float32)
        return torch.cat([none, *i2t]), torch.cat([none, *t2i])

    def fits(self, x: Tensor, y: Tensor) -> bool:
        """Whether vectors of such shapes can be scored, the numbers of rows apart."""
        return x.shape[-1] == y.shape[-1]

    def sides(self, image: Embeddings, text: Embeddings) -> tuple[Side, Side]:
        """The group of both sides.

        Raises:
            ShapeError: one lacks it, the shapes do not fit, or it has a mask that nobody looks at.
        """
        for name, side in (("pictures", image), ("texts", text)):
            if self.group not in side.groups:
                raise ShapeError(
                    f"the {name} have no group {self.group!r}: {', '.join(side.groups)}"
                )
        x, y = image[self.group], text[self.group]
        if not self.fits(x, y):
            raise ShapeError(
                f"group {self.group!r} ({type(self).__name__}) is {tuple(x.shape)} for the "
                f"pictures and {tuple(y.shape)} for the texts"
            )
        if not self.takes_masks and (self.group in image.masks or self.group in text.masks):
            raise ShapeError(
                f"group {self.group!r} has a mask, which {type(self).__name__} does not look at"
            )
        return Side(x, image.masks.get(self.group)), Side(y, text.masks.get(self.group))

    def contrast(self, image: Embeddings, text: Embeddings, scale: Tensor) -> Tensor:
        """Symmetric InfoNCE of the term's scores, each direction with its own.

        Scores and their gradients exist a block at a time, whatever the term, and the pairs of all
        ranks meet (:mod:`intarsia.ops.contrastive`).

        Args:
            image: of B pairs; its and the texts' ``ids`` say which are positives.
            text: of the same pairs.
            scale: scalar, the inverse temperature.
        """
        (x, x_mask), (y, y_mask) = self.sides(image, text)
        positives, numbers = same_picture(image, text), self.numbers(x, y)
        return scored_info_nce(self._block, x, y, x_mask, y_mask, scale, positives, numbers=numbers)

    def sigmoid(self, image: Embeddings, text: Embeddings, scale: Tensor, bias: Tensor) -> Tensor:
        """The sigmoid loss of the term's scores, of every pair on its own (SigLIP, eq. 1), in
        blocks and across ranks like :meth:`contrast` (:mod:`intarsia.ops.sigmoid`).

        Args:
            image: of B pairs; its and the texts' ``ids`` say which are positives.
            text: of the same pairs.
            scale: scalar, the inverse temperature.
            bias: scalar, the logit of a score of 0.
        """
        (x, x_mask), (y, y_mask) = self.sides(image, text)
        positives, numbers = same_picture(image, text), self.numbers(x, y)
        masks = x_mask, y_mask
        return scored_sigmoid(self._block, x, y, masks, scale, bias, positives, numbers=numbers)

    def numbers(self, x: Tensor, y: Tensor) -> int:
        """How many numbers :meth:`scores` keeps for one pair, at most: that many fewer pairs make a
        block. Unless replaced, one for each vector of a picture with each of a text."""
        return math.prod(side.shape[1] for side in (x, y) if side.ndim > 2)

    def _block(
        self, x: Tensor, y: Tensor, x_mask: Tensor | None, y_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return self.scores(Side(x, x_mask), Side(y, y_mask))

    def alignment(self, image: Embeddings, text: Embeddings) -> Tensor:
        """Who matches whom inside one pair (B = 1): (vectors of the picture, those of the text).

        Unless replaced, the dot products of all of its vectors.
        """
        x, y = (side.vectors[0] for side in self.sides(image, text))
        return x.view(-1, x.shape[-1]) @ y.view(-1, y.shape[-1]).mT

    def index_vectors(self, side: Embeddings) -> Tensor:
        """(B,E) vectors of pictures or of texts whose dot products are the scores.

        Raises:
            ShapeError: the term does not enter an index as one vector.
        """
        raise ShapeError(f"{type(self).__name__} is no single vector: it enters as {self.entry}")

    def alone(self) -> Self:
        """The same with the weights 1, 1 and 0: its own scores."""
        return replace(self, i2t=1.0, t2i=1.0, reverse=0.0)


def same_picture(image: Embeddings, text: Embeddings) -> tuple[Tensor, Tensor] | None:
    """What is true of each picture and what each text says, as ids for the losses' ``positives``;
    None where every row is a picture of its own."""
    if image.ids is None or text.ids is None:
        return None
    return image.ids, text.ids
