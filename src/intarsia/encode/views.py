"""Views: what of a record is looked at, as data, and the key that it goes by."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from intarsia.backbones.base import ImageTransform
from intarsia.data.records import KEY_BYTES
from intarsia.types import Box

Pixels = tuple[int, int, int, int]


def key_of(*parts: bytes | str) -> bytes:
    """The name of some content, such as a caption or a phrase: a hash of its parts."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


@dataclass(frozen=True, slots=True)
class View:
    """A look at a picture: the whole, as the backbone's transform takes it, or a box in whole
    pixels, cut out and scaled to the backbone's input whatever its shape."""

    box: Pixels | None = None

    @staticmethod
    def of(box: Box, size: tuple[int, int]) -> View:
        """The smallest box of whole pixels around one, at least a pixel wide, inside a picture of
        ``size`` (width, height)."""
        x0, y0 = (min(int(low), limit - 1) for low, limit in zip(box[:2], size, strict=True))
        x1, y1 = (
            min(max(math.ceil(high), low + 1), limit)
            for high, low, limit in zip(box[2:], (x0, y0), size, strict=True)
        )
        return View((x0, y0, x1, y1))

    def key(self, picture: bytes) -> bytes:
        """What vectors of this view of a picture, known by its own key, are kept under."""
        return key_of(picture, "whole" if self.box is None else ",".join(map(str, self.box)))

    def pixels(self, image: Image.Image, transform: ImageTransform) -> Tensor:
        """(3,S,S) uint8; a box is cut out before anything is scaled."""
        if self.box is None:
            return transform(image)
        return transform.squashed()(image.crop(self.box))


WHOLE = View()
