"""How many tokens a text model has positions for, seen from what it looks up and not from names.

``max_position_embeddings`` counts rows of a table, of which some models (RoBERTa and all that
descend from it) leave out the first ones, up to the row of the padding; others do not give it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

PROBE = 8  # tokens


@torch.no_grad()
def num_positions(text: Any) -> int | None:
    """The most tokens that a transformers text model has rows of positions for; None if it looks
    none up, because it computes them, say.

    It is asked about a text that repeats one token: a table in which that looks up one row after
    the other is one of positions, and what comes before the first row is never used.
    """
    token = 1 if text.config.pad_token_id == 0 else 0
    ids = torch.full((1, PROBE), token, device=next(text.parameters()).device)
    with _LookUps() as seen:
        text(input_ids=ids, attention_mask=torch.ones_like(ids))
    steps = torch.arange(PROBE, device=ids.device)
    usable = [
        num_rows - int(rows[0])
        for num_rows, rows in seen.found
        if torch.equal(rows[:PROBE], rows[0] + steps)
    ]
    return min(usable, default=None)


class _LookUps(TorchDispatchMode):
    """Collects the number of rows of each embedding table in use, and which rows are looked up."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[tuple[int, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.embedding.default:
            self.found.append((len(args[0]), args[1].flatten().long()))
        return func(*args, **(kwargs or {}))
