"""Matching and contrastive losses on a GPU against float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intarsia.ops import blockwise
from intarsia.ops.contrastive import info_nce, matched_info_nce, patchwise_contrastive
from intarsia.ops.matching import fine_grained_scores, fine_grained_scores_packed

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
SHAPES = [  # pictures, vectors of each; texts, vectors of each
    (20, 49, 30, 32),
    (12, 196, 20, 77),
    (40, 10, 60, 10),
    (6, 300, 9, 700),
    (4, 196, 8, 1),
]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    numbers = torch.randn(*shape, generator=generator(seed))
    return F.normalize(numbers, dim=-1).to(DEVICE, dtype)


def exact(*shape: int, seed: int) -> Tensor:
    """Multiples of 1/4 up to 1: their products are exact in 16 bits, with many ties."""
    return (torch.randint(-4, 5, shape, generator=generator(seed)) / 4.0).to(DEVICE)


def masks(shape: tuple[int, ...], ragged: bool) -> tuple[Tensor | None, Tensor | None]:
    if not ragged:
        return None, None
    images, p, texts, n = shape
    x_mask = torch.rand(images, p, generator=generator(3)) > 0.3
    y_mask = torch.arange(n) < torch.randint(0, n + 1, (texts, 1), generator=generator(4))
    x_mask[1] = False
    return x_mask.to(DEVICE), y_mask.to(DEVICE)


def weigh(i2t: Tensor, t2i: Tensor) -> Tensor:
    weights = torch.linspace(-1, 1, i2t.numel(), device=i2t.device).view_as(i2t)
    return (weights * i2t).sum() + (weights.cos() * t2i).sum()


def found(x: Tensor, y: Tensor, x_part: Tensor | None, y_part: Tensor | None) -> list[Tensor]:
    """Scores and gradients, of packed vectors if they are."""
    scores = fine_grained_scores if x.ndim == 3 else fine_grained_scores_packed
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    i2t, t2i = scores(x, y, x_part, y_part)
    weigh(i2t, t2i).backward()
    return [i2t.detach(), t2i.detach(), x.grad, y.grad]


def reference(x: Tensor, y: Tensor, x_mask: Tensor | None, y_mask: Tensor | None) -> list[Tensor]:
    """The same in float64, the first maxima being those of similarities rounded like ``x``."""
    x_mask, y_mask = (
        torch.ones(side.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        for side, mask in ((x, x_mask), (y, y_mask))
    )
    wide = [side.detach().double().requires_grad_() for side in (x, y)]
    exact = torch.einsum("ipd,tnd->itpn", *wide)
    hidden = ~(x_mask[:, None, :, None] & y_mask[None, :, None])
    rounded = exact.detach().to(x.dtype).double().masked_fill_(hidden, -torch.inf)
    scores = []
    for axis, real in ((3, x_mask[:, None]), (2, y_mask[None])):
        top = rounded.amax(axis, keepdim=True)
        numbers = torch.arange(rounded.shape[axis], device=x.device)
        numbers = numbers if axis == 3 else numbers[:, None]
        first = numbers.where(rounded == top, rounded.shape[axis]).amin(axis, keepdim=True)
        there = real & ~top.squeeze(axis).isneginf()
        best = exact.gather(axis, first).squeeze(axis)
        best = best + (top.squeeze(axis) - best).detach()
        scores.append(best.where(there, 0.0).sum(2) / there.sum(2).clamp(min=1))
    weigh(*scores).backward()
    return [*(part.detach() for part in scores), *(side.grad for side in wide)]


def assert_near(ours: list[Tensor], expected: list[Tensor], *limits: float) -> None:
    """Norms of the differences, relative to what is expected; the last limit counts on."""
    limits = limits + limits[-1:] * (len(ours) - len(limits))
    for part, wanted, limit in zip(ours, expected, limits, strict=True):
        wanted = wanted.double().to(part.device)
        assert (part.double() - wanted).norm() <= limit * wanted.norm()


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_matching_in_bfloat16(shape, ragged):
    images, p, texts, n = shape
    case = (
        unit(images, p, 64, seed=1, dtype=torch.bfloat16),
        unit(texts, n, 64, seed=2, dtype=torch.bfloat16),
        *masks(shape, ragged),
    )
    ours = found(*case)
    assert_near(ours, reference(*case), 1e-3, 1e-3, 0.05)
    wide = fine_grained_scores(case[0].double(), case[1].double(), *case[2:])
    assert_near(ours[:2], wide, 1e-2)


@pytest.mark.parametrize("shape", SHAPES[:1])
def test_matching_in_float16(shape):
    images, p, texts, n = shape
    case = (
        unit(images, p, 64, seed=1, dtype=torch.float16),
        unit(texts, n, 64, seed=2, dtype=torch.float16),
        *masks(shape, True),
    )
    assert_near(found(*case), reference(*case), 1e-3, 1e-3, 0.05)


@pytest.mark.parametrize("shape", [(6, 49, 70, 32), (3, 10, 130, 10), (2, 20, 9, 77)])
def test_the_first_of_equals_takes_the_gradient(shape):
    images, p, texts, n = shape
    x, y, both = exact(images, p, 4, seed=1), exact(texts, n, 4, seed=2), masks(shape, True)
    ours = found(x.bfloat16(), y.bfloat16(), *both)
    expected = found(x.cpu().double(), y.cpu().double(), *(mask.cpu() for mask in both))
    assert_near(ours, expected, 1e-6, 1e-6, 5e-3)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_matching_in_float32_is_exact(shape, ragged):
    images, p, texts, n = shape
    x, y, both = unit(images, p, 64, seed=1), unit(texts, n, 64, seed=2), masks(shape, ragged)
    ours, expected = found(x, y, *both), reference(x.double(), y.double(), *both)
    for part, wanted in zip(ours[:2], expected[:2], strict=True):
        torch.testing.assert_close(part.double(), wanted, rtol=0, atol=1e-6)
    assert_near(ours, expected, 1e-6, 1e-6, 1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(20, 49, 30, 32), (5, 1, 8, 40)])
def test_packed_equals_padded(shape, dtype):
    images, p, texts, n = shape
    x, y = unit(images, p, 64, seed=1, dtype=dtype), unit(texts, n, 64, seed=2, dtype=dtype)
    both = masks(shape, True)
    expected = found(x, y, *both)
    expected[2:] = (grad[mask] for grad, mask in zip(expected[2:], both, strict=True))
    offsets = (F.pad(mask.sum(1).cumsum(0), (1, 0)) for mask in both)
    ours = found(x[both[0]], y[both[1]], *offsets)
    assert_near(ours, expected, 1e-6, 1e-6, 0.02)


@pytest.mark.parametrize("ragged", [False, True])
def test_more_similarities_than_an_int32_can_count(ragged):
    rows, k = 5000, 10
    x = unit(rows, k, 64, seed=1, dtype=torch.bfloat16)
    y = unit(rows, k, 64, seed=2, dtype=torch.bfloat16)
    x_mask, y_mask = masks((rows, k, rows, k), ragged)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    leaves = [side.requires_grad_() for side in (x, y)]
    i2t, t2i = fine_grained_scores(*leaves, x_mask, y_mask)
    weights = torch.zeros_like(i2t)
    weights[-1, -9:] = 1.0
    grads = torch.autograd.grad((i2t, t2i), leaves, (weights, weights))
    assert torch.cuda.max_memory_allocated() - before < 2 * (rows * k) ** 2
    some = torch.tensor([0, 1, 63, 64, 2501, rows - 2, rows - 1], device=DEVICE)
    parts = [None if mask is None else mask[some] for mask in (x_mask, y_mask)]
    expected = reference(x[some], y[some], *parts)
    assert_near([i2t[some][:, some], t2i[some][:, some]], expected[:2], 1e-3)
    few = [x[-1:].detach().requires_grad_(), y[-9:].detach().requires_grad_()]
    parts = (None, None) if x_mask is None else (x_mask[-1:], y_mask[-9:])
    wanted = torch.autograd.grad(sum(s.sum() for s in fine_grained_scores(*few, *parts)), few)
    assert_near([grads[0][-1:], grads[1][-9:]], list(wanted), 1e-2)
    assert not grads[0][:-1].any() and not grads[1][:-9].any()


def loss_and_gradients(loss, x: Tensor, y: Tensor, device: str, dtype=None) -> list[Tensor]:
    leaves = [side.detach().to(device, dtype).requires_grad_() for side in (x, y)]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    leaves.append(torch.tensor(10.0, device=device, dtype=wide, requires_grad=True))
    value = loss(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def ids(count: int, labels: int, device: str) -> tuple[Tensor, Tensor]:
    both = torch.randint(0, labels, (2, count), generator=generator(5)).to(device)
    return both[0], both[1]


def real(count: int, device: str) -> tuple[Tensor, Tensor]:
    both = (torch.rand(2, count, generator=generator(6)) > 0.1).to(device)
    return both[0], both[1]


def info_nce_of_ids(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    where = x.device.type
    return info_nce(x[:, 0], y[:, 0], scale, ids(len(x), 40, where), real(len(x), where))


def matched_of_ids(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    x_mask, y_mask = masks((*x.shape[:2], *y.shape[:2]), True)
    both = x_mask.to(x.device), y_mask.to(x.device)
    return matched_info_nce(x, y, *both, scale, ids(len(x), 40, x.device.type))


def patchwise(negatives: str):
    def loss(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        return patchwise_contrastive(x, y, scale, ids(len(x), 40, x.device.type), negatives)

    return loss


LOSSES = {
    "info_nce": info_nce_of_ids,
    "matched": matched_of_ids,
    **{name: patchwise(name) for name in ("batch", "patches", "both")},
}


@pytest.mark.parametrize("numbers", [2**13, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_losses(monkeypatch, name, dtype, numbers):
    x, y = unit(150, 12, 64, seed=1, dtype=dtype), unit(150, 12, 64, seed=2, dtype=dtype)
    x = F.normalize(x + y, dim=-1)
    expected = loss_and_gradients(LOSSES[name], x, y, "cpu", torch.float64)
    if numbers is not None:
        monkeypatch.setattr(blockwise, "_numbers", lambda device: numbers)
    ours = loss_and_gradients(LOSSES[name], x, y, DEVICE)
    matched = name == "matched"  # a tie may send a gradient elsewhere
    if dtype == torch.float32:
        assert_near(ours, expected, 1e-5, 1e-2 if matched else 1e-4)
    else:
        assert_near(ours, expected, *((1e-2, 0.15) if matched else (1e-3, 0.02)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_large_batch(dtype):
    x, y = unit(2000, 1, 128, seed=1, dtype=dtype), unit(2000, 1, 128, seed=2, dtype=dtype)
    ours = loss_and_gradients(info_nce_of_ids, x, y, DEVICE)
    expected = loss_and_gradients(info_nce_of_ids, x, y, "cpu", torch.float64)
    assert_near(ours, expected, *((1e-5, 1e-4) if dtype == torch.float32 else (1e-3, 1e-2)))


def test_labels_shared_by_thousands_list_no_pairs():
    rows = 8000
    x, y = (unit(rows, 64, seed=seed).requires_grad_() for seed in (1, 2))
    both = ids(rows, 5, DEVICE)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    info_nce(x, y, torch.tensor(10.0, device=DEVICE), both).backward()
    assert torch.cuda.max_memory_allocated() - before < 3 * rows * rows * 4


@pytest.fixture
def no_waits():
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_never_waits_for_the_device(no_waits, name):
    x, y = (unit(60, 12, 64, seed=seed, dtype=torch.bfloat16).requires_grad_() for seed in (1, 2))
    scale = torch.tensor(10.0, device=DEVICE, requires_grad=True)
    labels, there = ids(60, 40, DEVICE), real(60, DEVICE)
    both = masks((60, 12, 60, 12), True)

    def step() -> None:
        if name == "info_nce":
            loss = info_nce(x[:, 0], y[:, 0], scale, labels, there)
        elif name == "matched":
            loss = matched_info_nce(x, y, *both, scale, labels)
        else:
            loss = patchwise_contrastive(x, y, scale, labels, name)
        loss.backward()

    step()
    no_waits()
    step()
    torch.cuda.set_sync_debug_mode("default")
    assert all(leaf.grad.isfinite().all() for leaf in (x, y, scale))


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor, y: Tensor, y_mask: Tensor) -> Tensor:
        x, y = F.normalize(self.image(x), dim=-1), F.normalize(self.text(y), dim=-1)
        return weigh(*fine_grained_scores(x, y, None, y_mask))


def test_a_compiled_model_equals_eager():
    model = Towers().to(DEVICE, torch.bfloat16)
    shape = (20, 49, 30, 32)
    x, y = unit(20, 49, 64, seed=1).bfloat16(), unit(30, 32, 64, seed=2).bfloat16()
    _, y_mask = masks(shape, True)
    results = []
    for way in (model, torch.compile(model)):
        model.zero_grad()
        loss = way(x, y, y_mask)
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    assert_near(*results, 0.02, 0.15)


@pytest.mark.parametrize("ragged", [False, True])
def test_two_runs_of_matching_are_equal_to_the_last_bit(ragged):
    shape = (20, 49, 30, 32)
    x, y = unit(20, 49, 64, seed=1).bfloat16(), unit(30, 32, 64, seed=2).bfloat16()
    runs = [found(x, y, *masks(shape, ragged)) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("name", LOSSES)
def test_two_runs_of_a_loss_are_equal_to_the_last_bit(name):
    x, y = (unit(150, 12, 64, seed=seed, dtype=torch.bfloat16) for seed in (1, 2))
    runs = [loss_and_gradients(LOSSES[name], x, y, DEVICE) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
