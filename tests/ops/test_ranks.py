"""Losses across real gloo processes under DDP against one process with the whole batch.

Each rank is this file run as a program: it wraps a small model in DDP, takes its rows of every case
and saves losses and gradients.
"""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from intarsia.ops import blockwise
from intarsia.ops.contrastive import info_nce, matched_info_nce, patchwise_contrastive
from intarsia.ops.matching import fine_grained_scores
from intarsia.ops.ranks import ALONE, Ranks, across_ranks
from intarsia.ops.sigmoid import scored_sigmoid

BATCH, SLOTS, WIDTH = 8, 3, 5
IDS = torch.tensor([3, 1, 3, 2, 1, 3, 7, 7])
LENGTHS = torch.tensor([3, 0, 1, 2, 1, 3, 0, 2])  # real vectors of each row
SPLITS = {2: [(5, 3), (8, 0)], 4: [(0, 5, 1, 2)]}  # rows of each rank
BLOCKS = {(5, 3): 12, (8, 0): 2**22, (0, 5, 1, 2): 12}  # numbers at once: several blocks, or one


def both_dots(x: Tensor, y: Tensor, *masks: None) -> tuple[Tensor, Tensor]:
    found = x @ y.mT
    return found, found


LOSSES = {
    "global": lambda x, y, s, ids, mask: info_nce(x[:, 0], y[:, 0], s, (ids, ids)),
    "several ids": lambda x, y, s, ids, mask: info_nce(
        x[:, 0], y[:, 0], s, (torch.stack([ids, ids - 1, ids - ids - 1], 1), ids)
    ),
    "left out": lambda x, y, s, ids, mask: info_nce(
        x[:, 0],
        y[:, 0],
        s,
        (ids, ids),
        (mask.any(1), None),
        (torch.stack([ids % 3, ids - 4, -ids // ids], 1), ids % 4),
    ),
    "diagonal": lambda x, y, s, ids, mask: info_nce(x[:, 0], y[:, 0], s),
    "matched": lambda x, y, s, ids, mask: matched_info_nce(
        x, y[:, : mask.shape[1]], None, mask, s, (ids, ids)
    ),
    "matched, diagonal": lambda x, y, s, ids, mask: matched_info_nce(
        x, y[:, : mask.shape[1]], mask.any(1)[:, None].expand(-1, 3), mask, s
    ),
    "nothing left": lambda x, y, s, ids, mask: matched_info_nce(
        x, y[:, : mask.shape[1]], None, torch.zeros_like(mask), s
    ),
    "sigmoid": lambda x, y, s, ids, mask: scored_sigmoid(
        fine_grained_scores, x, y[:, : mask.shape[1]], (None, mask), s, -s / 2, (ids, ids)
    ),
    "sigmoid, several ids": lambda x, y, s, ids, mask: scored_sigmoid(
        *(both_dots, x[:, 0], y[:, 0], (None, None), s, -s / 2),
        (torch.stack([ids, ids - 1, ids - ids - 1], 1), ids),
    ),
    **{
        negatives: lambda x, y, s, ids, mask, n=negatives: patchwise_contrastive(
            x, y, s, (ids, ids), n
        )
        for negatives in ("batch", "patches", "both")
    },
}


class Towers(nn.Module):
    """A linear tower for each side and a temperature; ``forward`` is a loss, as in training."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.image = nn.Linear(4, WIDTH, dtype=torch.float64)
        self.text = nn.Linear(4, WIDTH, dtype=torch.float64)
        self.scale = nn.Parameter(torch.tensor(6.0, dtype=torch.float64))

    def forward(self, loss: str, x: Tensor, y: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        left, right = F.normalize(self.image(x), dim=-1), F.normalize(self.text(y), dim=-1)
        return LOSSES[loss](left, right, self.scale, ids, mask)


def rows_of(split: tuple[int, ...], rank: int) -> tuple[Tensor, ...]:
    """A rank's part of the batch, its mask as short as its own texts allow."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, SLOTS, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(BATCH, SLOTS, 4, generator=generator, dtype=torch.float64)
    here = slice(sum(split[:rank]), sum(split[: rank + 1]))
    longest = max([1, *LENGTHS[here].tolist()])
    mask = torch.arange(longest) < LENGTHS[here, None]
    return x[here], y[here], IDS[here], mask


def found(model: nn.Module, loss: str, split: tuple[int, ...], rank: int) -> list[Tensor]:
    model.zero_grad()
    value = model(loss, *rows_of(split, rank))
    value.backward()
    return [value.detach(), *(p.grad.clone() for p in model.parameters())]


def work(rank: int, size: int, folder: Path) -> None:
    """What one process does: every case, twice alike, and the plain operations."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=size)
    model = nn.parallel.DistributedDataParallel(Towers())
    results = {}
    with across_ranks():
        found(model, "global", SPLITS[size][0], rank)  # DDP orders its sums anew after one step
        for split, loss in product(SPLITS[size], LOSSES):
            blockwise.BLOCK_NUMBERS = BLOCKS[split]
            results[split, loss] = found(model, loss, split, rank)
            again = found(model, loss, split, rank)
            assert all(torch.equal(a, b) for a, b in zip(results[split, loss], again, strict=True))
    ranks = Ranks(dist.group.WORLD)
    results["each"] = list(ranks.each(torch.full((rank, 2), True)))
    x = torch.tensor([[float(rank), -torch.inf]], requires_grad=True)
    total = ranks.logsumexp(x)
    scattered = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).mT  # no contiguous gradient
    results["logsumexp"] = total.detach(), *torch.autograd.grad(total, x, torch.ones(2))
    table = torch.zeros(2, 2, requires_grad=True)
    results["sum"] = torch.autograd.grad(ranks.sum(table), table, scattered)
    results["alone"] = found(Towers(), "global", (BATCH,), 0)[0]  # outside of across_ranks
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 4])
def results(request, tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    ranks = range(request.param)
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(request.param), str(folder)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in ranks
    ]
    assert [process.wait(timeout=100) for process in processes] == [0] * len(ranks)
    return [torch.load(folder / f"{rank}.pt") for rank in ranks]


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradients_equal_those_of_one_process(results, loss):
    expected = found(Towers(), loss, (BATCH,), 0)
    assert (expected[0] == 0) == (loss == "nothing left")
    for split, rank in product(SPLITS[len(results)], results):
        torch.testing.assert_close(rank[split, loss], expected)


def test_parts_may_differ_in_length(results):
    for rank in results:
        assert [tuple(part.shape) for part in rank["each"]] == [(n, 2) for n in range(len(results))]
        assert all(part.all() for part in rank["each"])


def test_log_sum_exps_over_ranks(results):
    """Every rank asks for the same sum, hence the gradient is as many times its share."""
    size = len(results)
    logits = torch.arange(float(size))
    for number, rank in enumerate(results):
        total, grad = rank["logsumexp"]
        torch.testing.assert_close(total, torch.tensor([logits.logsumexp(0), -torch.inf]))
        share = size * logits.softmax(0)[number]
        torch.testing.assert_close(grad, torch.tensor([[share, 0.0]]))


def test_a_transposed_gradient_keeps_its_places(results):
    expected = len(results) * torch.tensor([[1.0, 3.0], [2.0, 4.0]])
    assert all(torch.equal(rank["sum"][0], expected) for rank in results)


def test_nothing_is_shared_outside_the_block(results):
    expected = found(Towers(), "global", (BATCH,), 0)[0]
    assert all(torch.equal(rank["alone"], expected) for rank in results)


def test_a_process_alone_needs_no_group():
    x = torch.randn(2, 3, requires_grad=True)
    assert list(ALONE.each(x)) == [x] and ALONE.sum(x) is x
    torch.testing.assert_close(ALONE.logsumexp(x), x.logsumexp(0))


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
