"""Fine-grained matching against einsum and against the bare matrix products.

``python -m benchmarks.matching`` writes the table and how time and memory grow (a PNG).
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable
from typing import cast
from unittest import mock

import torch
from benchmarks import harness
from benchmarks.harness import Case, Runs
from matplotlib import pyplot as plt
from torch import Tensor
from torch.nn.functional import normalize

from intarsia.ops import matching_blocks
from intarsia.ops.matching import fine_grained_scores

Scores = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
GROWTH = {
    "B": (50, 100, 200, 400),
    "P": (5, 10, 20, 40),
    "N": (5, 10, 20, 40),
    "D": (64, 128, 256, 512),
}
MANY = 10**8  # similarities, from which on a case has only one baseline: each takes 15 s and more
BASE = {"B": 200, "P": 10, "N": 10, "D": 256}


def einsum(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The plain way: the whole (I,P,T,N) tensor of similarities."""
    similarity = torch.einsum("ipd,tnd->iptn", x, y)
    return similarity.amax(3).mean(1), similarity.amax(1).mean(2)


def forward(I: int, T: int, P: int, N: int, D: int) -> Runs:  # noqa: E741
    x, y = vectors(I, P, D), vectors(T, N, D, seed=1)
    half_x, half_y = x.bfloat16(), y.bfloat16()
    runs = {
        "einsum float32": lambda: einsum(x, y),
        "einsum bfloat16": lambda: einsum(half_x, half_y),
        "ours float32": lambda: fine_grained_scores(x, y),
        "ours without numba": lambda: without_numba(half_x, half_y),
    }
    if compiler():
        compiled = torch.compile(einsum)
        runs["compiled einsum bfloat16"] = lambda: compiled(half_x, half_y)
    similarity = half_x.new_empty(I * P, T * N)
    product = lambda: torch.mm(half_x.flatten(0, 1), half_y.flatten(0, 1).mT, out=similarity)  # noqa: E731
    return Runs(lambda: fine_grained_scores(half_x, half_y), runs, ("1 bf16 GEMM", product))


def backward(I: int, T: int, P: int, N: int, D: int) -> Runs:  # noqa: E741
    x, y = vectors(I, P, D), vectors(T, N, D, seed=1)
    half_x, half_y = x.bfloat16(), y.bfloat16()
    runs = {"einsum float32": lambda: pull(einsum, x, y)}
    if I * T * P * N < MANY:
        runs["einsum bfloat16"] = lambda: pull(einsum, half_x, half_y)
        runs["ours float32"] = lambda: pull(fine_grained_scores, x, y)
        if compiler():
            compiled = cast(Scores, torch.compile(einsum))
            runs["compiled einsum bfloat16"] = lambda: pull(compiled, half_x, half_y)

    def products() -> None:
        a, b = half_x.flatten(0, 1), half_y.flatten(0, 1)
        similarity = a @ b.mT
        similarity @ b, similarity.mT @ a

    ours = lambda: pull(fine_grained_scores, half_x, half_y)  # noqa: E731
    return Runs(ours, runs, ("3 bf16 GEMMs", products))


def pull(scores: Scores, x: Tensor, y: Tensor) -> None:
    """Forward and backward, every score with a gradient of its own."""
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    i2t, t2i = scores(x, y)
    (i2t.float().square().sum() + t2i.float().square().sum()).backward()


def without_numba(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Forward with torch's operators alone, as where the extra ``cpu`` is not installed."""
    with mock.patch.object(matching_blocks, "_compiled", lambda: None):
        return fine_grained_scores(x, y)


def vectors(rows: int, k: int, d: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(rows, k, d, generator=generator), dim=-1)


def compiler() -> bool:
    return shutil.which("c++") is not None or torch.cuda.is_available()


def profile_forward(rounds: int = 9) -> None:
    """Where the forward pass of torch's operators spends its time: medians of each, as parts of the
    bare GEMM."""
    case = CASES[0]
    runs = case.build(**case.shape)
    assert runs.limit is not None
    calls = {"ours": runs.baselines["ours without numba"], "limit": runs.limit[1]}
    taken: dict[str, dict[str, list[float]]] = {name: {} for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            with torch.profiler.profile() as profile:
                call()
            for op in profile.key_averages():
                taken[name].setdefault(op.key, []).append(op.self_cpu_time_total)
    gemm = statistics.median(taken["limit"]["aten::mm"])
    parts = {op: statistics.median(times) / gemm for op, times in taken["ours"].items()}
    row = {
        "shape": dict(case.shape),
        "rounds": rounds,
        "machine": harness.machine(),
        "of_the_gemm": {op: round(part, 4) for op, part in sorted(parts.items(), key=_by_part)},
        "sum": round(sum(parts.values()), 4),
    }
    (harness.RESULTS / "matching_profile.json").write_text(json.dumps(row, indent=1) + "\n")


def _by_part(item: tuple[str, float]) -> float:
    return -item[1]


def plot_growth() -> None:
    """Time and peak memory of forward + backward while one size grows and the others stay."""
    figure, axes = plt.subplots(2, len(GROWTH), figsize=(4 * len(GROWTH), 7), sharey="row")
    for column, (letter, values) in enumerate(GROWTH.items()):
        seconds: dict[str, list[float]] = {"ours": [], "einsum bfloat16": []}
        peaks: dict[str, list[float]] = {"ours": [], "einsum bfloat16": []}
        for value in values:
            case = growth_case(letter, value)
            runs = case.build(**case.shape).named()
            taken = harness.interleaved({name: runs[name] for name in seconds}, 3)
            for name in seconds:
                seconds[name].append(statistics.median(taken[name]))
                peaks[name].append(harness.peak_bytes(case, name) / 2**20)
        for axis, lines in zip(axes[:, column], (seconds, peaks), strict=True):
            for name, line in lines.items():
                axis.plot(values, line, marker="o", label=name)
            axis.set(xscale="log", yscale="log", xlabel=letter)
            axis.set_xticks(values, map(str, values))
            axis.minorticks_off()
    axes[0, 0].set_ylabel("forward + backward, s")
    axes[1, 0].set_ylabel("peak memory, MiB")
    axes[0, 0].legend()
    figure.suptitle(" ".join(f"{letter}={value}" for letter, value in BASE.items()))
    figure.tight_layout()
    figure.savefig(harness.RESULTS / "matching_growth.png", dpi=120)


def growth_case(letter: str, value: int) -> Case:
    size = BASE | {letter: value}
    shape = {"I": size["B"], "T": size["B"], "P": size["P"], "N": size["N"], "D": size["D"]}
    return Case("growth", backward, shape)


CASES = [
    Case("forward", forward, {"I": 500, "T": 2500, "P": 10, "N": 10, "D": 512}, rounds=21),
    Case("forward + backward", backward, {"I": 800, "T": 800, "P": 10, "N": 10, "D": 512}),
    Case("forward + backward", backward, {"I": 1600, "T": 1600, "P": 10, "N": 10, "D": 512}),
    Case("forward + backward", backward, {"I": 128, "T": 128, "P": 49, "N": 32, "D": 256}),
]

if __name__ == "__main__":
    if not compiler():
        print("no C++ compiler here: compiled einsum is left out")
    harness.run("matching", CASES)
    profile_forward()
    plot_growth()
