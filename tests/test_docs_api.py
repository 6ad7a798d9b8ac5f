"""The examples of docs/api.md, run in order on a run that is trained for a step."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from intarsia.model import ModelSpec
from intarsia.training.loop import Trainer
from intarsia.training.run import DataSpec, train

PAGE = Path(__file__).parents[1] / "docs" / "api.md"


@pytest.mark.filterwarnings("ignore::intarsia.errors.CutTextWarning")
def test_the_examples_run(tmp_path, monkeypatch, records):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("street.jpg")
    spec = ModelSpec({"spec": "scenes-clip"}, {"class_path": "intarsia.methods.Filip"})
    trainer = Trainer(steps=1, batch_size=8, accelerator="cpu")
    train(spec, DataSpec("scenes"), trainer, Path("runs/mine"), records=records)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{PAGE.name}, block {number + 1}", "exec"), names)
    assert names["heat"].shape == (2, 7, 7) and names["everywhere"].shape == (1, 7, 7)
    assert (names["x0"], names["y0"]) == pytest.approx((15, 0), abs=0.5)
