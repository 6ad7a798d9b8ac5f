"""One or many pictures, one or many texts -> a stream of either."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intarsia.data.images import AnyImage, as_given
from intarsia.data.problems import is_unicode
from intarsia.errors import DataError

Picture = AnyImage | Tensor
Pictures = Picture | Iterable[Picture]
Texts = str | Iterable[str]
BLANK = np.zeros((8, 8, 3), np.uint8)


def pictures_of(images: Pictures) -> Iterator[AnyImage]:
    """The pictures of one or many, read as they are asked for.

    Raises:
        DataError: something that is no picture, or a tensor that could be two different ones.
    """
    if isinstance(images, bytearray | memoryview):
        images = bytes(images)
    if hasattr(images, "read") and not isinstance(images, Path):
        raise DataError(f"{_described(images)} is a file that is open: give its name or its bytes")
    if isinstance(images, np.ndarray | Tensor):
        is_one = images.ndim in (0, 2, 3)
    else:
        is_one = isinstance(images, AnyImage) or not isinstance(images, Iterable)
    for image in [images] if is_one else images:  # type: ignore[union-attr]
        yield _picture(image)


def texts_of(texts: Texts) -> Iterator[str]:
    """The texts of one or many; one string is one text.

    Raises:
        DataError: something that is no text.
    """
    is_one = isinstance(texts, str | bytes) or not isinstance(texts, Iterable)
    for text in [texts] if is_one else texts:
        if not isinstance(text, str):
            raise DataError(f"a text is a str, not {_described(text)}")
        if not is_unicode(text):
            raise DataError(f"a text has half a character (a lone surrogate): {ascii(text):.60}")
        yield text


def _picture(image: Any) -> AnyImage:
    if isinstance(image, Tensor):
        return _array(image)
    if isinstance(image, Image.Image):
        return as_given(image)  # here, since two threads must not load one picture
    if not isinstance(image, AnyImage):
        raise DataError(
            f"{_described(image)} is no picture: give a path, the bytes of a file, a PIL image, "
            "an (H,W,3) uint8 array or a uint8 tensor"
        )
    return image


def _array(image: Tensor) -> np.ndarray:
    """A picture's (3,H,W) or (H,W,3) tensor -> (H,W,3) array."""
    shape = tuple(image.shape)
    if image.dtype != torch.uint8 or image.ndim != 3 or 3 not in (shape[0], shape[2]):
        raise DataError(
            f"picture tensor is {image.dtype} {shape}, must be torch.uint8 (3, H, W) or (H, W, 3)"
        )
    if shape[0] == shape[2]:
        raise DataError(
            f"picture tensor {shape} could be (3, H, W) or (H, W, 3): give an array, which is "
            "always (H, W, 3)"
        )
    return np.ascontiguousarray(
        (image.permute(1, 2, 0) if shape[0] == 3 else image).numpy(force=True)
    )


def _described(value: Any) -> str:
    return " ".join(f"{type(value).__name__} {value!r:.60}".split())
