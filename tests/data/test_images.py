import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from intarsia.data import images
from intarsia.data.images import image_size, load_image, picture
from intarsia.errors import DataError

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def left_red_right_blue() -> Image.Image:
    image = Image.new("RGB", (32, 16), RED)
    image.paste(BLUE, (16, 0, 32, 16))
    return image


def test_path_bytes_and_array_give_the_same_picture(tmp_path: Path) -> None:
    image = left_red_right_blue()
    image.save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", encoded(image), np.asarray(image)):
        loaded = load_image(source)
        assert loaded.mode == "RGB"
        assert np.array_equal(np.asarray(loaded), np.asarray(image))


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: left becomes top
    loaded = load_image(encoded(left_red_right_blue(), "JPEG", exif=exif, quality=95))
    assert loaded.size == (16, 32)
    top, bottom = loaded.getpixel((8, 4)), loaded.getpixel((8, 28))
    assert np.allclose(top, RED, atol=12) and np.allclose(bottom, BLUE, atol=12)


def test_broken_exif_does_not_lose_the_picture() -> None:
    data = encoded(left_red_right_blue(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    with pytest.warns(UserWarning, match="Corrupt EXIF"):
        assert load_image(data).size == (32, 16)


def test_cmyk() -> None:
    data = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)
    assert np.allclose(load_image(data).getpixel((4, 4)), RED, atol=12)


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    grey = np.array([[0, 300, 25000, 65535]], dtype=np.uint16)
    loaded = np.asarray(load_image(encoded(Image.fromarray(grey))))
    assert loaded[0, :, 0].tolist() == [0, 1, 97, 255]


def test_floating_point_pixels_are_refused() -> None:
    data = encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF")
    with pytest.raises(DataError, match="floating point"):
        load_image(data)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_on_white(mode: str) -> None:
    image = Image.new(mode, (2, 1), 0)
    image.putpixel((1, 0), (10, 10, 10, 255) if mode == "RGBA" else (10, 255))
    loaded = load_image(encoded(image))
    assert loaded.getpixel((0, 0)) == WHITE and loaded.getpixel((1, 0)) == (10, 10, 10)


def test_palette_with_and_without_transparency() -> None:
    image = left_red_right_blue().quantize(2)
    assert load_image(encoded(image)).getpixel((0, 0)) == RED
    see_through = encoded(image, transparency=image.getpixel((0, 0)))
    loaded = load_image(see_through)
    assert loaded.getpixel((0, 0)) == WHITE and loaded.getpixel((31, 0)) == BLUE


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_one_pixel(mode: str) -> None:
    loaded = load_image(encoded(Image.new(mode, (1, 1), "white")))
    assert (loaded.mode, loaded.size, loaded.getpixel((0, 0))) == ("RGB", (1, 1), WHITE)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncated_file_is_named(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    path = tmp_path / "cut.img"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"cut\.img: cannot be decoded"):
        load_image(path)


@pytest.mark.parametrize("data", [b"", b"not a picture", b"\xff\xd8\xff\xe0"])
def test_undecodable_bytes(data: bytes) -> None:
    with pytest.raises(DataError, match=f"picture of {len(data)} bytes: cannot be decoded"):
        load_image(data)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jpg: no such file"):
        load_image(tmp_path / "gone.jpg")
    with pytest.raises(DataError, match="cannot be decoded"):
        load_image(tmp_path)


def test_pixel_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge.png"
    left_red_right_blue().save(path)
    monkeypatch.setattr(images, "MAX_PIXELS", 32 * 16 - 1)
    with pytest.raises(DataError, match=r"huge\.png.*32 x 16 is over 511 pixels"):
        load_image(path)


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((3, 4, 4), np.uint8)]
)
def test_arrays_of_another_form_are_refused(array: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"must be uint8 \(H, W, 3\)"):
        load_image(array)


def test_the_header_tells_the_size_that_decoding_gives(tmp_path: Path) -> None:
    image = left_red_right_blue()
    image.save(tmp_path / "a.png")
    sources = [tmp_path / "a.png", np.asarray(image)]
    for orientation in (*range(10), 65535):
        exif = Image.Exif()
        exif[0x0112] = orientation
        sources += [encoded(image, kind, exif=exif) for kind in ("JPEG", "PNG", "WEBP")]
    turned = 0
    for source in sources:
        assert image_size(source) == load_image(source).size
        turned += image_size(source) == (16, 32)
    assert turned == 4 * 3


@pytest.mark.parametrize("source", [b"", b"not a picture", Path("gone.jpg"), np.zeros((2, 2))])
def test_sizes_of_what_is_no_picture(source: object) -> None:
    with pytest.raises(DataError):
        image_size(source)


def test_a_picture_has_one_reason_however_often_it_is_read():
    reasons = set()
    for _ in range(3):
        with pytest.raises(DataError) as caught:
            load_image(b"\xff\xd8\xff not a picture")
        reasons.add(str(caught.value))
    assert len(reasons) == 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_an_exif_block_that_is_none_does_not_lose_the_picture(kind: str, tmp_path: Path) -> None:
    exif = b"Exif\0\0\0\x08\0\x02\x01\x12\0\x03"
    path = tmp_path / "a.img"
    path.write_bytes(encoded(left_red_right_blue(), kind, exif=exif))
    for loaded in (load_image(path), picture(Image.open(path))):
        assert loaded.size == image_size(path) == (32, 16)
        assert np.allclose(loaded.getpixel((2, 8)), RED, atol=15)


def with_comment(size: int, before_pixels: bool) -> bytes:
    """A PNG file whose compressed comment unpacks to ``size`` bytes."""
    data = encoded(left_red_right_blue())
    body = b"zTXt" + b"Comment\0\0" + zlib.compress(bytes(size))
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    place = data.index(b"IDAT") - 4 if before_pixels else data.index(b"IEND") - 4
    return data[:place] + chunk + data[place:]


@pytest.mark.parametrize("before_pixels", [True, False])
@pytest.mark.parametrize("size", [3 << 20, 70 << 20])
def test_the_size_of_a_comment_does_not_matter(
    tmp_path: Path, size: int, before_pixels: bool
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(with_comment(size, before_pixels))
    for source in (path, path.read_bytes()):
        loaded = load_image(source)
        assert np.array_equal(np.asarray(loaded), np.asarray(left_red_right_blue()))
        assert image_size(source) == (32, 16)
    if size < 64 << 20 or not before_pixels:
        assert picture(Image.open(path)).getpixel((0, 0)) == RED


def test_a_cut_off_png_with_a_large_comment_is_still_refused(tmp_path: Path) -> None:
    data = with_comment(3 << 20, before_pixels=True)
    with pytest.raises(DataError, match="cannot be decoded"):
        load_image(data[: data.index(b"IDAT") + 10])


@pytest.mark.parametrize("most", [255, 2_000_000_000])
def test_32_bit_pixels_are_refused(most: int, tmp_path: Path) -> None:
    ramp = np.linspace(0, most, 64).astype(np.int32).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "ramp.tif")
    with pytest.raises(DataError, match=r"ramp\.tif: .*32-bit pixels have no fixed range: save as"):
        load_image(tmp_path / "ramp.tif")


def test_every_orientation_is_what_pillow_makes_of_it() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(Image.fromarray(noise), exif=exif)
        turned = ImageOps.exif_transpose(Image.open(BytesIO(data)))
        assert np.array_equal(np.asarray(load_image(data)), np.asarray(turned))
