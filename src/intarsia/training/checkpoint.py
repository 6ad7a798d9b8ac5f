"""Checkpoints that are whole or absent, whenever the process dies."""

from __future__ import annotations

import hashlib
import pickle
import random
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from intarsia.encode.pairs import Pairs
from intarsia.errors import TrainingError
from intarsia.runtime import atomic

LAST = Path("checkpoints") / "last.ckpt"


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
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
        "numpy": [kind, torch.from_numpy(np.array(keys)), position, has_gauss, gauss],
        "python": list(random.getstate()[1]),
    }


def random_states(fabric: Fabric) -> list[dict[str, Any]]:
    """:func:`random_state` of every rank, in order."""
    if fabric.world_size == 1:
        return [random_state()]
    mine = BytesIO()
    torch.save(random_state(), mine)
    parts: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(parts, mine.getvalue())
    return [torch.load(BytesIO(part), weights_only=True) for part in parts]


def restore_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    if state.get("mps") is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy(), position, has_gauss, gauss))
    random.setstate((3, tuple(state["python"]), None))


def pairs_identity(pairs: Pairs) -> dict[str, int | str]:
    """How many pairs there are, and a hash of whose they are, in order."""
    digest = hashlib.blake2b(digest_size=8)
    for pair in range(len(pairs)):
        digest.update(f"{pairs.record_id(pair)}\n".encode())
    return {"pairs": len(pairs), "records": digest.hexdigest()}
