"""Seeds, devices and optional packages."""

from __future__ import annotations

import importlib
import os
import random
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from intarsia.errors import MissingExtraError


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def optional_import(module: str, extra: str) -> ModuleType:
    """Import ``module`` or raise :class:`MissingExtraError` naming the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(module.split(".")[0], extra) from error


def data_root() -> Path:
    """Where data sets lie: the environment variable INTARSIA_DATA, else ``../shared/data``."""
    return Path(os.environ.get("INTARSIA_DATA", "../shared/data"))


def models_root() -> Path:
    """Where local model folders lie: ``models`` beside :func:`data_root`."""
    return data_root().parent / "models"
