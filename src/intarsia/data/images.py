"""Any picture -> 8-bit RGB as a viewer shows it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin

from intarsia.errors import DataError
from intarsia.types import FilePart, ImageSource

AnyImage = str | ImageSource | Image.Image
MAX_PIXELS = 89_478_485  # where Pillow begins to warn of decompression bombs
THIN = 16  # times the wanted part: a whole that is larger than this is not scaled
FILTER_REACH = 3  # pixels to each side that count in the widest of Pillow's filters
UNNAMED = re.compile(r"<_io\.BytesIO object at \w+>")
SIXTEEN_BITS = ("PNG", "PPM")
"""Formats without wider pixels; some versions of Pillow read theirs as 32-bit integers."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"})
"""The blocks of a PNG file that decide what is seen of it."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By the orientation in EXIF data."""

QUARTER_TURNS = (5, 6, 7, 8)
"""Orientations that exchange width and height."""

PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
"""Pillow refuses a picture, also when a user opens it, whose comment unpacks to more than a MiB;
this is its own limit for all the comments of a file (64 MiB)."""


def load_image(source: ImageSource) -> Image.Image:
    """Decode a picture; boxes refer to the result.

    EXIF rotation is applied, transparency is laid on white, 16-bit grey is scaled to 8 bits.
    Metadata that cannot be read do not matter.

    Args:
        source: A file, a part of one, its encoded bytes, or an (H,W,3) uint8 array.

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
        return as_given(image)
    return load_image(Path(image) if isinstance(image, str) else image)


def source_of(image: AnyImage) -> ImageSource:
    """The same as what a record may hold."""
    if isinstance(image, Image.Image):
        return np.asarray(as_given(image))
    return Path(image) if isinstance(image, str) else image


@contextmanager
def _opened(source: Path | FilePart | bytes) -> Iterator[Image.Image]:
    name = f"picture of {len(source)} bytes" if isinstance(source, bytes) else str(source)
    try:
        content = source.read() if isinstance(source, FilePart) else source
        stream = content if isinstance(content, Path) else BytesIO(content)
        with _open(stream) as image:
            _check_size(image)
            yield image
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such file") from error
    except Exception as error:  # on broken files Pillow's decoders raise errors of many kinds
        reason = UNNAMED.sub("it", str(error))  # one picture, one reason
        raise DataError(f"{name}: cannot be decoded: {reason}") from error


def _open(stream: Path | BytesIO) -> Image.Image:
    """As Pillow does, but for PNG files also where it refuses the size of a comment."""
    try:
        return Image.open(stream)
    except ValueError:
        data = stream.read_bytes() if isinstance(stream, Path) else stream.getvalue()
        if not data.startswith(PNG_SIGNATURE):
            raise
        return Image.open(BytesIO(_without_comments(data)))


def _loaded(image: Image.Image) -> Image.Image:
    """An opened picture with its pixels, as :func:`_open` opens them."""
    try:
        image.load()
        return image
    except ValueError:
        file = getattr(image, "fp", None)
        if image.format != "PNG" or file is None:
            raise
        file.seek(0)
        whole = Image.open(BytesIO(_without_comments(file.read())))
        whole.load()
        return whole


def _without_comments(data: bytes) -> bytes:
    """A PNG file -> the same with the blocks in ``PNG_PIXELS`` alone."""
    kept, place = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : place + 8] in PNG_PIXELS:
            kept.append(data[place:end])
        place = end
    return b"".join(kept)


def _orientation(image: Image.Image) -> int:
    """As the EXIF data say; 1, which is upright, where they cannot be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # whatever is wrong with them, the pixels are whole
        return 1


def image_size(source: ImageSource) -> tuple[int, int]:
    """(width, height) as shown, from the file's header where there is one.

    Raises:
        DataError: as :func:`load_image`.
    """
    (width, height), orientation = stored_size(source)
    return (height, width) if orientation in QUARTER_TURNS else (width, height)


def stored_size(source: ImageSource) -> tuple[tuple[int, int], int]:
    """(width, height) of the pixels as they are stored, and the orientation in the EXIF data.

    Raises:
        DataError: as :func:`load_image`.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source).size, 1
    with _opened(source) as image:
        return image.size, _orientation(image)


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise DataError(f"picture array is {array.dtype} {array.shape}, must be uint8 (H, W, 3)")
    return Image.fromarray(array)


def as_given(image: Image.Image) -> Image.Image:
    """:func:`as_shown` of somebody's own picture, within the limits of files.

    Raises:
        DataError: as of :func:`load_image`.
    """
    _check_size(image)
    try:
        return as_shown(image)
    except DataError:
        raise
    except Exception as error:  # on broken files Pillow's decoders raise errors of many kinds
        raise DataError(f"a picture ({image.mode}) cannot be decoded: {error}") from error


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{image.width} x {image.height} is over {MAX_PIXELS} pixels")


def as_shown(image: Image.Image) -> Image.Image:
    """An opened picture -> 8-bit RGB, rotated as its EXIF data say.

    Raises:
        DataError: Its values have no known range.
    """
    image = _loaded(image)
    if image.mode == "F" or (image.mode == "I" and image.format not in SIXTEEN_BITS):
        kind = "floating point" if image.mode == "F" else "32-bit"
        raise DataError(f"{kind} pixels have no fixed range: save as 8 or 16 bits")
    turn = TURNS.get(_orientation(image))
    image = image if turn is None else image.transpose(turn)
    if image.mode.startswith("I"):
        values, clear = np.asarray(image), image.info.get("transparency")
        grey = (values.clip(0, 65535) / 257).round().astype(np.uint8)
        image = Image.fromarray(grey if clear is None else np.where(values == clear, 255, grey))
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image.convert("RGBA"))
        image = canvas
    return image.convert("RGB")


def scaled_part(
    image: Image.Image,
    size: tuple[int, int],
    part: tuple[int, int, int, int],
    resample: Image.Resampling,
) -> Image.Image:
    """The box ``part`` of what a picture is after scaling it to ``size``, black beyond its border.

    Ordinary pictures are scaled as a whole and cut then. Of a thin one only what is in the part is
    scaled: of 12000 x 1 pixels whose shorter side is to become 224 a single pixel, where the whole
    would be 2.7 million x 224. That gives the same pixels up to rounding.
    """
    (width, height), (left, top, right, bottom) = size, part
    most = THIN * (right - left) * (bottom - top)
    if width * height <= most and width * image.height <= MAX_PIXELS:
        whole = image if image.size == size else image.resize(size, resample)
        return whole.crop(part)
    inner = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    x, y = image.width / width, image.height / height
    box = (
        inner[0] * x,
        inner[1] * y,
        min(inner[2] * x, image.width),
        min(inner[3] * y, image.height),
    )
    kept = _scaled(image, (inner[2] - inner[0], inner[3] - inner[1]), box, resample)
    return kept.crop((left - inner[0], top - inner[1], right - inner[0], bottom - inner[1]))


def _scaled(
    image: Image.Image,
    size: tuple[int, int],
    box: tuple[float, float, float, float],
    resample: Image.Resampling,
) -> Image.Image:
    """A box of a picture, scaled to ``size``: first its rows, then its columns.

    The other way round where that would take too much memory.
    """
    width, height = size
    x0, y0, x1, y1 = box
    reach = math.ceil(FILTER_REACH * max(1.0, (y1 - y0) / height)) + 1
    first, last = max(0, math.floor(y0) - reach), min(image.height, math.ceil(y1) + reach)
    rows = image.crop((0, first, image.width, last))
    y0, y1 = y0 - first, y1 - first
    if width * rows.height > MAX_PIXELS:
        columns = rows.resize((rows.width, height), resample, (0, y0, rows.width, y1))
        return columns.resize(size, resample, (x0, 0, x1, height))
    rows = rows.resize((width, rows.height), resample, (x0, 0, x1, rows.height))
    return rows.resize(size, resample, (0, y0, width, y1))
