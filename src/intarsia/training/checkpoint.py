"""Checkpoints that are whole or absent, whenever the process dies."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from intarsia.errors import TrainingError
from intarsia.runtime import atomic


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """The old file stays until the new one is complete and on disk."""
    with atomic(path) as draft:
        torch.save(state, draft)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Tensors and plain data only (``weights_only``)."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise TrainingError(f"{path} is not a readable checkpoint: {error}") from error
    return state


def random_state() -> dict[str, Any]:
    """The state of every generator that a training step may draw from."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, torch.from_numpy(np.array(keys)), position, has_gauss, gauss],
        "python": list(random.getstate()[1]),
    }


def restore_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy(), position, has_gauss, gauss))
    random.setstate((3, tuple(state["python"]), None))
