"""What a tower sees is cut out of a picture first and scaled then."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from intarsia.backbones.processing import HuggingFaceTransform
from intarsia.data import images
from intarsia.data.images import scaled_part

RESAMPLING = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.NEAREST)
SIZE = 56


def noise(width: int, height: int) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(small)


def transform(mode: Any = "crop", resize: int = SIZE) -> HuggingFaceTransform:
    mean = std = (0.5, 0.5, 0.5)
    return HuggingFaceTransform(SIZE, resize, mode, Image.Resampling.BICUBIC, mean, std)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of pixels of all pictures that resizing makes, one direction at a time."""
    sizes: list[int] = []
    resize = Image.Image.resize

    def watched(
        self: Image.Image, size: tuple[int, int], resample: Any = None, box: Any = None
    ) -> Image.Image:
        one_way = size[0] == self.width or size[1] == self.height
        sizes.append(size[0] * size[1] if one_way else size[0] * self.height)
        sizes.append(size[0] * size[1])
        return resize(self, size, resample, box)

    monkeypatch.setattr(Image.Image, "resize", watched)
    return sizes


@pytest.mark.parametrize("resample", RESAMPLING)
@pytest.mark.parametrize("size", [(97, 64), (64, 97), (300, 200), (57, 56), (640, 427), (20, 300)])
def test_cutting_first_gives_the_same_pixels(
    size: tuple[int, int], resample: Image.Resampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = noise(*size)
    scale = SIZE / min(size)
    width, height = max(SIZE, int(size[0] * scale)), max(SIZE, int(size[1] * scale))
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    part = (left, top, left + SIZE, top + SIZE)
    wanted = np.asarray(image.resize((width, height), resample).crop(part), np.int16)
    found = scaled_part(image, (width, height), part, resample)
    assert np.array_equal(np.asarray(found), wanted)
    monkeypatch.setattr(images, "THIN", 0)
    found = scaled_part(image, (width, height), part, resample)
    difference = np.abs(np.asarray(found, np.int16) - wanted)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


def test_a_part_of_a_picture_of_the_right_size_is_the_picture() -> None:
    image = noise(SIZE, SIZE)
    part = scaled_part(image, (SIZE, SIZE), (0, 0, SIZE, SIZE), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(part), np.asarray(image))


def test_beyond_the_border_it_is_black() -> None:
    image = Image.new("RGB", (40, 20), "white")
    pixels = transform(resize=28)(image)
    assert pixels.shape == (3, SIZE, SIZE)
    rows = pixels[0].float().mean(1)
    assert rows[:14].max() == 0 == rows[42:].max() and rows[14:42].min() == 255


@pytest.mark.parametrize("mode", ["crop", "squash"])
@pytest.mark.parametrize("size", [(12_000, 1), (1, 60_000), (400_000, 1), (1, 2_000_000)])
def test_a_thin_picture_costs_little(size: tuple[int, int], mode: str, made: list[int]) -> None:
    width, height = size
    ramp = np.zeros((height, width, 3), np.uint8)
    middle = slice(max(width, height) // 3, -max(width, height) // 3)
    ramp[:, middle] = 128
    if height > 1:
        ramp[middle], ramp[: middle.start], ramp[middle.stop :] = 128, 0, 0
    pixels = transform(mode)(Image.fromarray(ramp))
    assert pixels.shape == (3, SIZE, SIZE)
    centre = pixels[:, SIZE // 2 - 2 : SIZE // 2 + 2, SIZE // 2 - 2 : SIZE // 2 + 2]
    assert (abs(centre.int() - 128) <= 1).all()
    assert made and max(made) <= (SIZE * SIZE if mode == "crop" else SIZE * 60_000)
