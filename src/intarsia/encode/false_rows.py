"""Hard negatives of the captions of a batch, as rows beside them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from intarsia.backbones.base import Tokenizer
from intarsia.components.hard_negatives import FalseCaptions
from intarsia.ops.true_texts import TrueTexts, same_words
from intarsia.types import FalseTexts, Features, TokenBatch


class FalseRows:
    """The negatives of any captions of a data set.

    What is false of one picture may be the caption of another: it has that caption's id, so that it
    is true of whatever bears it. All others have ids of their own.

    Args:
        made: negatives of T captions.
        captions: T of them.
        truth: of which pictures each is true.
    """

    def __init__(self, made: FalseCaptions, captions: Sequence[str], truth: TrueTexts) -> None:
        self.texts, self.places = made.texts, made.places
        said = dict(zip(map(same_words, captions), truth.said.tolist(), strict=True))
        first = int(truth.true.max()) + 1
        ids = [said.get(same_words(text), first + i) for i, text in enumerate(self.texts)]
        self.ids = torch.tensor(ids)

    def of(
        self, rows: Tensor, tokens: TokenBatch | None = None, states: Features | None = None
    ) -> FalseTexts:
        """Of some captions (B,); ``tokens`` and ``states`` are of the (B * P) places, in order."""
        places = self.places[rows]

        def each(x: Tensor) -> Tensor:
            return x.view(*places.shape, *x.shape[1:])

        tokens = None if tokens is None else tokens.map(each)
        states = None if states is None else states.map(each)
        return FalseTexts(self.ids[places.clamp(min=0)], places >= 0, tokens, states)

    def tokens(self, rows: Tensor, tokenizer: Tokenizer) -> TokenBatch:
        """The tokens of all places, (B * P) texts; blank where there is none."""
        places = self.places[rows].flatten().tolist()
        return tokenizer([self.texts[place] if place >= 0 else "" for place in places])
