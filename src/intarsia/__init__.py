"""Fine-grained image-text alignment on top of any CLIP-like model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from intarsia.model import load_model

__all__ = ["load_model"]


def __getattr__(name: str) -> Any:
    """``load_model`` on first use, so that importing a part does not import torch's half."""
    if name == "load_model":
        from intarsia.model import load_model

        return load_model
    raise AttributeError(f"module 'intarsia' has no attribute {name!r}")
