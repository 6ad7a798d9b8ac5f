"""Phrases tied to regions, through the backbone's crop and its tokens."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from intarsia.encode.links import MAX_LINKS, Linker
from intarsia.types import Phrase, Record, Region

CAPTION = "a red circle above two blue squares"


def record_of(regions, phrases, caption=CAPTION, size=(112, 112)) -> Record:
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    return Record("r", picture, (caption,), tuple(map(Region, regions)), tuple(phrases))


def links(backbone, *records):
    chosen = [(record, k) for record in records for k in range(len(record.captions))]
    texts = [record.captions[k] for record, k in chosen]
    return Linker(backbone.transform)(chosen, backbone.tokenize(texts))


def test_boxes_words_and_labels(backbone):
    phrases = [
        Phrase(0, (2, 12), (0,)),
        Phrase(0, (19, 35), (1, 0)),
        Phrase(0, (6, 12), (1,)),
        Phrase(0, (0, 1)),  # speaks of nothing
    ]
    other = record_of([(0, 0, 56, 56)], [Phrase(0, (0, 10), (0,))], "Red circle, again")
    found = links(backbone, record_of([(0, 0, 56, 28), (28, 56, 112, 112)], phrases), other)
    first, second = [0, 0, 0.5, 0.25], [0.25, 0.5, 1, 1]
    assert found.mask.tolist() == [[True] * 4, [True, False, False, False]]
    assert found.boxes[0].tolist() == [first, second, first, second]
    assert found.words[0].tolist() == [[1, 3], [4, 7], [4, 7], [2, 3]]
    labels = found.labels
    assert labels[0, 1] == labels[0, 2] and len(labels[0].unique()) == 3
    assert labels[1, 0] == labels[0, 0]  # the same words in another caption
    assert found.boxes[1, 1:].abs().sum() == 0 and found.words[1, 1:].abs().sum() == 0


def test_regions_are_numbered_and_name_those_that_they_overlap(backbone):
    """Of 112 pixels: IoU of 0 and 1 is 0.8, of 1 and 4 0.625, of 0 and 4 exactly 0.5."""
    boxes = [(0, 0, 100, 100), (0, 0, 100, 80), (0, 0, 100, 99), (90, 90, 112, 112)]
    boxes.append((0, 0, 100, 50))
    captions = CAPTION, "red circle"
    phrases = [Phrase(0, (2, 12), (0, 1)), Phrase(0, (19, 35), (3,)), Phrase(1, (0, 10), (4, 0))]
    record = replace(record_of(boxes, phrases), captions=captions)
    found = links(backbone, record).regions
    assert found.tolist() == [  # nobody speaks of region 2
        [[0, 1, -1], [1, 0, 4], [3, -1, -1]],
        [[4, 1, -1], [0, 1, -1], [-1, -1, -1]],
    ]


def test_regions_overlap_as_they_are_seen(backbone):
    """Of 224 x 112 pixels 56 are cut off on either side: what is left of both boxes is the same."""
    boxes = [(0, 0, 112, 112), (56, 0, 112, 112), (0, 0, 57, 112)]
    phrases = [Phrase(0, (2, 12), (0,)), Phrase(0, (19, 35), (1, 2))]
    found = links(backbone, record_of(boxes, phrases, size=(224, 112)))
    assert found.regions.tolist() == [[[0, 1], [1, 0]]]


def test_boxes_follow_the_crop_of_the_backbone(backbone):
    """Of 224 x 112 pixels the backbone sees the middle: 56 are cut off on either side."""
    boxes = {
        (56, 0, 168, 112): [0, 0, 1, 1],
        (84, 28, 112, 56): [0.25, 0.25, 0.5, 0.5],
        (28, 0, 84, 56): [0, 0, 0.25, 0.5],  # half of it is left
        (0, 0, 60, 56): None,  # less than a quarter
        (0, 0, 50, 50): None,  # nothing
    }
    phrases = [Phrase(0, (2, 12), (i,)) for i in range(len(boxes))]
    found = links(backbone, record_of(boxes, phrases, size=(224, 112)))
    expected = [box for box in boxes.values() if box is not None]
    assert found.boxes[0].tolist() == expected and found.mask.all()
    squash = replace(backbone.transform, mode="squash")
    backbone.transform = squash
    found = links(backbone, record_of(boxes, phrases, size=(224, 112)))
    assert found.boxes[0, 0].tolist() == [0.25, 0, 0.75, 1] and found.boxes.shape[1] == 5


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "box",
    [
        (200, 200, 300, 300),
        (-50, 0, 0, 40),
        (10, 10, 10, 40),
        (10, 10, 10, 10),
        (40, 40, 10, 10),
        (NAN, 0, 40, 40),
        (0, 0, INF, 40),
        (-INF, -INF, INF, INF),
    ],
)
def test_boxes_without_a_place_are_left_out(backbone, box):
    found = links(backbone, record_of([box, (0, 0, 56, 56)], [Phrase(0, (2, 12), (0, 1))]))
    assert found.boxes.tolist() == [[[0, 0, 0.5, 0.5]]] and found.mask.tolist() == [[True]]


def test_phrases_beyond_the_context_are_left_out(backbone):
    caption = "a " * 40 + "red circle"
    phrases = [Phrase(0, (80, 90), (0,)), Phrase(0, (0, 90), (0,))]
    found = links(backbone, record_of([(0, 0, 56, 56)], phrases, caption))
    assert found.mask.tolist() == [[False, True]]
    assert found.words.tolist() == [[[0, 0], [0, 30]]]


def test_at_most_so_many_links_a_caption(backbone):
    boxes = [(i / 10, 0, 50 + i / 10, 50) for i in range(500)]
    found = links(backbone, record_of(boxes, [Phrase(0, (2, 12), tuple(range(500)))]))
    assert found.mask.shape == (1, MAX_LINKS) and found.mask.all()


def test_nothing_to_link(backbone, records):
    bare = record_of([], [])
    unreadable = Record("b", b"", ("a",), (Region((0, 0, 1, 1)),), (Phrase(0, (0, 1), (0,)),))
    found = links(backbone, bare, unreadable)
    assert found.mask.tolist() == [[False], [False]] and found.boxes.shape == (2, 1, 4)


def test_every_phrase_of_a_scene_is_linked_to_what_it_names(backbone, records):
    found = links(backbone, *records)
    rows = [(r, i) for r in records for i in range(len(r.captions))]
    tokens = backbone.tokenize([r.captions[i] for r, i in rows])
    for row, (record, caption) in enumerate(rows):
        phrases = [p for p in record.phrases if p.caption == caption]
        assert int(found.mask[row].sum()) == len(phrases)
        offsets = tokens.offsets[row][tokens.mask[row]]
        for k, phrase in enumerate(phrases):
            first, last = found.words[row, k].tolist()
            assert (int(offsets[first, 0]), int(offsets[last - 1, 1])) == phrase.span
            box = torch.tensor(record.regions[phrase.regions[0]].box) / 112
            torch.testing.assert_close(found.boxes[row, k], box)
