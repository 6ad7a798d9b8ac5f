"""One run on a machine of its own against two at once: what threads that spin cost.

``python -m benchmarks.contention`` writes ``results/contention.json``: milliseconds of a loss's
step in one process and in two at once, with OpenMP's own number of spins and with intarsia's.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time

from benchmarks import harness

POLICIES = {"OpenMP's own, 300,000 spins": "300000", "intarsia's, 1,000 spins": "1000"}
ROUNDS, STEPS = 3, 9


def steps() -> dict[str, float]:
    """Milliseconds of a step of each loss in this process, medians."""
    from benchmarks import contrastive

    cases = {
        "patch-wise, bf16": contrastive.patchwise(256, 49, 512),
        "InfoNCE, fp32": contrastive.whole(2048, 512),
        "matched InfoNCE, bf16": contrastive.matched(256, 10, 256),
    }
    taken = {}
    for name, runs in cases.items():
        seconds = []
        for _ in range(STEPS):
            start = time.perf_counter()
            runs.ours()
            seconds.append(time.perf_counter() - start)
        taken[name] = 1000 * statistics.median(seconds)
    return taken


def at_once(num: int, spins: str) -> list[dict[str, float]]:
    """:func:`steps` in ``num`` processes at once."""
    command = [sys.executable, "-m", "benchmarks.contention", "steps"]
    env = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    started = [
        subprocess.Popen(command, env=env | {"GOMP_SPINCOUNT": spins}, stdout=subprocess.PIPE)
        for _ in range(num)
    ]
    return [json.loads(process.communicate()[0]) for process in started]


def measured() -> list[dict[str, object]]:
    taken: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(ROUNDS):
        for policy, spins in POLICIES.items():
            for num in (1, 2):
                taken.setdefault((policy, num), []).extend(at_once(num, spins))
    rows: list[dict[str, object]] = []
    for policy in POLICIES:
        alone, together = taken[policy, 1], taken[policy, 2]
        for name in alone[0]:
            one, two = (statistics.median(t[name] for t in some) for some in (alone, together))
            row = {"name": name, "policy": policy, "alone_ms": one, "two_at_once_ms": two}
            rows.append(row | {"ratio": two / one, "rounds": ROUNDS, "machine": harness.machine()})
    return rows


def main() -> None:
    rows = measured()
    (harness.RESULTS / "contention.json").write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        print(f"{row['name']:24} {row['policy']:30} {row['ratio']:.2f} x")


if __name__ == "__main__":
    if sys.argv[1:] == ["steps"]:
        print(json.dumps(steps()))
    else:
        main()
