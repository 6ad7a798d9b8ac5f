"""Fine-grained matching against loops in float64."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from intarsia.errors import ShapeError
from intarsia.ops import matching, matching_blocks, matching_cpu
from intarsia.ops.matching import fine_grained_scores, fine_grained_scores_packed


def reference(x: Tensor, y: Tensor, x_mask: Tensor, y_mask: Tensor) -> tuple[Tensor, Tensor]:
    i2t, t2i = x.new_zeros(len(x), len(y)), x.new_zeros(len(x), len(y))
    for i in range(len(x)):
        for t in range(len(y)):
            left, right = x[i][x_mask[i]], y[t][y_mask[t]]
            if len(left) and len(right):
                table = torch.stack([torch.stack([a @ b for b in right]) for a in left])
                i2t[i, t] = table.max(1).values.mean()
                t2i[i, t] = table.max(0).values.mean()
    return i2t, t2i


def random_case(seed: int, images: int, texts: int, p: int, n: int, d: int = 4):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(images, p, d, generator=g, dtype=torch.float64)
    y = torch.randn(texts, n, d, generator=g, dtype=torch.float64)
    return x, y, torch.rand(images, p, generator=g) > 0.4, torch.rand(texts, n, generator=g) > 0.4


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 6),
    st.sampled_from([(1, 1), (40, 2), (2**20, 64)]),
)
def test_equals_reference(seed, images, texts, p, n, block):
    case = random_case(seed, images, texts, p, n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(matching_blocks.AT_ONCE, "cpu", block)
        for ours, expected in zip(fine_grained_scores(*case), reference(*case), strict=True):
            torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("kept", [0, 2**28])
@pytest.mark.parametrize("block", [(1, 1), (2**20, 64)])
def test_gradients_also_with_rows_of_padding(monkeypatch, block, kept):
    monkeypatch.setitem(matching_blocks.AT_ONCE, "cpu", block)
    monkeypatch.setattr(matching_blocks, "KEPT_BYTES", kept)
    x, y, x_mask, y_mask = random_case(3, 3, 4, 3, 5)
    x_mask[1], y_mask[2] = False, False
    x[1], y[~y_mask] = torch.nan, torch.nan
    x.requires_grad_(), y.requires_grad_()
    sum(scores.sum() for scores in fine_grained_scores(x, y, x_mask, y_mask)).backward()
    assert (x.grad[~x_mask] == 0).all() and (y.grad[~y_mask] == 0).all()
    assert torch.autograd.gradcheck(
        lambda a, b: fine_grained_scores(a, b, x_mask, y_mask),
        (x.detach().nan_to_num().requires_grad_(), y.detach().nan_to_num().requires_grad_()),
    )


def gradients(x: Tensor, y: Tensor, *masks: Tensor | None) -> list[Tensor]:
    """Scores, then gradients of a sum in which every score weighs differently."""
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    i2t, t2i = fine_grained_scores(x, y, *masks)
    weigh(i2t, t2i).backward()
    return [i2t.detach(), t2i.detach(), x.grad, y.grad]


def weigh(i2t: Tensor, t2i: Tensor) -> Tensor:
    weights = torch.linspace(-1, 1, i2t.numel()).view_as(i2t)
    return (weights * i2t).sum() + (weights.cos() * t2i).sum()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kept", [0, 2**28])
def test_half_precision_is_that_of_its_inputs_and_similarities(monkeypatch, dtype, kept):
    monkeypatch.setattr(matching_blocks, "KEPT_BYTES", kept)
    x, y, x_mask, y_mask = random_case(5, 9, 7, 5, 4, d=16)
    x, y = x.to(dtype), y.to(dtype)
    i2t, t2i, *grads = gradients(x, y, x_mask, y_mask)
    assert i2t.dtype == t2i.dtype == torch.float32 and grads[0].dtype == dtype
    for ours, expected in zip((i2t, t2i), reference(x, y, x_mask, y_mask), strict=True):
        torch.testing.assert_close(ours, expected.float(), atol=0.05, rtol=0.01)
    exact = gradients(x.double(), y.double(), x_mask, y_mask)[2:]
    for ours, expected in zip(grads, exact, strict=True):
        cosine = torch.cosine_similarity(ours.double().flatten(), expected.flatten(), 0)
        assert cosine > 0.995  # ties in half precision send a gradient elsewhere
    without_grad = fine_grained_scores(x, y, x_mask, y_mask)
    assert torch.equal(without_grad[0], i2t) and torch.equal(without_grad[1], t2i)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_maxima_are_those_of_floats(dtype):
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1e-7, -1e-7], dtype=dtype)
    numbers = torch.cat([special, torch.randn(594, generator=torch.manual_seed(0)).to(dtype)])
    blocks = torch.stack([numbers, -numbers.abs(), numbers.round()]).view(3, 5, 6, 20)
    over_n, over_p = matching_blocks.maxima(blocks)
    assert torch.equal(over_n, blocks.amax(2)) and torch.equal(over_p, blocks.amax(0))
    found = matching_blocks.maxima_and_first(blocks)
    expected = blocks.float().max(2), blocks.float().max(0)
    for values, first, wanted in zip(found[:2], found[2:], expected, strict=True):
        assert torch.equal(values.float(), wanted.values)
        zero = wanted.values == 0  # -0 stands below 0 here
        assert torch.equal(first.long()[~zero], wanted.indices[~zero])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kept", [0, 2**28])
def test_the_first_of_equals_takes_the_gradient(monkeypatch, dtype, kept):
    monkeypatch.setattr(matching_blocks, "KEPT_BYTES", kept)
    one, other = torch.tensor([1.0, 0.5]), torch.tensor([-2.0, 0.25])
    x = torch.stack([other, one, one])[None].to(dtype).requires_grad_()
    y = torch.stack([one, other, other, one])[None].to(dtype).requires_grad_()
    i2t, t2i = fine_grained_scores(x, y)
    assert i2t.item() == pytest.approx((4.0625 + 2 * 1.25) / 3)
    assert t2i.item() == pytest.approx((2 * 1.25 + 2 * 4.0625) / 4)
    y_grad, x_grad = torch.autograd.grad(i2t, (y, x), retain_graph=True)
    torch.testing.assert_close(
        y_grad[0].float(), torch.stack([2 * one, other, 0 * one, 0 * one]) / 3, atol=4e-3, rtol=0
    )
    torch.testing.assert_close(
        x_grad[0].float(), torch.stack([other, one, one]) / 3, atol=4e-3, rtol=0
    )
    (x_grad,) = torch.autograd.grad(t2i, x)
    assert torch.equal(x_grad[0].float(), torch.stack([2 * other, 2 * one, 0 * one]) / 4)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=9),
    st.lists(st.integers(0, 6), min_size=1, max_size=9),
    st.sampled_from([(1, 1), (90, 3), (2**20, 128)]),
    st.sampled_from([0, 2**28]),
)
def test_the_compiled_kernel_equals_torch(x_counts, y_counts, block, kept):
    x, y, _, _ = random_case(sum(x_counts), len(x_counts), len(y_counts), 7, 6, d=8)
    masks = [
        torch.arange(most) < torch.tensor(counts)[:, None]
        for most, counts in ((7, x_counts), (6, y_counts))
    ]
    x, y = (side.mul(4).round().div(4).bfloat16() for side in (x, y))  # exact, with many ties
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(matching_blocks.AT_ONCE, "compiled", block)
        patch.setattr(matching_blocks, "FEWEST", 1)
        patch.setattr(matching_cpu, "FEW", 1)
        patch.setattr(matching_blocks, "KEPT_BYTES", kept)
        ours = gradients(x, y, *masks)
        patch.setattr(matching_blocks, "_compiled", lambda: None)
        expected = gradients(x, y, *masks)
    for part, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(part, wanted)


def test_a_numba_that_does_not_work_is_told_of_once_and_left_alone(monkeypatch, caplog):
    def broken(name: str) -> None:
        raise ImportError("Numba needs NumPy 1.26 or less")

    monkeypatch.setattr(matching_blocks, "import_module", broken)
    matching_blocks._compiled.cache_clear()
    x, y, *masks = random_case(17, 3, 4, 5, 6)
    for _ in range(2):
        fine_grained_scores(x.bfloat16(), y.bfloat16(), *masks)
    matching_blocks._compiled.cache_clear()
    assert caplog.messages == [
        "matching without its compiled kernel: Numba needs NumPy 1.26 or less"
    ]


def test_threads_change_nothing_and_stay_as_they_were(threads):
    x, y, x_mask, y_mask = random_case(16, 70, 300, 9, 8, d=32)
    case = (x.bfloat16(), y.bfloat16(), x_mask, y_mask)
    threads(1)
    alone = gradients(*case)
    threads(3)
    with torch.inference_mode():
        scores = fine_grained_scores(*case)
    assert torch.get_num_threads() == 3
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 3
    assert all(
        torch.equal(a, b) for a, b in zip(alone, (*scores, *gradients(*case)[2:]), strict=True)
    )


def test_masks_in_any_order_and_rows_in_any_order_change_nothing():
    x, y, x_mask, y_mask = random_case(8, 6, 5, 7, 4)
    ours = gradients(x, y, x_mask, y_mask)
    order = torch.randperm(7, generator=torch.manual_seed(1))
    shuffled = gradients(x[:, order], y, x_mask[:, order], y_mask)
    ours[2] = ours[2][:, order]
    for a, b in zip(ours, shuffled, strict=True):
        torch.testing.assert_close(a, b)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=6),
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
    st.sampled_from([(1, 1), (40, 2), (2**20, 64)]),
)
def test_packed_equals_padded(x_counts, y_counts, block):
    x_counts, y_counts = torch.tensor(x_counts), torch.tensor(y_counts)
    x, y, _, _ = random_case(int(x_counts.sum()), len(x_counts), len(y_counts), 6, 5)
    x_mask = torch.arange(6) < x_counts[:, None]
    y_mask = torch.arange(5) < y_counts[:, None]
    packed_x, packed_y = x[x_mask].requires_grad_(), y[y_mask].requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(matching_blocks.AT_ONCE, "cpu", block)
        i2t, t2i = fine_grained_scores_packed(
            packed_x, packed_y, offsets(x_counts), offsets(y_counts)
        )
        weigh(i2t, t2i).backward()
        expected = gradients(x, y, x_mask, y_mask)
    expected[2:] = expected[2][x_mask], expected[3][y_mask]
    for ours, padded in zip((i2t, t2i, packed_x.grad, packed_y.grad), expected, strict=True):
        torch.testing.assert_close(ours, padded)


def offsets(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def test_compiled_without_a_graph_break_equals_eager():
    x, y, x_mask, y_mask = random_case(11, 5, 6, 3, 4)
    compiled = torch.compile(gradients_of_sum, fullgraph=True, backend="aot_eager")
    for masks in ((None, None), (x_mask, y_mask)):
        expected = gradients_of_sum(x.requires_grad_(), y.requires_grad_(), *masks)
        wanted = torch.autograd.grad(expected, (x, y))
        ours = compiled(x, y, *masks)
        torch.testing.assert_close(ours, expected)
        torch.testing.assert_close(torch.autograd.grad(ours, (x, y)), wanted)


def gradients_of_sum(x: Tensor, y: Tensor, x_mask: Tensor | None, y_mask: Tensor | None) -> Tensor:
    return weigh(*fine_grained_scores(x.sin(), y, x_mask, y_mask)) * 2


def test_function_transforms():
    x, y, x_mask, y_mask = random_case(12, 4, 3, 3, 4)
    expected = gradients(x, y, x_mask, y_mask)
    function = lambda a, b: weigh(*fine_grained_scores(a, b, x_mask, y_mask))  # noqa: E731
    grads = torch.func.grad(function, argnums=(0, 1))(x, y)
    torch.testing.assert_close(grads, tuple(expected[2:]))
    many = torch.stack([x, 2 * x])
    mapped = torch.func.vmap(torch.func.grad(function), in_dims=(0, None))(many, y)
    torch.testing.assert_close(mapped, torch.stack([torch.func.grad(function)(a, y) for a in many]))


def test_autocast_decides_the_type_of_the_products():
    x, y, x_mask, y_mask = random_case(13, 4, 3, 3, 4)
    x, y = x.float().requires_grad_(), y.float()
    with torch.autocast("cpu", torch.bfloat16):
        i2t, t2i = fine_grained_scores(x, y, x_mask, y_mask)
    expected = fine_grained_scores(x.bfloat16(), y.bfloat16(), x_mask, y_mask)
    assert torch.equal(i2t, expected[0]) and torch.equal(t2i, expected[1])
    assert not torch.equal(i2t, fine_grained_scores(x, y, x_mask, y_mask)[0])
    weigh(i2t, t2i).backward()
    assert x.grad.dtype == torch.float32


def test_two_runs_are_equal_to_the_last_bit():
    x, y, x_mask, y_mask = random_case(14, 40, 30, 5, 4, d=32)
    runs = [gradients(x.bfloat16(), y.bfloat16(), x_mask, y_mask) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_padding_never_beats_negative_similarities():
    x = torch.tensor([[[-1.0, 0.0], [0.0, 0.0]]])
    y = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    mask = torch.tensor([[True, False]])
    i2t, t2i = fine_grained_scores(x, y, mask, mask)
    assert i2t.item() == t2i.item() == -1.0


@pytest.mark.parametrize(
    ("y", "mask", "message"),
    [
        (torch.zeros(2, 3, 5), None, r"\(1, 2, 4\).*\(2, 3, 5\)"),
        (torch.zeros(2, 3, 4, dtype=torch.bfloat16), None, "float32.*bfloat16"),
        (torch.zeros(2, 3, 4), torch.ones(2, 4, dtype=torch.bool), r"y_mask.*\(2, 4\)"),
        (torch.zeros(2, 3, 4), torch.ones(2, 3), "y_mask.*float32"),
        (torch.zeros(3, 4), None, "y must be"),
    ],
)
def test_what_does_not_fit_is_named(y, mask, message):
    with pytest.raises(ShapeError, match=message):
        fine_grained_scores(torch.zeros(1, 2, 4), y, None, mask)


@pytest.mark.parametrize(
    ("x", "x_offsets", "message"),
    [
        (torch.zeros(2, 3, 4), torch.tensor([0, 2]), "x must be"),
        (torch.zeros(2, 4), torch.tensor([0.0, 2.0]), "x_offsets.*float32"),
        (torch.zeros(2, 4), torch.tensor([[0, 2]]), r"x_offsets is \(1, 2\)"),
        (torch.zeros(2, 5), torch.tensor([0, 2]), r"\(2, 5\).*\(3, 4\)"),
    ],
)
def test_what_does_not_fit_packed_is_named(x, x_offsets, message):
    with pytest.raises(ShapeError, match=message):
        fine_grained_scores_packed(x, torch.zeros(3, 4), x_offsets, torch.tensor([0, 3]))


@pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler here")
def test_compiled_by_inductor_equals_eager():
    x, y, x_mask, y_mask = random_case(13, 5, 6, 3, 4)
    compiled = torch.compile(gradients_of_sum, fullgraph=True)
    expected = gradients_of_sum(x.requires_grad_(), y.requires_grad_(), x_mask, y_mask)
    wanted = torch.autograd.grad(expected, (x, y))
    ours = compiled(x, y, x_mask, y_mask)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(torch.autograd.grad(ours, (x, y)), wanted)


@pytest.mark.parametrize("installed", [True, False])
def test_16_bit_vectors_on_a_gpu_need_triton_for_its_kernels(monkeypatch, installed):
    monkeypatch.setattr(matching, "has_triton", lambda: installed)
    gpu = SimpleNamespace(is_cuda=True, itemsize=2)
    assert (matching._engine(gpu) is matching_blocks) == (not installed)
    for other in (torch.zeros(1).half(), SimpleNamespace(is_cuda=True, itemsize=4)):
        assert matching._engine(other) is matching_blocks
