import math

import pytest

from intarsia.data.boxes import cut, inside, spanned
from intarsia.data.problems import BadField, Problems


@pytest.mark.parametrize(
    "bbox",
    [[], [1, 2, 3], None, "1234", ["1", "2", "3", "4"], [0, 0, math.nan, 1], [0, 0, 1, True]],
)
def test_a_box_is_four_finite_numbers(bbox: object) -> None:
    with pytest.raises(BadField, match="bbox: must be x, y, width and height, is"):
        spanned(bbox)


@pytest.mark.parametrize("bbox", [[3, 3, 0, 2], [3, 3, 2, -1]])
def test_a_box_holds_pixels(bbox: list[int]) -> None:
    with pytest.raises(BadField, match="holds no pixel"):
        spanned(bbox)


def test_what_is_not_a_number_is_in_no_picture() -> None:
    with pytest.raises(BadField, match="box: .* holds no pixel of the 9 x 9 picture"):
        inside((math.nan, 0, 5, 5), (9, 9), "box")
    problems = Problems()
    assert cut((9, 0, 12, 5), (9, 9), "a.xml", "box", problems) is None
    assert "1 of 1 boxes are bad" in problems.summary()
