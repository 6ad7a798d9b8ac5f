"""Failures of other libraries' loaders, told as a BackboneError that names the file."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

from intarsia.errors import BackboneError, MissingExtraError


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Wrap whatever goes wrong while the weights, config or tokeniser of ``source`` are read."""
    try:
        yield
    except (BackboneError, MissingExtraError):
        raise
    except pickle.UnpicklingError as error:
        raise BackboneError(_pickle_message(source)) from error
    except (RuntimeError, SafetensorError, EOFError) as error:
        if "TorchScript" in str(error) or "weights_only" in str(error):
            raise BackboneError(_pickle_message(source)) from error
        raise BackboneError(f"{source} does not fit its model: {_first_lines(error)}") from error
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise BackboneError(f"cannot load {source}: {_first_lines(error)}") from error


def _pickle_message(source: str) -> str:
    return (
        f"{source} is a pickle that holds more than tensors, so that reading it could run any "
        "program; it was not read. If you trust where it comes from, convert it once:\n"
        "    model = torch.load(FILE, map_location='cpu', weights_only=False)\n"
        "    state = model.state_dict() if hasattr(model, 'state_dict') else model['state_dict']\n"
        "    safetensors.torch.save_file(dict(state), 'FILE.safetensors')"
    )


def _first_lines(error: Exception, limit: int = 600) -> str:
    text = str(error).strip() or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit]} ..."
