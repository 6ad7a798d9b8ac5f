"""The sigmoid loss against the whole table written out."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from intarsia.errors import ShapeError
from intarsia.ops import blockwise
from intarsia.ops.matching import fine_grained_scores
from intarsia.ops.sigmoid import scored_sigmoid

IDS = torch.tensor([3, 1, 3, 2, 1, 7])
TRUE = torch.tensor([[3, 1], [1, -1], [3, -1], [2, 7], [1, -1], [7, -1]])


def case(dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    x = F.normalize(torch.randn(6, 3, 5, generator=g), dim=-1).to(dtype)
    y = F.normalize(torch.randn(6, 4, 5, generator=g), dim=-1).to(dtype)
    mask = torch.rand(6, 4, generator=g) > 0.4
    mask[:, 0], mask[2] = True, False
    scale, bias = torch.tensor(7.0, requires_grad=True), torch.tensor(-3.0, requires_grad=True)
    return x.requires_grad_(), y.requires_grad_(), mask, scale, bias


def dots(x: Tensor, y: Tensor, *masks: None) -> tuple[Tensor, Tensor]:
    found = x[:, 0] @ y[:, 0].mT
    return found, found


def dense(tables, scale, bias, same: Tensor, real: Tensor) -> Tensor:
    """-log sigmoid(z l) summed over pairs, z = 1 for positives and -1 for the others."""
    z = 2.0 * same - 1
    costs = [-F.logsigmoid(z * (table * scale + bias)) * real for table in tables]
    return sum(cost.sum() for cost in costs) / len(costs) / real.any(1).sum()


@pytest.fixture(params=[2**22, 4], ids=["one block", "many blocks"])
def blocks(request, monkeypatch) -> None:
    monkeypatch.setattr(blockwise, "BLOCK_NUMBERS", request.param)


@pytest.mark.parametrize("given", [None, (IDS, IDS), (TRUE, IDS)], ids=["rows", "ids", "several"])
@pytest.mark.parametrize("directed", [False, True], ids=["one score", "two scores"])
def test_equals_the_whole_table(blocks, given, directed):
    x, y, mask, scale, bias = case()
    rows = torch.arange(6)
    left, right = (rows, rows) if given is None else given
    same = (left.view(6, -1, 1) == right).any(1)
    real = mask.any(1).expand(6, 6) if directed else torch.ones(6, 6, dtype=torch.bool)
    if directed:
        ours = scored_sigmoid(fine_grained_scores, x, y, (None, mask), scale, bias, given)
        tables = fine_grained_scores(x, y, None, mask)
    else:
        ours = scored_sigmoid(dots, x, y, (None, None), scale, bias, given)
        tables = dots(x, y)[:1]
    theirs = dense(tables, scale, bias, same, real)
    torch.testing.assert_close(ours, theirs)
    leaves = x, y, scale, bias
    for a, b in zip(
        torch.autograd.grad(3 * ours, leaves), torch.autograd.grad(3 * theirs, leaves), strict=True
    ):
        assert b.abs().sum() > 0
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_a_number_worked_by_hand():
    """Logits 2 and -2 on and off the diagonal: four pairs that cost log(1 + e^-2), two pictures."""
    x = torch.eye(2)[:, None]
    found = scored_sigmoid(dots, x, x, (None, None), torch.tensor(4.0), torch.tensor(-2.0))
    assert found.item() == pytest.approx(4 * math.log(1 + math.exp(-2)) / 2, rel=1e-6)


def test_weights_of_the_scores_are_trained(blocks):
    x, y, _, scale, bias = case()
    layer = torch.nn.Linear(5, 5)

    def scores(x, y, *masks):
        return dots(x, layer(y))

    ours = scored_sigmoid(scores, x, y, (None, None), scale, bias)
    theirs = dense(scores(x, y)[:1], scale, bias, torch.eye(6), torch.ones(6, 6))
    for a, b in zip(
        torch.autograd.grad(ours, [*layer.parameters()]),
        torch.autograd.grad(theirs, [*layer.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_16_bits_are_summed_in_32(blocks, kind):
    """Also where the weights of a row sum to far more than float16 could scale."""
    x, y, _, scale, _ = case(kind)
    bias = torch.tensor(5.0, requires_grad=True)
    ours = scored_sigmoid(dots, x, y, (None, None), scale, bias)
    theirs = dense(dots(x.float(), y.float())[:1], scale, bias, torch.eye(6), torch.ones(6, 6))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, atol=0, rtol=0.01)
    for a, b in zip(
        torch.autograd.grad(1000 * ours, (x, y)),
        torch.autograd.grad(1000 * theirs, (x, y)),
        strict=True,
    ):
        assert a.dtype == kind and a.isfinite().all()
        torch.testing.assert_close(a, b, atol=0.02 * b.abs().max().item(), rtol=0.02)


def test_what_has_no_real_vector_is_left_out():
    x, y, mask, scale, bias = case()
    given = fine_grained_scores, x, y, (None, mask), scale, bias, (IDS, IDS)
    whole = scored_sigmoid(*given)
    kept = [0, 1, 3, 4, 5]
    tables = fine_grained_scores(x, y[kept], None, mask[kept])
    same = IDS[:, None] == IDS[kept]
    torch.testing.assert_close(whole, dense(tables, scale, bias, same, torch.ones(6, 5)))
    assert not torch.autograd.grad(whole, y)[0][2].any()
    nothing = scored_sigmoid(*given[:3], (None, torch.zeros_like(mask)), scale, bias)
    assert nothing == 0 and not torch.autograd.grad(nothing, x)[0].any()


def test_nothing_is_learnt_without_gradients():
    x, y, _, scale, bias = case()
    with torch.no_grad():
        found = scored_sigmoid(dots, x, y, (None, None), scale, bias)
    torch.testing.assert_close(found, scored_sigmoid(dots, x, y, (None, None), scale, bias))
    assert not found.requires_grad


def test_what_does_not_fit_is_told():
    x, y, mask, scale, bias = case()
    with pytest.raises(ShapeError, match="give positives"):
        scored_sigmoid(dots, x, y[:4], (None, None), scale, bias)
    with pytest.raises(ShapeError, match="y_mask is"):
        scored_sigmoid(dots, x, y, (None, mask[:, :2]), scale, bias)
