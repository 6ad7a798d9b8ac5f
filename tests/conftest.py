"""Small real things that several tests share."""

import os
from dataclasses import replace

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels run on CPU tensors

from intarsia.backbones.loading import load_backbone
from intarsia.data.scenes import SceneSet
from intarsia.runtime import seed_everything
from intarsia.types import Record


@pytest.fixture(scope="session")
def records() -> list[Record]:
    return [SceneSet("train", 48)[i] for i in range(48)]


@pytest.fixture
def backbone():
    seed_everything(0)
    return load_backbone("scenes-clip")


@pytest.fixture
def broken(records: list[Record]) -> list[Record]:
    """48 records, two of whose pictures cannot be decoded."""
    bad = {5: b"\xff\xd8\xff not a picture", 11: b""}
    return [replace(r, image=bad[i]) if i in bad else r for i, r in enumerate(records)]


@pytest.fixture(autouse=True)
def few_threads():
    torch.set_num_threads(1)
