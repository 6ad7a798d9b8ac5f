"""Pairs that are neither positives nor negatives, against references that keep every logit."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from intarsia.errors import ShapeError
from intarsia.ops import blockwise
from intarsia.ops.contrastive import info_nce


@pytest.fixture(params=[1, 12, 2**22], autouse=True)
def block_numbers(request, monkeypatch):
    monkeypatch.setattr(blockwise, "BLOCK_NUMBERS", request.param)


def leaf(*shape: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=g, dtype=torch.float64), dim=-1)


def side(logits: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """The mean over rows of the mean cost of a row's positives, each against all negatives."""
    costs = []
    for row, own, against in zip(logits, positive, negative, strict=True):
        if own.any():
            cost = [-(v - torch.cat([v[None], row[against]]).logsumexp(0)) for v in row[own]]
            costs.append(torch.stack(cost).mean())
    return torch.stack(costs).mean()


def reference(logits: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    ways = (logits, positive, negative), (logits.mT, positive.mT, negative.mT)
    return (side(*ways[0]) + side(*ways[1])) / 2


def shared(rows: Tensor, columns: Tensor) -> Tensor:
    """Pair by pair in Python; -1 is no id."""
    rows = rows[:, None] if rows.ndim == 1 else rows
    return torch.tensor(
        [[c in set(row) - {-1} for c in columns.tolist()] for row in rows.tolist()]
    ).view(len(rows), len(columns))


def random_case(seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], tuple]:
    """Ids of 9 rows and 7 columns, what is left out of them, up to three ids a row, and masks."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, (9,), generator=g), torch.randint(5, (7,), generator=g)
    left_out = torch.randint(-1, 6, (9, 3), generator=g), torch.randint(6, (7,), generator=g)
    real = torch.rand(9, generator=g) > 0.2, torch.rand(7, generator=g) > 0.2
    return ids, left_out, real


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_loss_and_gradients_equal_the_reference(seed, masked):
    ids, left_out, real = random_case(seed)
    leaves = [leaf(9, 4, seed=seed), leaf(7, 4, seed=seed + 50), torch.tensor(6.0).double()]
    leaves = [v.requires_grad_() for v in leaves]
    positive, left = shared(*ids), shared(*left_out)
    assert (left & positive).any() and (left & ~positive).any()  # both kinds are met
    there = real[0][:, None] & real[1] if masked else torch.ones_like(positive)
    x, y, scale = leaves
    expected = reference(scale * x @ y.mT, positive & there, ~positive & ~left & there)
    found = info_nce(*leaves, ids, real if masked else None, left_out)
    torch.testing.assert_close(found, expected)
    without = info_nce(*leaves, ids, real if masked else None)
    assert found < without  # fewer negatives
    ours, wanted = (torch.autograd.grad(loss, leaves) for loss in (found, expected))
    torch.testing.assert_close(ours, wanted)


def test_one_thing_with_two_names_by_hand():
    """Two rows and two columns, all of one thing: alone they cost nothing, a stranger ln 2."""
    x, scale = torch.ones(2, 1), torch.tensor(3.0)
    ids = torch.tensor([5, 6])
    torch.testing.assert_close(info_nce(x, x, scale, (ids, ids)), torch.tensor(2.0).log())
    things = torch.tensor([[8], [8]]), torch.tensor([8, 8])
    assert info_nce(x, x, scale, (ids, ids), None, things) == 0
    x, ids = torch.ones(3, 1), torch.tensor([5, 6, 7])
    things = torch.tensor([[8], [8], [9]]), torch.tensor([8, 8, 9])
    costs = (2 * torch.tensor(2.0).log() + torch.tensor(3.0).log()) / 3  # the stranger has two
    torch.testing.assert_close(info_nce(x, x, scale, (ids, ids), None, things), costs)


def test_what_is_left_out_need_not_be_finite_in_its_row():
    """At a scale of 10,000 a pair that is left out would outgrow float32 among the negatives."""
    x = torch.eye(3)[[0, 0, 1]].requires_grad_()
    y = torch.eye(3)[[2, 0, 1]].requires_grad_()
    ids, things = torch.arange(3), torch.tensor([[1, -1], [0, -1], [9, -1]])
    scale = torch.tensor(1e4, requires_grad=True)
    loss = info_nce(x, y, scale, (ids, ids), None, (things, torch.tensor([0, 1, 2])))
    grads = torch.autograd.grad(loss, (x, y, scale))
    assert loss.isfinite() and all(grad.isfinite().all() for grad in grads)


def test_leaving_nothing_out_changes_nothing():
    ids, _, real = random_case(0)
    nothing = torch.full((9, 2), -1), torch.arange(7)
    x, y, scale = leaf(9, 4, seed=1), leaf(7, 4, seed=2), torch.tensor(6.0).double()
    for present in (None, real):
        found = info_nce(x, y, scale, ids, present, nothing)
        assert found == info_nce(x, y, scale, ids, present)


def test_left_out_ids_must_fit():
    x, ids = torch.ones(3, 1), torch.arange(3)
    with pytest.raises(ShapeError, match=r"ids of 3 columns are \(2,\) torch.int64"):
        info_nce(x, x, torch.tensor(1.0), (ids, ids), None, (ids, ids[:2]))
