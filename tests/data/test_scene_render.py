"""How single things are drawn."""

from __future__ import annotations

import numpy as np

from intarsia.data.scene_graph import SHAPES, Contact, Ground, Thing
from intarsia.data.scene_render import render, visible_boxes


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def test_box_of_a_partly_hidden_object_is_that_of_its_visible_part() -> None:
    ground = Ground((130, 130, 130), None)
    back = Thing("yellow", "circle", "large", "solid", 36, x=30, y=40)
    front = Thing("black", "square", "large", "striped", 40, x=50, y=30)
    both = (back, front)
    boxes = visible_boxes(both, Contact("overlapping", front=1, back=0))
    changed = (render(both, ground) != render((front,), ground)).any(-1)
    assert boxes[0] == box_of(changed)
    assert boxes[0][2] < 30 + 36  # the front one cuts it short
    alone = (render((front,), ground) != 130).any(-1)
    assert boxes[1] == box_of(alone)


def test_edges_are_anti_aliased() -> None:
    shown = render(
        (Thing("black", "circle", "large", "solid", 40, 20, 20),), Ground((200,) * 3, None)
    )
    assert len(np.unique(shown[..., 0])) > 10


def test_every_pair_of_shapes_differs_clearly_even_when_small() -> None:
    ground = Ground((150, 150, 150), None)
    masks = {
        shape: render((Thing("black", shape, "small", "solid", 16, 10, 10),), ground)[
            10:26, 10:26, 0
        ]
        < 80
        for shape in SHAPES
    }
    for one in SHAPES:
        for other in SHAPES:
            if one != other:
                either, both = masks[one] | masks[other], masks[one] & masks[other]
                assert both.sum() / either.sum() < 0.87, (one, other)
