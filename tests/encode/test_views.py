"""What is looked at of a picture: whole pixels, and keys that tell views apart."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from intarsia.encode.views import WHOLE, View, key_of


@st.composite
def boxed(draw):
    """A picture's size and a box in it."""
    size = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    sides = [
        sorted(draw(st.tuples(*[st.floats(0, limit) | st.integers(0, limit)] * 2)))
        for limit in size
    ]
    (x0, x1), (y0, y1) = sides
    return size, (x0, y0, x1, y1)


@settings(max_examples=200, deadline=None)
@given(boxed())
def test_a_view_is_the_pixels_that_a_box_touches_and_no_others(given):
    size, box = given
    found = View.of(box, size).box
    for low, high, start, stop, limit in zip(
        found[:2], found[2:], box[:2], box[2:], size, strict=True
    ):
        touched = {i for i in range(limit) if start < i + 1 and i < stop}
        inside = set(range(low, high))
        assert 0 <= low < high <= limit
        assert inside == touched or (start == stop and len(inside) == 1)


def test_a_box_is_cut_out_before_it_is_scaled(backbone):
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    size = backbone.transform.size
    for box in ((0, 0, 90, 60), (10, 5, 11, 60), (30, 20, 70, 40)):
        crop = Image.fromarray(noise[box[1] : box[3], box[0] : box[2]])
        expected = np.asarray(crop.resize((size, size), backbone.transform.resample))
        found = View(box).pixels(image, backbone.transform)
        assert found.dtype == torch.uint8 and found.shape == (3, size, size)
        assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)
    assert torch.equal(WHOLE.pixels(image, backbone.transform), backbone.preprocess(image))
    whole = View((0, 0, 90, 60)).pixels(image, backbone.transform)
    assert not torch.equal(whole, backbone.preprocess(image))  # which cuts the central square


def test_every_view_of_every_picture_has_a_key_of_its_own():
    views = [
        WHOLE,
        *(View(box) for box in ((0, 0, 1, 12), (0, 0, 11, 2), (0, 0, 1, 1), (1, 0, 2, 1))),
    ]
    pictures = [key_of("a"), key_of("b")]
    keys = {view.key(picture) for view in views for picture in pictures}
    assert len(keys) == 10 and {len(key) for key in keys} == {16}
    assert View((0, 0, 1, 12)).key(pictures[0]) == views[1].key(pictures[0])


@pytest.mark.parametrize("box", [(3.2, 1.0, 3.2, 1.0), (9.0, 9.0, 9.0, 9.0)])
def test_a_box_without_area_is_a_pixel(box):
    (x0, y0, x1, y1) = View.of(box, (9, 9)).box
    assert (x1 - x0, y1 - y0) == (1, 1) and max(x1, y1) <= 9
