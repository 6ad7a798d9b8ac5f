"""The GPU's kernels of the contrastive losses, in Triton's interpreter, against torch."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from intarsia.ops import blockwise, contrast_blocks, contrast_gpu
from intarsia.ops.comparisons import Scores
from intarsia.ops.contrast_blocks import Labels, Sums
from intarsia.ops.contrastive import info_nce, matched_info_nce, patchwise_contrastive

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled, see test_on_gpu"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # of numpy, on log 0 and inf - inf
]
SCALE = torch.tensor(6.0)


class Tables(Scores):
    def pull(self, *_: Tensor) -> None:
        raise AssertionError("a table has no vectors")


FACTOR = torch.tensor(3.0)
Ids = tuple[list[int], list[bool] | None]


def labelled(x: Ids, y: Ids, engine=contrast_blocks) -> tuple[Labels, Labels]:
    """Rows and columns, whose positives are counted by ``engine``."""
    sides = [
        (torch.tensor(ids), None if real is None else torch.tensor(real)) for ids, real in (x, y)
    ]
    return tuple(
        Labels(ids, *engine.counts(ids, real, others), real)
        for (ids, real), others in zip(sides, reversed(sides), strict=True)
    )


def tables(shape: tuple[int, ...], same: bool, kind: torch.dtype) -> Tables:
    g = torch.Generator().manual_seed(shape[-1])
    i2t = torch.rand(shape, generator=g) * 2 - 1
    return Tables(i2t, i2t if same else torch.rand(shape, generator=g) * 2 - 1, kind)


def all_answers(engine, scores: Scores, x: Labels, y: Labels) -> list[Tensor]:
    sums = Sums(*engine.negatives(scores, SCALE, x, y))
    costs = engine.positives(scores, SCALE, x, y, sums)
    pulls = Sums(costs.row_pulls, costs.column_pulls)
    weights = engine.weights(scores, SCALE, x, y, sums, pulls, FACTOR)
    assert weights.i2t.dtype == weights.t2i.dtype == scores.kind
    return [*sums, *costs, weights.i2t.float(), weights.t2i.float(), weights.by_scale.sum()]


def assert_equal(scores: Scores, x: Ids, y: Ids) -> None:
    counted, wanted = (labelled(x, y, engine) for engine in (contrast_gpu, contrast_blocks))
    for ours, theirs in zip(counted, wanted, strict=True):
        assert ours.counts.tolist() == theirs.counts.tolist() and ours.num == theirs.num
    ours = all_answers(contrast_gpu, scores, *counted)
    expected = all_answers(contrast_blocks, scores, *wanted)
    kind = torch.finfo(scores.kind)
    rounded, step = (0.0, 0.0) if kind.bits == 32 else (kind.eps, kind.eps * kind.smallest_normal)
    for part, whole in zip(ours, expected, strict=True):
        size = whole.nan_to_num(neginf=0.0).abs().max().item()
        torch.testing.assert_close(part, whole, rtol=1e-5 + rounded, atol=1e-5 * size + step)


@st.composite
def sides(draw, most: int, masked: bool) -> Ids:
    count = draw(st.integers(1, most))
    ids = draw(st.lists(st.integers(0, draw(st.integers(0, 9))), min_size=count, max_size=count))
    real = draw(st.lists(st.booleans(), min_size=count, max_size=count)) if masked else None
    return ids, real


@settings(max_examples=15, deadline=None, phases=[Phase.generate])
@given(
    st.data(),
    st.integers(1, 2),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 8, 99]),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_a_block_equals_torch(data, groups, masked, same, programs, kind):
    x, y = data.draw(sides(70, masked)), data.draw(sides(300, masked))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrast_gpu, "PROGRAMS", programs)
        assert_equal(tables((groups, len(x[0]), len(y[0])), same, kind), x, y)


@pytest.mark.parametrize(("same", "masked"), product([True, False], repeat=2))
def test_rows_and_columns_without_a_negative(same, masked):
    real = [True, False, True, True, True] if masked else None
    x, y = ([1] * 5, real), ([1] * 3, real and real[:3])
    scores = tables((1, 5, 3), same, torch.float32)
    assert_equal(scores, x, y)
    sums = contrast_gpu.negatives(scores, SCALE, *labelled(x, y))
    assert all(side.isneginf().all() for side in sums)


def test_negatives_add_to_those_of_earlier_blocks():
    scores, sides = (
        tables((2, 4, 3), True, torch.float32),
        (([1, 2, 1, 1], None), ([1, 1, 1], None)),
    )
    totals = []
    for engine in (contrast_gpu, contrast_blocks):
        wide = torch.linspace(-3, 3, 20).view(2, 10)
        wide[:, ::3] = -torch.inf
        total = Sums(wide[:, 2:6], wide[:, 6:9])
        engine.add_negatives(scores, SCALE, *labelled(*sides), total)
        totals.append(wide)
    torch.testing.assert_close(*totals)


def test_tables_need_not_be_contiguous():
    x, y = ([0, 1, 2, 1], None), ([1, 0, 3], None)
    wide = tables((1, 4, 6), True, torch.float32).i2t
    assert_equal(Tables(wide[..., ::2], wide[..., 1::2], torch.float32), x, y)
    turned = tables((1, 3, 4), True, torch.float32).i2t.mT
    assert_equal(Tables(turned, turned, torch.float32), x, y)


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


IDS = torch.tensor([3, 1, 3, 2, 1, 3, 8])
ONE_LABEL = torch.ones(7, dtype=torch.int64)
PAIRS = torch.stack([IDS, IDS.flip(0)], dim=1)
OTHERS = torch.tensor([1, 3, 3, 9, 2])
SEVERAL = torch.stack([IDS, torch.tensor([9, -1, 9, 0, 0, -1, 9]), torch.full_like(IDS, -1)], 1)


def masks() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(4)
    x_mask, y_mask = torch.rand(7, 3, generator=g) > 0.3, torch.rand(7, 2, generator=g) > 0.3
    x_mask[2], y_mask[4] = False, False
    return x_mask, y_mask


LEFT_OUT = torch.stack([IDS.flip(0), torch.full_like(IDS, -1), IDS - 1], 1), OTHERS.flip(0)
REAL = torch.arange(7) != 3, torch.arange(7) != 5
LOSSES = {
    "diagonal": lambda x, y, s: info_nce(x[:, 0], y[:, 0], s),
    "ids": lambda x, y, s: info_nce(x[:, 0], y[:, 0], s, (IDS, IDS)),
    "other columns": lambda x, y, s: info_nce(x[:, 0], y[:5, 0], s, (IDS, OTHERS)),
    "one label": lambda x, y, s: info_nce(x[:, 0], y[:, 0], s, (ONE_LABEL, ONE_LABEL)),
    "several ids": lambda x, y, s: info_nce(x[:, 0], y[:5, 0], s, (SEVERAL, OTHERS)),
    "several ids, real": lambda x, y, s: info_nce(x[:, 0], y[:, 0], s, (SEVERAL, IDS), REAL),
    "several ids, patches": lambda x, y, s: patchwise_contrastive(x, y, s, (SEVERAL, IDS), "both"),
    "several ids, masked": lambda x, y, s: matched_info_nce(
        x, y[:, :2], *masks(), s, (SEVERAL, IDS)
    ),
    "left out": lambda x, y, s: info_nce(x[:, 0], y[:5, 0], s, (IDS, OTHERS), None, LEFT_OUT),
    "left out, real": lambda x, y, s: info_nce(
        x[:, 0], y[:5, 0], s, (SEVERAL, OTHERS), (REAL[0], REAL[1][:5]), LEFT_OUT
    ),
    "left out, one id": lambda x, y, s: info_nce(
        x[:, 0], y[:5, 0], s, (IDS, OTHERS), None, (PAIRS[:, 1], LEFT_OUT[1])
    ),
    "strided ids": lambda x, y, s: info_nce(x[:, 0], y[:, 0], s, (PAIRS[:, 0], PAIRS[:, 1])),
    "turned vectors": lambda x, y, s: info_nce(x[:5, 0].mT, y[:5, 0].mT, s, (IDS[:5], IDS[:5])),
    "int32 ids": lambda x, y, s: info_nce(x[:, 0], y[:, 0], s, (IDS.int(), IDS.int())),
    "real": lambda x, y, s: info_nce(x[:, 0], y[:, 0], s, (IDS, IDS), REAL),
    "real rows": lambda x, y, s: info_nce(x[:, 0], y[:, 0], s, (IDS, IDS), (REAL[0], None)),
    "matched": lambda x, y, s: matched_info_nce(x, y[:, :2], None, None, s, (IDS, IDS)),
    "masked": lambda x, y, s: matched_info_nce(x, y[:, :2], *masks(), s, (IDS, IDS)),
    "nothing": lambda x, y, s: matched_info_nce(x, y, None, torch.zeros(7, 3) > 0, s),
    **{
        f"{negatives}, {name}": lambda x, y, s, n=negatives, i=ids: patchwise_contrastive(
            x, y, s, i, n
        )
        for negatives in ("batch", "patches", "both")
        for name, ids in (("diagonal", None), ("ids", (IDS, IDS)))
    },
}


def found(loss, x: Tensor, y: Tensor) -> list[Tensor]:
    leaves = [v.clone().requires_grad_() for v in (x, y, SCALE)]
    value = loss(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def both_engines(loss, x: Tensor, y: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    expected = found(loss, x, y)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blockwise, "_engine", lambda wide, device: contrast_gpu)
        return found(loss, x, y), expected


@pytest.mark.parametrize("numbers", [12, 2**22])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_equal_torch(monkeypatch, name, numbers):
    monkeypatch.setattr(blockwise, "BLOCK_NUMBERS", numbers)
    ours, expected = both_engines(LOSSES[name], unit(7, 3, 5), unit(7, 3, 5, seed=1))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("negatives", ["batch", "patches", "both"])
@pytest.mark.parametrize("shape", [(0, 3, 5), (1, 3, 5), (7, 1, 5)])
def test_patchwise_of_little_or_nothing(shape, negatives):
    loss = lambda x, y, s: patchwise_contrastive(x, y, s, None, negatives)  # noqa: E731
    ours, expected = both_engines(loss, unit(*shape), unit(*shape, seed=1))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 5), (1, 5)])
def test_info_nce_of_little_or_nothing(shape):
    ours, expected = both_engines(info_nce, unit(*shape), unit(*shape, seed=1))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_one_label_of_all_lists_no_pairs(monkeypatch):
    def listed(*_):
        raise AssertionError("pairs were listed")

    monkeypatch.setattr(contrast_blocks, "_positives", listed)
    monkeypatch.setattr(blockwise, "_engine", lambda wide, device: contrast_gpu)
    value, x_grad, y_grad, _ = found(LOSSES["one label"], unit(7, 3, 5), unit(7, 3, 5, seed=1))
    assert value == 0 and x_grad.count_nonzero() == y_grad.count_nonzero() == 0
