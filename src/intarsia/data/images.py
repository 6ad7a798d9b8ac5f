"""Any picture -> 8-bit RGB as a viewer shows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from intarsia.errors import DataError
from intarsia.types import ImageSource

AnyImage = str | ImageSource | Image.Image
MAX_PIXELS = 89_478_485  # where Pillow begins to warn of decompression bombs


def load_image(source: ImageSource) -> Image.Image:
    """Decode a picture; boxes refer to the result.

    EXIF rotation is applied, transparency is laid on white, 16-bit grey is scaled to 8 bits.

    Args:
        source: A file, its encoded bytes, or an (H,W,3) uint8 array.

    Raises:
        DataError: Missing, truncated, not a picture, of an unknown range of values, or larger
            than ``MAX_PIXELS``.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    with _opened(source) as image:
        return as_shown(image)


def picture(image: AnyImage) -> Image.Image:
    """A file's name, its bytes, an array or a picture -> what :func:`load_image` would show."""
    if isinstance(image, Image.Image):
        return as_shown(image)
    return load_image(Path(image) if isinstance(image, str) else image)


def source_of(image: AnyImage) -> ImageSource:
    """The same as what a record may hold."""
    if isinstance(image, Image.Image):
        return np.asarray(as_shown(image))
    return Path(image) if isinstance(image, str) else image


@contextmanager
def _opened(source: Path | bytes) -> Iterator[Image.Image]:
    name = str(source) if isinstance(source, Path) else f"picture of {len(source)} bytes"
    stream = source if isinstance(source, Path) else BytesIO(source)
    try:
        with Image.open(stream) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{image.width} x {image.height} is over {MAX_PIXELS} pixels")
            yield image
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such file") from error
    except Exception as error:  # on broken files Pillow's decoders raise errors of many kinds
        reason = str(error).replace(repr(stream), "it")  # one picture, one reason
        raise DataError(f"{name}: cannot be decoded: {reason}") from error


def image_size(source: ImageSource) -> tuple[int, int]:
    """(width, height) as shown, from the file's header where there is one.

    Raises:
        DataError: as :func:`load_image`.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source).size
    with _opened(source) as image:
        is_turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        return (image.height, image.width) if is_turned else image.size


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise DataError(f"picture array is {array.dtype} {array.shape}, must be uint8 (H, W, 3)")
    return Image.fromarray(array)


def as_shown(image: Image.Image) -> Image.Image:
    """An opened picture -> 8-bit RGB, rotated as its EXIF data say."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        grey = np.asarray(image).clip(0, 65535) / 257
        image = Image.fromarray(grey.round().astype(np.uint8))
    if image.mode == "F":
        raise DataError("floating point pixels have no fixed range: save as 8 or 16 bits")
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image.convert("RGBA"))
        image = canvas
    return image.convert("RGB")
