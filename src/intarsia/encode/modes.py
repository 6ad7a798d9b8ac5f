"""A model that is asked is in evaluation mode, whatever mode it is in otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from torch import nn


class Asked:
    """Evaluation mode while anybody asks a model, from any thread; afterwards each of its modules
    is in the mode in which the first to ask found it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._asking = 0
        self._training: list[nn.Module] = []

    @contextmanager
    def __call__(self, model: nn.Module) -> Iterator[None]:
        with self._lock:
            if not self._asking:
                self._training = [module for module in model.modules() if module.training]
                _set_mode(self._training, training=False)
            self._asking += 1
        try:
            yield
        finally:
            with self._lock:
                self._asking -= 1
                if not self._asking:
                    _set_mode(self._training, training=True)
                    self._training = []

    def __reduce__(self) -> tuple[type[Asked], tuple[()]]:
        """A copy of the model is asked by nobody yet."""
        return Asked, ()


def _set_mode(modules: list[nn.Module], *, training: bool) -> None:
    for module in modules:
        module.training = training
