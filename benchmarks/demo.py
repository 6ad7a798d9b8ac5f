"""The whole demo, which is asked to take at most 8 minutes on two cores.

    python -m benchmarks.demo

``benchmarks/results/demo.json`` keeps one row a machine: what a step takes differs a lot between
processors with instructions for bfloat16 and those without.
"""

from __future__ import annotations

import json
import tempfile

from benchmarks import harness
from benchmarks.whole_verb import timed

from intarsia.demo import FULL, METHODS

FILE = harness.RESULTS / "demo.json"


def measure() -> harness.Row:
    with tempfile.TemporaryDirectory() as out:
        found = timed(["demo", "--seed", "0", "--out", out])
    steps = FULL.pretraining + len(METHODS) * FULL.adapting
    return found | {"scenes": FULL.scenes, "steps": steps}


if __name__ == "__main__":
    row = measure()
    rows = json.loads(FILE.read_text()) if FILE.exists() else []
    rows = [other for other in rows if other["machine"] != row["machine"]] + [row]
    FILE.write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps(row, indent=1))
