"""One epoch of ComAlign over Flickr8k's 30,000 pairs, both encoders, at the paper's batch of 1,600.

    python -m benchmarks.comalign_epoch --base runs/flickr8k/base-0

Components must have been extracted before (see configs/comalign_flickr8k.yaml). The time is that of
the whole ``intarsia train``, from its start to the saved model; ``benchmarks/results/`` gets it
with the peak memory of the process.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks import harness
from benchmarks.whole_verb import timed

CONFIG = "configs/comalign_flickr8k.yaml"
BATCH = 1600


def measure(base: Path) -> harness.Row:
    with tempfile.TemporaryDirectory() as out:
        arguments = ["--config", CONFIG, "--data.split", "train", "--init", str(base)]
        arguments += ["--trainer.batch_size", str(BATCH), "--trainer.schedule.kind", "step"]
        found = timed(["train", *arguments, "--out", f"{out}/model"])
        steps = [json.loads(line) for line in open(f"{out}/model/metrics.jsonl")]
    return found | {"batch_size": BATCH, "steps": steps[-1]["step"]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="trained folder of the base")
    found = measure(parser.parse_args().base)
    (harness.RESULTS / "comalign_epoch.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
