"""Mirrored pairs: pixels and boxes together, and never a picture that has a left and a right."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from intarsia.encode import pairs as pairs_module
from intarsia.encode.pairs import SIDED, LivePairs
from intarsia.types import Phrase, Record, Region

CAPTIONS = ("a red circle", "a circle above a square")


@pytest.fixture(params=[0, 2**32], ids=["at every visit", "in memory"])
def in_memory(request, monkeypatch):
    monkeypatch.setattr(pairs_module, "IN_MEMORY_BYTES", request.param)


def record_of(name: str, captions=CAPTIONS) -> Record:
    """A bright patch where the box is, in a picture whose sides are cut off."""
    picture = np.zeros((112, 224, 3), np.uint8)
    picture[28:56, 70:98] = 255
    regions = (Region((70, 28, 98, 56)),)
    return Record(name, picture, captions, regions, (Phrase(0, (2, 12), (0,)),))


def test_pixels_and_boxes_are_mirrored_together(backbone, in_memory):
    pairs = LivePairs([record_of("a")], backbone, links=True)
    plain, flipped = pairs[[0, 1]], pairs[[2, 3]]
    assert torch.equal(flipped.pixels, plain.pixels.flip(-1))
    assert not torch.equal(flipped.pixels, plain.pixels)
    assert plain.links.boxes[0, 0].tolist() == [0.125, 0.25, 0.375, 0.5]
    assert flipped.links.boxes[0, 0].tolist() == [0.625, 0.25, 0.875, 0.5]
    for batch in (plain, flipped):
        x0, y0, x1, y1 = (batch.links.boxes[0, 0] * 112).int().tolist()
        assert (batch.pixels[0, :, y0:y1, x0:x1] == 255).all()
        assert (batch.pixels[0] == 255).sum() == 3 * 28 * 28
        assert batch.links.boxes[1].tolist() == [[0.0] * 4]  # no link, no box
        assert (batch.pairs.tolist(), batch.pictures.tolist()) == ([0, 1], [0, 0])
    for name in ("words", "labels", "mask"):
        assert torch.equal(getattr(plain.links, name), getattr(flipped.links, name))
    assert torch.equal(plain.tokens.ids, flipped.tokens.ids)
    assert torch.equal(pairs[[0, 1]].pixels, plain.pixels)  # the kept pictures are as they were


def test_rows_are_mirrored_one_by_one(backbone, in_memory):
    pairs = LivePairs([record_of("a"), record_of("b")], backbone, links=True)
    batch = pairs[[0, 2 + 4, 3]]
    assert torch.equal(batch.pixels[1], batch.pixels[0].flip(-1))
    assert torch.equal(batch.pixels[2], batch.pixels[0])


def test_a_picture_with_a_side_in_any_caption_is_never_mirrored(backbone, in_memory):
    sided = record_of("b", ("a red circle", "the leftmost circle"))
    pairs = LivePairs([record_of("a"), sided], backbone, links=True)
    plain, flipped = pairs[[0, 1, 2, 3]], pairs[[4, 5, 6, 7]]
    assert torch.equal(flipped.pixels[2:], plain.pixels[2:])
    assert torch.equal(flipped.links.boxes[2:], plain.links.boxes[2:])
    assert not torch.equal(flipped.pixels[:2], plain.pixels[:2])


def test_unreadable_pictures_are_replaced_by_mirrored_ones(backbone, monkeypatch):
    monkeypatch.setattr(pairs_module, "IN_MEMORY_BYTES", 0)
    pairs = LivePairs([replace(record_of("a"), image=b""), record_of("b")], backbone, links=True)
    batch = pairs[[4]]
    assert batch.pairs.tolist() == [2] and batch.problems[0][0] == "a"
    assert torch.equal(batch.pixels, pairs[[2]].pixels.flip(-1))


@pytest.mark.parametrize(
    ("caption", "sided"),
    [
        ("A dog to the left of a cat", True),
        ("the Right one", True),
        ("the rightmost dog", True),
        ("a left-handed batter", True),
        ("in the upper-left corner", True),
        ("turning leftwards", True),
        ("in the topright corner", True),
        ("a bright light", False),
        ("an upright piano in a cleft", False),
        ("a man with a frightened dog", False),
    ],
)
def test_words_of_sides(caption, sided):
    assert bool(SIDED.search(caption)) is sided
