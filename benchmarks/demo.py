"""The whole demo, which is asked to take at most 8 minutes on two cores.

    python -m benchmarks.demo

``benchmarks/results/demo.json`` keeps one row a machine: what a step takes differs a lot between
processors with instructions for bfloat16 and those without. The results of the same run become
those of ``docs/results/demo``.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from benchmarks import harness
from benchmarks.whole_verb import timed

from intarsia.demo import FULL, METHODS

FILE = harness.RESULTS / "demo.json"
RESULTS = Path(__file__).parent.parent / "docs" / "results" / "demo"


def measure() -> harness.Row:
    with tempfile.TemporaryDirectory() as out:
        found = timed(["demo", "--seed", "0", "--out", out])
        kept = Path(out) / "full" / "seed-0" / "results"
        for result in kept.glob("*.json"):
            shutil.copy(result, RESULTS)
    steps = FULL.pretraining + len(METHODS) * FULL.adapting
    return found | {"scenes": FULL.scenes, "steps": steps}


if __name__ == "__main__":
    row = measure()
    rows = json.loads(FILE.read_text()) if FILE.exists() else []
    rows = [other for other in rows if other["machine"] != row["machine"]] + [row]
    FILE.write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps(row, indent=1))
