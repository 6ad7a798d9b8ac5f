"""What `registers` is for: slots are spatial."""

import pytest
import torch
import torch.nn.functional as F

from intarsia.errors import ShapeError
from intarsia.methods import Registers
from intarsia.methods.registers import grid_positions
from intarsia.types import Dims, Features

DIMS = Dims(embed=32, grid=(3, 3), context=4)


def world(batch: int, generator: torch.Generator):
    """One thing somewhere on a 3 x 3 grid; the text has a word for the thing and one for the place.

    Position, thing and noise are random, so only a text that is unpacked in space fits the patches.
    """
    codes = F.normalize(torch.randn(12, 32, generator=torch.Generator().manual_seed(7)), dim=-1)
    thing = torch.randint(0, 3, (batch,), generator=generator)
    place = torch.randint(0, 9, (batch,), generator=generator)
    patches = 0.1 * torch.randn(batch, 9, 32, generator=generator)
    patches[torch.arange(batch), place] += codes[thing]
    tokens = torch.stack([codes[thing], codes[3 + place]], 1)
    blank = torch.zeros(batch, 32)
    mask = torch.ones(batch, 2, dtype=torch.bool)
    return Features(blank + 1, patches, blank + 1, tokens, mask), thing, place


@pytest.mark.parametrize("self_attention", [True, False])
def test_slots_learn_where_things_are(self_attention):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    method = Registers(DIMS, layers=1, self_attention=self_attention, lambda_local=0.1)
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    for _ in range(150):
        x, _, _ = world(64, generator)
        loss = method.loss(method.encode_image(x), method.encode_text(x))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, _, place = world(200, generator)
    found = method.patch_map(x, x).argmax(1)
    assert (found == place).float().mean() > 0.8
    moved = x.rows(torch.arange(200))
    moved.require("image_patches")[:] = moved.require("image_patches").roll(1, 1)
    assert (method.patch_map(moved, x).argmax(1) == place).float().mean() < 0.5


def test_positions_are_unique_and_of_the_grid():
    table = grid_positions((7, 5), 16)
    assert table.shape == (35, 16)
    assert torch.unique(table, dim=0).shape == (35, 16)
    assert torch.equal(table[0, :8], table[4, :8])  # one row of the grid, one row code
    assert torch.equal(table[1, 8:], table[6, 8:])  # one column of the grid, one column code


def test_width_must_hold_the_positions():
    with pytest.raises(ShapeError, match="multiple of 4, not 18"):
        Registers(DIMS, width=18)


def test_weights_of_the_terms_are_the_constructors():
    assert [t.i2t for t in Registers(DIMS, local_weight=0.3).terms] == [1.0, 0.3]
