"""Boxes go where the picture's pixels go."""

import numpy as np
import pytest
from PIL import Image

from intarsia.backbones.base import ImageTransform


@pytest.mark.parametrize("mode", ["crop", "squash"])
@pytest.mark.parametrize("size", [(200, 100), (90, 150), (64, 64)])
def test_a_box_still_holds_what_it_held(mode, size):
    transform = ImageTransform(
        64, 64, mode, Image.Resampling.BILINEAR, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    )
    width, height = size
    box = (width * 0.4, height * 0.45, width * 0.6, height * 0.7)
    picture = np.zeros((height, width, 3), np.uint8)
    picture[round(box[1]) : round(box[3]), round(box[0]) : round(box[2])] = 255
    pixels = transform(Image.fromarray(picture))[0].numpy() > 127
    rows, columns = np.nonzero(pixels)
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    (moved,) = transform.boxes([box], size)
    assert np.allclose(found, moved, atol=1.5)
