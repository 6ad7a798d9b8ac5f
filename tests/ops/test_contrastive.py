"""The losses against plain float64 references that keep every logit."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from intarsia.errors import ShapeError
from intarsia.ops import blockwise, contrast_blocks
from intarsia.ops.contrastive import info_nce, matched_info_nce, patchwise_contrastive


@pytest.fixture(params=[1, 40, 2**22], autouse=True)
def block_numbers(request, monkeypatch):
    monkeypatch.setattr(blockwise, "BLOCK_NUMBERS", request.param)


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def reference_nce(logits: Tensor, positives: Tensor) -> Tensor:
    """Row by row, column by column, positive by positive, in Python."""
    return (nce_side(logits, positives) + nce_side(logits.mT, positives.mT)) / 2


def nce_side(logits: Tensor, positives: Tensor) -> Tensor:
    losses = []
    for row, hits in zip(logits, positives, strict=True):
        costs = [-(p - torch.cat([p[None], row[~hits]]).logsumexp(0)) for p in row[hits]]
        if costs:
            losses.append(torch.stack(costs).mean())
    return torch.stack(losses).mean()


IDS = torch.tensor([3, 1, 3, 2, 1, 3])


def same(x_ids: Tensor, y_ids: Tensor) -> Tensor:
    return x_ids[:, None] == y_ids[None]


@pytest.mark.parametrize("positives", [None, (IDS, IDS)])
def test_info_nce_equals_reference(positives):
    x, y, scale = unit(6, 5), unit(6, 5, seed=1), torch.tensor(7.0, dtype=torch.float64)
    truth = torch.eye(6, dtype=torch.bool) if positives is None else same(*positives)
    expected = reference_nce(scale * x @ y.mT, truth)
    torch.testing.assert_close(info_nce(x, y, scale, positives), expected)


SEVERAL = torch.tensor([[0, 7, 9], [1, 7, -1], [2, -1, -1], [3, 9, -1], [1, 7, -1], [5, -1, -1]])
SAID = torch.tensor([7, 1, 2, 9, 7, 5])


def test_a_row_has_a_positive_in_each_column_of_any_of_its_ids():
    """Pictures 0, 1 and 4 bear text 7, whose column the row of picture 0 owns; 0 and 3 text 9."""
    truth = torch.tensor([[c in row for c in SAID.tolist()] for row in SEVERAL.tolist()])
    assert truth.sum(1).tolist() == [3, 3, 1, 1, 3, 1]
    x, y, scale = unit(6, 5), unit(6, 5, seed=1), torch.tensor(7.0, dtype=torch.float64)
    expected = reference_nce(scale * x @ y.mT, truth)
    torch.testing.assert_close(info_nce(x, y, scale, (SEVERAL, SAID)), expected)
    matched = matched_info_nce(x[:, None], y[:, None], None, None, scale, (SEVERAL, SAID))
    torch.testing.assert_close(matched, expected)
    alone = patchwise_contrastive(x[:, None], y[:, None], scale, (SEVERAL, SAID))
    torch.testing.assert_close(alone, expected)


def test_several_ids_of_which_all_but_the_first_are_none_are_one():
    x, y, scale = unit(6, 5), unit(6, 5, seed=1), torch.tensor(7.0, dtype=torch.float64)
    wide = torch.stack([IDS, torch.full_like(IDS, -1)], 1)
    real = torch.arange(6) != 2
    for present in (None, (real, real), (None, real)):
        loss = info_nce(x, y, scale, (wide, IDS), present)
        torch.testing.assert_close(loss, info_nce(x, y, scale, (IDS, IDS), present))


def test_rows_without_a_positive_do_not_count_but_stay_negatives():
    x, y, scale = unit(4, 5), unit(3, 5, seed=1), torch.tensor(5.0, dtype=torch.float64)
    positives = torch.tensor([4, 9, 1, 4]), torch.tensor([4, 1, 8])
    expected = reference_nce(scale * x @ y.mT, same(*positives))
    torch.testing.assert_close(info_nce(x, y, scale, positives), expected)


def test_nothing_but_positives_costs_nothing():
    x = unit(3, 4).requires_grad_()
    scale = torch.tensor(9.0, dtype=torch.float64)
    one = torch.zeros(3, dtype=torch.int64)
    loss = info_nce(x, unit(3, 4, seed=1), scale, (one, one))
    loss.backward()
    assert loss.item() == 0.0 and x.grad.abs().sum() == 0


def test_info_nce_by_hand():
    """Two orthogonal pairs, scale ln 3: each softmax gives its positive 3 / (3 + 1)."""
    x = torch.eye(2)
    loss = info_nce(x, x, torch.tensor(3.0).log())
    torch.testing.assert_close(loss, torch.tensor(4.0 / 3.0).log())


def reference_patchwise(patches: Tensor, slots: Tensor, scale: Tensor, ids, negatives) -> Tensor:
    batch, m, _ = patches.shape
    total = patches.new_zeros(())
    for i in range(m):
        for image_to_text in (True, False):
            here, there = (patches, slots) if image_to_text else (slots, patches)
            losses = []
            for b in range(batch):
                if negatives == "patches":
                    truth = [b]
                else:
                    truth = [c for c in range(batch) if ids[c] == ids[b]]
                candidates = {(c, i) for c in range(batch)} if negatives != "patches" else {(b, i)}
                if negatives != "batch":
                    candidates |= {(b, j) for j in range(m)}
                logits = {key: scale * here[b, i] @ there[key] for key in candidates}
                wrong = [v for (c, j), v in logits.items() if j != i or c not in truth]
                costs = [
                    torch.stack([logits[c, i], *wrong]).logsumexp(0) - logits[c, i] for c in truth
                ]
                losses.append(torch.stack(costs).mean())
            total = total + torch.stack(losses).mean() / 2
    return total


@pytest.mark.parametrize("negatives", ["batch", "patches", "both"])
@pytest.mark.parametrize("ids", [list(range(6)), IDS.tolist()])
def test_patchwise_equals_reference(negatives, ids):
    patches, slots = unit(6, 4, 5), unit(6, 4, 5, seed=1)
    scale = torch.tensor(6.0, dtype=torch.float64)
    both = torch.tensor(ids)
    loss = patchwise_contrastive(patches, slots, scale, (both, both), negatives)
    expected = reference_patchwise(patches, slots, scale, ids, negatives)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("negatives", ["batch", "patches", "both"])
def test_patchwise_gradients(negatives):
    patches = unit(3, 4, 3).requires_grad_()
    slots = unit(3, 4, 3, seed=1).requires_grad_()
    scale = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([0, 1, 0])
    assert torch.autograd.gradcheck(
        lambda p, s, t: patchwise_contrastive(p, s, t, (ids, ids), negatives),
        (patches, slots, scale),
    )


def test_info_nce_gradients():
    x, y = unit(5, 3).requires_grad_(), unit(5, 3, seed=1).requires_grad_()
    scale = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([0, 1, 0, 2, 3])
    assert torch.autograd.gradcheck(lambda a, b, s: info_nce(a, b, s, (ids, ids)), (x, y, scale))


def reference_matching(x: Tensor, y: Tensor, x_mask: Tensor, y_mask: Tensor) -> list[Tensor]:
    """Both directions, vector by vector, in Python; rows without a real vector have no entry."""
    i2t, t2i = [], []
    for picture, real in zip(x, x_mask, strict=True):
        tables = [picture[real] @ text[there].mT for text, there in zip(y, y_mask, strict=True)]
        i2t.append(torch.stack([t.amax(1).mean() for t in tables]))
        t2i.append(torch.stack([t.amax(0).mean() for t in tables]))
    return [torch.stack(i2t), torch.stack(t2i)]


def reference_matched(x, y, x_mask, y_mask, scale, ids) -> Tensor:
    left, right = x_mask.any(1), y_mask.any(1)
    truth = same(ids[0][left], ids[1][right])
    if not truth.any():
        return x.new_zeros(())
    i2t, t2i = reference_matching(x[left], y[right], x_mask[left], y_mask[right])
    rows = nce_side(scale * i2t, truth)
    columns = nce_side(scale * t2i.mT, truth.mT)
    return (rows + columns) / 2


def masks(lengths: list[int], longest: int) -> Tensor:
    return torch.arange(longest) < torch.tensor(lengths)[:, None]


lengths = st.lists(st.integers(0, 3), min_size=1, max_size=6)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), x_lengths=lengths, y_lengths=lengths)
def test_matched_equals_reference_whatever_the_masks_and_ids(data, x_lengths, y_lengths):
    a, c = len(x_lengths), len(y_lengths)
    some_ids = [data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)) for n in (a, c)]
    ids = torch.tensor(some_ids[0]), torch.tensor(some_ids[1])
    x, y = unit(a, 3, 4).requires_grad_(), unit(c, 3, 4, seed=1).requires_grad_()
    scale = torch.tensor(6.0, dtype=torch.float64, requires_grad=True)
    x_mask, y_mask = masks(x_lengths, 3), masks(y_lengths, 3)
    loss = matched_info_nce(x, y, x_mask, y_mask, scale, ids)
    expected = reference_matched(x, y, x_mask, y_mask, scale, ids)
    torch.testing.assert_close(loss, expected)
    grads = torch.autograd.grad(loss, (x, y, scale))
    if expected.requires_grad:
        wanted = torch.autograd.grad(expected, (x, y, scale), materialize_grads=True)
    else:
        wanted = [torch.zeros_like(g) for g in grads]
    torch.testing.assert_close(grads, tuple(wanted))


def test_padding_of_any_content_is_ignored():
    x, y = unit(5, 3, 4), unit(5, 3, 4, seed=1)
    x_mask, y_mask = masks([3, 0, 2, 1, 3], 3), masks([2, 3, 0, 1, 3], 3)
    scale = torch.tensor(6.0, dtype=torch.float64)
    loss = matched_info_nce(x, y, x_mask, y_mask, scale)
    junk_x = torch.where(x_mask[..., None], x, 50.0)
    junk_y = torch.where(y_mask[..., None], y, torch.nan)
    junk_y = torch.where(y_mask.any(1)[:, None, None], junk_y.nan_to_num(-50.0), junk_y)
    torch.testing.assert_close(matched_info_nce(junk_x, junk_y, x_mask, y_mask, scale), loss)


def test_nothing_left_costs_exactly_nothing_and_has_a_graph():
    x, y = unit(3, 2, 4).requires_grad_(), unit(3, 2, 4, seed=1).requires_grad_()
    none = torch.zeros(3, 2, dtype=torch.bool)
    loss = matched_info_nce(x, y, none, torch.ones(3, 2, dtype=torch.bool), torch.tensor(9.0))
    loss.backward()
    assert loss.item() == 0.0
    assert x.grad.count_nonzero() == 0 and y.grad.count_nonzero() == 0


def test_matched_of_one_vector_each_is_info_nce():
    x, y, scale = unit(6, 5), unit(6, 5, seed=1), torch.tensor(7.0, dtype=torch.float64)
    loss = matched_info_nce(x[:, None], y[:, None], None, None, scale, (IDS, IDS))
    torch.testing.assert_close(loss, info_nce(x, y, scale, (IDS, IDS)))


def test_large_logits_and_float32():
    x, y = unit(8, 16).float(), unit(8, 16, seed=1).float()
    loss = info_nce(x, y, torch.tensor(100.0))
    expected = reference_nce(100.0 * x.double() @ y.double().mT, torch.eye(8, dtype=torch.bool))
    torch.testing.assert_close(loss.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("how", ["inputs", "autocast"])
def test_half_precision_gives_float32_losses_near_the_exact_ones(how):
    x, y = unit(8, 4, 16).float(), unit(8, 4, 16, seed=1).float()
    scale = torch.tensor(10.0)
    losses = [
        lambda a, b: info_nce(a[:, 0], b[:, 0], scale),
        lambda a, b: matched_info_nce(a, b, None, None, scale),
        lambda a, b: patchwise_contrastive(a, b, scale, None, "both"),
    ]
    for loss in losses:
        leaves = [v.clone().requires_grad_() for v in (x, y)]
        with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
            given = [v.bfloat16() for v in leaves] if how == "inputs" else leaves
            found = loss(*given)
        exact = loss(*(wide := [v.double().requires_grad_() for v in (x, y)]))
        assert found.dtype == torch.float32 and found.item() != exact.float().item()
        torch.testing.assert_close(found.double(), exact, rtol=0.02, atol=0.02)
        for grad, wanted in zip(
            torch.autograd.grad(found, leaves), torch.autograd.grad(exact, wide), strict=True
        ):
            cosine = F.cosine_similarity(grad.flatten().double(), wanted.flatten(), dim=0)
            assert cosine > 0.999


def test_a_graph_may_be_walked_twice():
    x = unit(4, 5).requires_grad_()
    loss = info_nce(x, unit(4, 5, seed=1), torch.tensor(3.0, dtype=torch.float64))
    first = torch.autograd.grad(loss, x, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, x), first)


def test_wrong_shapes_name_both_sides():
    with pytest.raises(ShapeError, match=r"\(2, 3\).*\(2, 4\)"):
        info_nce(torch.zeros(2, 3), torch.zeros(2, 4), torch.tensor(1.0))
    with pytest.raises(ShapeError, match="float32.*float64"):
        info_nce(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.float64), torch.tensor(1.0))
    with pytest.raises(ShapeError, match="patches.*slots"):
        patchwise_contrastive(torch.zeros(2, 3, 4), torch.zeros(2, 5, 4), torch.tensor(1.0))
    with pytest.raises(ShapeError, match="unknown negatives"):
        patchwise_contrastive(
            torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), torch.tensor(1.0), None, "all"
        )
    with pytest.raises(ShapeError, match="4 rows are .3,. torch.int64"):
        info_nce(torch.zeros(4, 3), torch.zeros(4, 3), torch.tensor(1.0), (torch.arange(3),) * 2)
    with pytest.raises(ShapeError, match="2 rows and 3 columns"):
        info_nce(torch.zeros(2, 3), torch.zeros(3, 3), torch.tensor(1.0))
    with pytest.raises(ShapeError, match=r"x_mask is \(2, 3\)"):
        wrong = torch.ones(2, 3, dtype=torch.bool)
        x = torch.zeros(2, 4, 3)
        matched_info_nce(x, x, wrong, None, torch.tensor(1.0))


@pytest.mark.parametrize("installed", [True, False])
def test_losses_on_a_gpu_need_triton_for_its_kernels(monkeypatch, installed):
    monkeypatch.setattr(blockwise, "has_triton", lambda: installed)
    gpu = torch.device("cuda")
    assert (blockwise._engine(torch.float32, gpu) is contrast_blocks) == (not installed)
    assert blockwise._engine(torch.float64, gpu) is contrast_blocks
    assert blockwise._engine(torch.float32, torch.device("cpu")) is contrast_blocks


def test_what_is_not_real_may_hold_anything():
    x, y, scale = unit(6, 5), unit(6, 5, seed=1), torch.tensor(7.0, dtype=torch.float64)
    real = torch.tensor([True, True, False, True, True, False])

    def grads(x, y, *options):
        leaves = [side.clone().requires_grad_() for side in (x, y)] + [scale.clone()]
        leaves[2].requires_grad_()
        loss = info_nce(*leaves, *options)
        return [loss, *torch.autograd.grad(loss, leaves)]

    there = (IDS[real], IDS[real])
    expected = grads(x[real], y[real], there)
    x[~real], y[~real] = torch.nan, torch.inf
    loss, by_x, by_y, by_scale = grads(x, y, (IDS, IDS), (real, real))
    for ours, wanted in zip((loss, by_x[real], by_y[real], by_scale), expected, strict=True):
        torch.testing.assert_close(ours, wanted)
    assert not by_x[~real].any() and not by_y[~real].any()


def test_a_gradient_of_a_gradient_is_refused():
    x, y = unit(4, 3).requires_grad_(), unit(4, 3, seed=1)
    loss = info_nce(x, y, torch.tensor(5.0, dtype=torch.float64))
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(grad.square().sum(), x)


def test_gradients_of_rows_with_several_ids():
    x, y = unit(6, 3).requires_grad_(), unit(6, 3, seed=1).requires_grad_()
    scale = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *v: info_nce(*v, (SEVERAL, SAID)), (x, y, scale))


def test_ids_of_any_integer_type_and_a_scale_of_one_axis():
    x, y = unit(6, 5), unit(6, 5, seed=1)
    scale = torch.tensor([7.0], dtype=torch.float64, requires_grad=True)
    flags = IDS == 3
    loss = info_nce(x, y, scale, (flags, flags))
    torch.testing.assert_close(loss, info_nce(x, y, scale, (flags.long(), flags.int())))
    loss.backward()
    assert scale.grad.shape == (1,)
