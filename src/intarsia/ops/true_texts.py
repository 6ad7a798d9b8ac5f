"""Which texts are true of which pictures, known by what the texts say and not by their rows.

A caption is true of every picture that bears it word for word, so none of these is a mistake of
retrieval or a negative in training. Two captions are alike where they are the same in Unicode's
normal form C and in lower case, with every run of white space as one space and none at the ends.
Punctuation counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from unicodedata import normalize

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class TrueTexts:
    """Text t is true of picture i where ``said[t]`` is one of ``true[i]``.

    ``said`` (T,) and ``true`` (I,K) are int64 ids, the rows of ``true`` filled up with -1. Its
    first column is the picture's index, which is also the id of what is said of this picture alone.
    ``owner`` (T,) is the picture that each text was given to.
    """

    owner: Tensor
    said: Tensor
    true: Tensor

    @staticmethod
    def of_owners(owner: Tensor, num_pictures: int) -> TrueTexts:
        """Every text is true of the picture (T,) that it was given to and of no other."""
        return TrueTexts(owner, owner, torch.arange(num_pictures, device=owner.device)[:, None])

    @property
    def is_shared(self) -> Tensor:
        """(T,) bool: True where a text is true of other pictures than its own, too."""
        return self.said >= len(self.true)

    @property
    def num_true(self) -> Tensor:
        """(I,) how many of the texts are true of each picture."""
        said = torch.bincount(self.said, minlength=int(self.true.max()) + 1)
        return said[self.true].masked_fill(self.true < 0, 0).sum(1)

    def mask(self, pictures: Tensor, texts: Tensor) -> Tensor:
        """(i,t) bool: which of some texts (t,) are true of which of some pictures (i,)."""
        return meets(self.true[pictures], self.said[texts])

    def groups(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The pictures that bear a shared text and the texts that say it, text by text."""
        texts = _places(self.said, len(self.true))
        pictures = _places(self.true.flatten(), len(self.true))
        for group, said in zip(pictures, texts, strict=True):
            yield group // self.true.shape[1], said

    def to(self, device: torch.device) -> TrueTexts:
        return TrueTexts(*(x.to(device) for x in (self.owner, self.said, self.true)))


def true_texts(texts: Sequence[str], owner: Tensor, num_pictures: int) -> TrueTexts:
    """Find out which of T texts say the same.

    Args:
        texts: T of them.
        owner: (T,) the picture of each.
        num_pictures: I.

    >>> found = true_texts(["a cat", "A  cat ", "a cat?"], torch.tensor([0, 1, 1]), 2)
    >>> found.said, found.true
    (tensor([2, 2, 1]), tensor([[0, 2],
            [1, 2]]))
    """
    known: dict[str, int] = {}
    words = torch.tensor(
        [known.setdefault(same_words(text), len(known)) for text in texts], dtype=torch.int64
    )
    owner = owner.cpu()
    distinct = torch.unique(owner * max(1, len(known)) + words)
    picture, word = distinct // max(1, len(known)), distinct % max(1, len(known))
    is_shared = torch.bincount(word, minlength=len(known)) > 1
    ids = num_pictures - 1 + is_shared.cumsum(0)
    picture, word = (side[is_shared[word]] for side in (picture, word))
    counts = torch.bincount(picture, minlength=num_pictures)
    column = torch.arange(len(picture)) - (counts.cumsum(0) - counts)[picture]
    true = torch.full((num_pictures, 1 + int(counts.amax()) if len(counts) else 1), -1)
    true[:, 0] = torch.arange(num_pictures)
    true[picture, 1 + column] = ids[word]
    return TrueTexts(owner, torch.where(is_shared[words], ids[words], owner), true)


def _places(ids: Tensor, least: int) -> tuple[Tensor, ...]:
    """Where each id from ``least`` on stands in ``ids`` (N,), in the order of the ids."""
    where = (ids >= least).nonzero()[:, 0]
    ordered, order = ids[where].sort(stable=True)
    counts = torch.unique_consecutive(ordered, return_counts=True)[1]
    parts: tuple[Tensor, ...] = where[order].split(counts.tolist())
    return parts


def same_words(text: str) -> str:
    """What texts that say the same have in common: lower case, single spaces, normal form C.

    >>> same_words("  A Dog \\n and a  cat.")
    'a dog and a cat.'
    """
    return " ".join(normalize("NFC", text).split()).lower()


def meets(ids: Tensor, others: Tensor) -> Tensor:
    """(a,c) bool: which of ``others`` (c,) are among each row of ``ids``, (a,) or (a,K).

    >>> meets(torch.tensor([[0, 5], [1, -1]]), torch.tensor([5, 1, 0]))
    tensor([[ True, False,  True],
            [False,  True, False]])
    """
    columns = ids[:, None] if ids.ndim == 1 else ids
    found = columns[:, :1] == others
    for k in range(1, columns.shape[1]):
        found |= columns[:, k : k + 1] == others
    return found
