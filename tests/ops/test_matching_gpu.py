"""The GPU's kernels in Triton's interpreter against torch in float64.

Vectors are multiples of 1/4 up to 1, so that all products are exact in 16 bits and ties abound.
"""

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from intarsia.ops import matching, matching_blocks, matching_gpu, matching_kernels, matching_plan
from intarsia.ops.matching import fine_grained_scores, fine_grained_scores_packed
from intarsia.ops.matching_plan import ALIGNED

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="kernels are compiled here, see test_on_gpu"
)
HALVES = [torch.bfloat16, torch.float16]


def engine(vectors: Tensor):
    return matching_gpu if vectors.itemsize == 2 else matching_blocks


def small_blocks(x, y):
    return x.blocks(5), list(y.blocks(9, aligned=ALIGNED))


LIMITS = {
    "as they are": {},
    "chunks of two": {"matching_gpu.CHUNK": 2, "matching_gpu.WRITTEN": 2},
    "splits": {"matching_gpu.FEWEST": 1, "matching_gpu.WARPS": 99},
    "small blocks": {"matching_gpu.both_blocks": small_blocks},
    "trimmed": {"matching_plan.WORTH_TRIMMING": 0, "matching_gpu.both_blocks": small_blocks},
    "all": {
        "matching_gpu.CHUNK": 3,
        "matching_gpu.WRITTEN": 2,
        "matching_gpu.COMBINED": 2,
        "matching_gpu.FEWEST": 2,
        "matching_gpu.WARPS": 99,
        "matching_gpu.both_blocks": small_blocks,
        "matching_plan.WORTH_TRIMMING": 0,
    },
}


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    monkeypatch.setattr(matching, "_engine", engine)
    return monkeypatch


def limit(patch: pytest.MonkeyPatch, limits: str, keep: bool = True) -> None:
    for name, value in LIMITS[limits].items():
        patch.setattr(f"intarsia.ops.{name}", value)
    if not keep:
        patch.setattr(matching_gpu, "kept_bytes", lambda x, y: 0)


def exact(*shape: int, seed: int) -> Tensor:
    numbers = torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed))
    return numbers.double() / 4


def exact_case(images: int, p: int, texts: int, n: int, d: int = 4) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(images + p)
    masks = torch.rand(images, p, generator=g) > 0.3, torch.rand(texts, n, generator=g) > 0.3
    return exact(images, p, d, seed=1), exact(texts, n, d, seed=2), *masks


def weigh(i2t: Tensor, t2i: Tensor) -> Tensor:
    weights = torch.linspace(-1, 1, i2t.numel()).view_as(i2t)
    return (weights * i2t).sum() + (weights.cos() * t2i).sum()


def found(x: Tensor, y: Tensor, x_part: Tensor | None, y_part: Tensor | None) -> list[Tensor]:
    """Scores and gradients, of packed vectors if they are."""
    scores = fine_grained_scores if x.ndim == 3 else fine_grained_scores_packed
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    i2t, t2i = scores(x, y, x_part, y_part)
    weigh(i2t, t2i).backward()
    return [i2t.detach(), t2i.detach(), x.grad, y.grad]


def plain(x: Tensor, y: Tensor, x_mask: Tensor, y_mask: Tensor) -> list[Tensor]:
    similarity = torch.einsum("ipd,tnd->itpn", x, y)
    hidden = ~(x_mask[:, None, :, None] & y_mask[None, :, None])
    similarity = similarity.masked_fill(hidden, -torch.inf)
    means = []
    for best, real in (
        (similarity.amax(3), x_mask[:, None]),
        (similarity.amax(2), y_mask[None]),
    ):
        real = real & ~best.isneginf()
        means.append(best.where(real, 0.0).sum(2) / real.sum(2).clamp(min=1))
    return means


def assert_equal(ours: list[Tensor], expected: list[Tensor]) -> None:
    """Scores exactly; gradients as well as their weights in 16 bits."""
    for part, wanted in zip(ours[:2], expected[:2], strict=True):
        torch.testing.assert_close(part.double(), wanted.double(), rtol=1e-6, atol=1e-6)
    for part, wanted in zip(ours[2:], expected[2:], strict=True):
        size = wanted.abs().max().item() if wanted.numel() else 0.0
        torch.testing.assert_close(part.double(), wanted, rtol=0, atol=0.01 * size)


def counts_to_mask(counts: list[int], most: int, seed: int) -> Tensor:
    order = torch.rand(len(counts), most, generator=torch.Generator().manual_seed(seed)).argsort(1)
    return order < torch.tensor(counts)[:, None]


def offsets(mask: Tensor) -> Tensor:
    counts = mask.sum(1)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


@settings(max_examples=14, deadline=None, phases=[Phase.generate])
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=3),
    st.lists(st.integers(0, 5), min_size=1, max_size=10),
    st.sampled_from(["even", "padded", "packed"]),
    st.sampled_from(list(LIMITS)),
    st.booleans(),
    st.sampled_from(HALVES),
)
def test_equals_torch_whatever_the_shapes_and_limits(x_counts, y_counts, way, limits, keep, dtype):
    x, y = exact(len(x_counts), 4, 4, seed=1), exact(len(y_counts), 5, 4, seed=2)
    if way == "even":
        x, y = x[:, : 1 + x_counts[0]], y[:, : 1 + y_counts[0]]
        x_mask, y_mask = (torch.ones(side.shape[:2], dtype=torch.bool) for side in (x, y))
    else:
        x_mask, y_mask = counts_to_mask(x_counts, 4, 3), counts_to_mask(y_counts, 5, 4)
    expected = found(x, y, x_mask, y_mask)
    for ours, wanted in zip(expected[:2], plain(x, y, x_mask, y_mask), strict=True):
        torch.testing.assert_close(ours, wanted)
    case = x.to(dtype), y.to(dtype), x_mask, y_mask
    if way == "even":
        case = *case[:2], None, None
    elif way == "packed":
        expected[2:] = expected[2][x_mask], expected[3][y_mask]
        case = case[0][x_mask], case[1][y_mask], offsets(x_mask), offsets(y_mask)
    with pytest.MonkeyPatch.context() as patch:
        limit(patch, limits, keep)
        assert_equal(found(*case), expected)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("limits", LIMITS)
def test_equals_torch_under_all_limits(kernels, limits, keep):
    x, y, x_mask, y_mask = exact_case(3, 4, 10, 5)
    x_mask[1], y_mask[3] = False, False
    expected = found(x, y, x_mask, y_mask)
    limit(kernels, limits, keep)
    assert_equal(found(x.bfloat16(), y.bfloat16(), x_mask, y_mask), expected)


@pytest.mark.parametrize("limits", ["as they are", "all"])
def test_the_first_of_equals_takes_the_gradient(kernels, limits):
    limit(kernels, limits)
    one, other = torch.tensor([1.0, 0.5]), torch.tensor([-2.0, 0.25])
    x = torch.stack([other, one, one])[None].bfloat16().requires_grad_()
    y = torch.stack([one, other, other, one])[None].bfloat16().requires_grad_()
    i2t, t2i = fine_grained_scores(x, y)
    (y_grad,) = torch.autograd.grad(i2t, y, retain_graph=True)
    wanted = torch.stack([2 * one, other, 0 * one, 0 * one]) / 3
    torch.testing.assert_close(y_grad[0].float(), wanted, atol=4e-3, rtol=0)
    (x_grad,) = torch.autograd.grad(t2i, x)
    assert torch.equal(x_grad[0].float(), torch.stack([2 * other, 2 * one, 0 * one]) / 4)


@pytest.mark.parametrize("similarity", [1.0, -1.0, 0.0])
def test_of_nothing_but_equals_the_first_counts(similarity):
    x = torch.tensor([1.0, 0.0]).expand(1, 4, 2).bfloat16().requires_grad_()
    y = torch.tensor([similarity, 1.0]).expand(2, 8, 2).bfloat16().requires_grad_()
    i2t, t2i = fine_grained_scores(x, y)
    (y_grad,) = torch.autograd.grad(i2t.sum(), y, retain_graph=True)
    (x_grad,) = torch.autograd.grad(t2i.sum(), x)
    assert y_grad[:, 0, 0].tolist() == [1.0, 1.0] and y_grad[:, 1:].count_nonzero() == 0
    assert x_grad[0, 0, 1] == 2.0 and x_grad[0, 1:].count_nonzero() == 0


@pytest.mark.parametrize("limits", ["as they are", "all"])
@pytest.mark.parametrize("dtype", HALVES)
def test_nan_in_padding_goes_nowhere(kernels, dtype, limits):
    limit(kernels, limits)
    x, y, x_mask, y_mask = exact_case(2, 3, 9, 4)
    x_mask[1], y_mask[2] = False, False
    expected = found(x, y, x_mask, y_mask)
    x, y = (s.masked_fill(~m[..., None], torch.nan) for s, m in ((x, x_mask), (y, y_mask)))
    ours = found(x.to(dtype), y.to(dtype), x_mask, y_mask)
    assert_equal(ours, expected)
    assert ours[2][~x_mask].count_nonzero() == ours[3][~y_mask].count_nonzero() == 0


@pytest.mark.parametrize("limits", ["as they are", "all"])
@pytest.mark.parametrize("dtype", HALVES)
def test_nan_in_a_vector_shows_in_its_scores_alone(kernels, dtype, limits):
    limit(kernels, limits)
    kernels.setattr(matching_kernels, "COMPILED", True)  # the interpreter's own maximum skips NaN
    x, y = exact(2, 3, 4, seed=1).to(dtype), exact(9, 4, 4, seed=2).to(dtype)
    x[1, 2, 0] = torch.nan
    for scores in fine_grained_scores(x, y):
        assert scores[1].isnan().all() and not scores[0].isnan().any()


@pytest.mark.parametrize(("pictures", "keep"), [(True, False), (False, True), (False, False)])
def test_more_vectors_than_a_byte_can_count(kernels, pictures, keep):
    limit(kernels, "as they are", keep)
    for name in ("CHUNK", "WRITTEN", "FEWEST"):
        kernels.setattr(matching_gpu, name, 512)
    few, many = exact(1, 2, 4, seed=1), exact(1, 300, 4, seed=2).clamp(max=0.75)
    few[0, 0], many[0, 298] = 1.0, 1.0
    x, y = (many, few) if pictures else (few, many)
    assert_equal(found(x.bfloat16(), y.bfloat16(), None, None), found(x, y, None, None))


@pytest.mark.parametrize("limits", ["chunks of two", "all"])
def test_sides_exchanged(kernels, limits):
    limit(kernels, limits)
    x, y, x_mask, y_mask = exact_case(3, 2, 9, 5)
    assert matching_gpu._turned(matching._padded(x, None), matching._padded(y, None))
    for masks in ((None, None), (x_mask, y_mask)):
        assert_equal(found(x.bfloat16(), y.bfloat16(), *masks), found(x, y, *masks))


def test_real_blocks_of_a_device_without_memory(kernels):
    for module in (matching_gpu, matching_plan):
        kernels.setattr(module, "memory_of", lambda device: 0)
    x, y = exact(2, 3, 4, seed=1), exact(1500, 8, 4, seed=2)
    x_plan, y_plan = matching_plan.plans(*(matching._padded(s.bfloat16(), None) for s in (x, y)))
    assert len(matching_plan.both_blocks(x_plan, y_plan)[1]) == 2
    assert_equal(found(x.bfloat16(), y.bfloat16(), None, None), found(x, y, None, None))


def test_inputs_need_not_be_contiguous():
    x, y = exact(4, 2, 3, seed=1).permute(1, 2, 0), exact(9, 4, 8, seed=2)[:, :, ::2]
    x_mask = (torch.rand(3, 2, generator=torch.manual_seed(0)) > 0.3).mT
    ours = found(x.bfloat16(), y.bfloat16(), x_mask, None)
    assert_equal(ours, found(x, y, x_mask, None))


def test_gradients_of_the_scores_need_not_be_contiguous():
    x, y = exact(3, 2, 4, seed=1), exact(4, 3, 4, seed=2)
    grads = []
    for dtype in (torch.bfloat16, torch.float64):
        leaves = [side.to(dtype).requires_grad_() for side in (x, y)]
        i2t, t2i = fine_grained_scores(*leaves)
        weights = torch.arange(12.0).view(4, 3).mT.to(i2t.dtype), i2t.new_ones(()).expand(3, 4)
        grads.append(torch.autograd.grad((i2t, t2i), leaves, weights))
    for ours, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(ours.double(), wanted, rtol=0, atol=0.01 * wanted.max().item())


@pytest.mark.parametrize("x_shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (2, 3, 4)])
@pytest.mark.parametrize("y_shape", [(0, 5, 4), (9, 0, 4), (9, 5, 0), (9, 5, 4)])
def test_nothing_scores_nothing(x_shape, y_shape):
    if x_shape[2] != y_shape[2]:
        x_shape, y_shape = (*x_shape[:2], 0), (*y_shape[:2], 0)
    x, y = exact(*x_shape, seed=1), exact(*y_shape, seed=2)
    none = torch.zeros(y_shape[:2], dtype=torch.bool)
    for masks in ((None, None), (None, none)):
        assert_equal(found(x.bfloat16(), y.bfloat16(), *masks), found(x, y, *masks))


def test_packed_rows_without_any_vector():
    x, y = exact(3, 4, seed=1).bfloat16(), exact(2, 4, seed=2).bfloat16()
    nothing = torch.zeros(4, dtype=torch.int64)
    i2t, t2i, x_grad, y_grad = found(x, y, torch.tensor([0, 2, 3]), nothing)
    assert i2t.shape == t2i.shape == (2, 3)
    assert not any(part.count_nonzero() for part in (i2t, t2i, x_grad, y_grad))


@pytest.mark.parametrize(("size", "length"), [(1e-7, 64), (1.0, 1), (2.0**20, 1 / 64)])
def test_float16_holds_gradients_of_any_size(size, length):
    x, y, x_mask, y_mask = exact_case(2, 3, 4, 3)
    grads = []
    for dtype in (torch.float16, torch.float64):
        leaves = [(length * side).to(dtype).requires_grad_() for side in (x, y)]
        loss = sum(s.sum() for s in fine_grained_scores(*leaves, x_mask, y_mask)) * size
        grads.append(torch.autograd.grad(loss, leaves))
    for ours, wanted in zip(*grads, strict=True):
        limit = 0.01 * wanted.abs().max().item()
        torch.testing.assert_close(ours.double(), wanted, rtol=0, atol=limit)


def test_two_runs_are_equal_to_the_last_bit(kernels):
    limit(kernels, "all")
    x, y, x_mask, y_mask = exact_case(2, 3, 9, 4)
    runs = [found(x.bfloat16(), y.bfloat16(), x_mask, y_mask) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
