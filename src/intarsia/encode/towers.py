"""The towers of a backbone, asked without gradients: batches of any size, on any device."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from threading import Lock

import torch
from torch import Tensor

from intarsia.backbones.base import Backbone
from intarsia.types import Dense, Features, TokenBatch

logger = logging.getLogger(__name__)

TEXTS_AT_ONCE = 64


class Towers:
    """States of pictures and texts, where the backbone is, in its precision.

    Pictures go through in parts as large as the device takes: an accelerator that runs out of
    memory is asked again for half as many, from then on.

    Args:
        backbone: on its device; its mode is the caller's affair.
        compiled: the image tower by ``torch.compile``, its weights folded in: worth a minute's
            wait for thousands of pictures. Needs a C++ compiler, or a GPU.
    """

    def __init__(self, backbone: Backbone, *, compiled: bool = False) -> None:
        self.backbone, self.compiled = backbone, compiled
        self.at_once = backbone.images_at_once
        self._lock = Lock()
        self._states = backbone.image_states
        if compiled:
            self._states = torch.compile(
                backbone.image_states, dynamic=False, options={"freezing": True}
            )

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device

    @torch.no_grad()
    def images(self, pixels: Tensor, *, dense: Dense | None = None) -> Features:
        """``image_global`` and perhaps ``image_patches`` of (n,3,S,S) uint8 pixels."""
        while True:
            tried = self.at_once
            try:
                return _joined([self._part(x, dense) for x in pixels.split(tried)])
            except torch.OutOfMemoryError:
                if tried == 1:
                    raise
            self._halve(tried)  # here, where nothing of the attempt is held any more

    def _halve(self, tried: int) -> None:
        """Fewer pictures at a time than what was tried, whatever other threads have tried."""
        with self._lock:
            self.at_once = min(self.at_once, tried // 2)
        torch.cuda.empty_cache()
        logger.warning("out of memory: %d pictures at a time from now on", self.at_once)

    def _part(self, pixels: Tensor, dense: Dense | None) -> Features:
        count = len(pixels)
        if self.compiled and count < self.at_once:  # for one size of batch only
            more = pixels[:1].expand(self.at_once - count, -1, -1, -1)
            pixels = torch.cat([pixels, more])
        given = pixels.to(self.device, non_blocking=True)
        return self._states(given, dense=dense).rows(slice(count))

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> tuple[Features, TokenBatch]:
        """States of some texts of about one length, and their tokens."""
        tokens = self.backbone.tokenize(texts)
        return self.backbone.text_states(tokens.to(self.device)), tokens


def _joined(parts: Sequence[Features]) -> Features:
    if len(parts) == 1:
        return parts[0]
    patches = [part.image_patches for part in parts if part.image_patches is not None]
    return Features(
        image_global=torch.cat([part.require("image_global") for part in parts]),
        image_patches=torch.cat(patches) if patches else None,
    )
