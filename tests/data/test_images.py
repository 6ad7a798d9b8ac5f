from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from intarsia.data import images
from intarsia.data.images import image_size, load_image
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
