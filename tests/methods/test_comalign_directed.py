"""Directed relations learn which of two things is above the other."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from intarsia.methods import ComAlign
from intarsia.terms.similarity import pairwise_scores
from intarsia.types import Components, Dims, Features

DIMS = Dims(embed=16, grid=(2, 2), context=8)


def world(batch: int, g: torch.Generator) -> tuple[Features, Tensor]:
    """Two different things of four, one above the other, and the text that says which; an id."""
    codes = torch.randn(7, 16, generator=torch.Generator().manual_seed(3))
    things = torch.rand(batch, 4, generator=g).argsort(1)[:, :2]
    up = torch.rand(batch, generator=g) < 0.5  # the first is above
    low, high = torch.tensor([0.0, 0.6, 0.3, 0.9]), torch.tensor([0.0, 0.1, 0.3, 0.4])
    boxes = torch.where(
        up[:, None, None], torch.stack([high, low])[None], torch.stack([low, high])[None]
    )
    ends = codes[things]
    yes = torch.ones(batch, 2).bool()
    together = ends.sum(1, keepdim=True)
    image = Components(ends, yes, together, yes[:, :1], ends[:, None], boxes[:, None])
    order = torch.where(up[:, None], things, things.flip(1))
    above = codes[6].expand(batch, 1, 16)
    triplet = torch.cat([codes[order][:, :1], above, codes[order][:, 1:]], 1)
    text = Components(ends, yes, together, yes[:, :1], triplet[:, None], None)
    whole = together[:, 0]
    return Features(
        image_global=whole, text_global=whole, image_parts=image, text_parts=text
    ), 4 * order[:, 0] + order[:, 1]


@pytest.mark.parametrize("directed", [False, True])
def test_a_above_b_is_told_from_b_above_a(directed):
    torch.manual_seed(0)
    small = {"layers": 1, "architecture": "fc_shared", "terms": ["relation"], "dropout": 0.0}
    method = ComAlign(DIMS, directed=directed, **small)
    g = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(method.parameters(), lr=4e-3)
    for _ in range(120 if directed else 10):
        x, ids = world(48, g)
        sides = method.encode_image(x), method.encode_text(x)
        loss = method.loss(*(replace(side, ids=ids) for side in sides))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, _ = world(200, g)
    with torch.no_grad():
        image, text = method.encode_image(x), method.encode_text(x)
        roles = replace(x.text_parts, parts=x.text_parts.parts[:, :, [2, 1, 0]])
        false = method.encode_text(replace(x, text_parts=roles))
        true_score = pairwise_scores(image, text, method.terms)[0].diagonal()
        false_score = pairwise_scores(image, false, method.terms)[0].diagonal()
    if directed:
        assert (true_score > false_score + 1e-3).float().mean() > 0.9
    else:
        torch.testing.assert_close(true_score, false_score)
