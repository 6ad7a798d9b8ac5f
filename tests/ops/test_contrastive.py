"""The losses against plain float64 references that keep every logit."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from intarsia.errors import ShapeError
from intarsia.ops import contrastive
from intarsia.ops.contrastive import info_nce, log_sum_exps, patchwise_contrastive


@pytest.fixture(params=[1, 7, 2**22], autouse=True)
def block_numbers(request, monkeypatch):
    monkeypatch.setattr(contrastive, "BLOCK_NUMBERS", request.param)


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def reference_nce(logits: Tensor, positives: Tensor) -> Tensor:
    """Row by row, column by column, positive by positive, in Python."""
    sides = []
    for table, truth in ((logits, positives), (logits.mT, positives.mT)):
        losses = []
        for row, hits in zip(table, truth, strict=True):
            costs = [-(p - torch.cat([p[None], row[~hits]]).logsumexp(0)) for p in row[hits]]
            if costs:
                losses.append(torch.stack(costs).mean())
        sides.append(torch.stack(losses).mean())
    return (sides[0] + sides[1]) / 2


IDS = torch.tensor([3, 1, 3, 2, 1, 3])


@pytest.mark.parametrize("positives", [None, IDS[:, None] == IDS[None]])
def test_info_nce_equals_reference(positives):
    x, y, scale = unit(6, 5), unit(6, 5, seed=1), torch.tensor(7.0, dtype=torch.float64)
    truth = torch.eye(6, dtype=torch.bool) if positives is None else positives
    expected = reference_nce(scale * x @ y.mT, truth)
    torch.testing.assert_close(info_nce(x, y, scale, positives), expected)


def test_rows_without_a_positive_do_not_count_but_stay_negatives():
    x, y, scale = unit(4, 5), unit(3, 5, seed=1), torch.tensor(5.0, dtype=torch.float64)
    positives = torch.tensor([[1, 0, 0], [0, 0, 0], [0, 1, 0], [1, 0, 0]], dtype=torch.bool)
    expected = reference_nce(scale * x @ y.mT, positives)
    torch.testing.assert_close(info_nce(x, y, scale, positives), expected)


def test_nothing_but_positives_costs_nothing():
    x = unit(3, 4).requires_grad_()
    scale = torch.tensor(9.0, dtype=torch.float64)
    loss = info_nce(x, unit(3, 4, seed=1), scale, torch.ones(3, 3, dtype=torch.bool))
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
    given = torch.tensor(ids)
    loss = patchwise_contrastive(patches, slots, scale, given[:, None] == given[None], negatives)
    expected = reference_patchwise(patches, slots, scale, ids, negatives)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("negatives", ["batch", "patches", "both"])
def test_patchwise_gradients(negatives):
    patches = unit(3, 4, 3).requires_grad_()
    slots = unit(3, 4, 3, seed=1).requires_grad_()
    scale = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([0, 1, 0])
    positives = ids[:, None] == ids[None]
    assert torch.autograd.gradcheck(
        lambda p, s, t: patchwise_contrastive(p, s, t, positives, negatives),
        (patches, slots, scale),
    )


def test_info_nce_gradients():
    x, y = unit(5, 3).requires_grad_(), unit(5, 3, seed=1).requires_grad_()
    scale = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([0, 1, 0, 2, 3])
    assert torch.autograd.gradcheck(
        lambda a, b, s: info_nce(a, b, s, ids[:, None] == ids[None]), (x, y, scale)
    )


def test_log_sum_exps_survive_large_logits_and_half_precision():
    x = unit(1, 8, 16).bfloat16()
    rows, columns = log_sum_exps(x, x, torch.tensor(100.0))
    assert rows.dtype == torch.float32
    logits = 100.0 * x[0].float() @ x[0].float().mT
    torch.testing.assert_close(rows[0], logits.logsumexp(1))
    torch.testing.assert_close(columns[0], logits.logsumexp(0))


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
