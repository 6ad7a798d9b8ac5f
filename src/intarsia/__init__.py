"""Fine-grained image-text alignment on top of any CLIP-like model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from intarsia.model import load_model

__all__ = ["load_model"]

if "OMP_WAIT_POLICY" not in os.environ:
    # read when torch is loaded: threads that wait spin so often before they sleep, and not 300,000
    # times, which takes another process's core away (docs/performance.md)
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def __getattr__(name: str) -> Any:
    """``load_model`` on first use, so that importing a part does not import torch's half."""
    if name == "load_model":
        from intarsia.model import load_model

        return load_model
    raise AttributeError(f"module 'intarsia' has no attribute {name!r}")
