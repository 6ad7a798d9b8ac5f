import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from intarsia.components.detectors import Detector, load_detector
from intarsia.components.nouns import same_kind
from intarsia.components.pseudo import matching, pseudo_regions
from intarsia.components.text import TextParser
from intarsia.data.problems import Problems
from intarsia.data.scenes import scenes
from intarsia.errors import DataError, ShapeError
from intarsia.types import Box, Record, Region

pytest.importorskip("spacy")

BLANK = np.zeros((100, 200, 3), np.uint8)
MAN: Box = (10, 10, 60, 90)
BOY: Box = (70, 40, 95, 90)
DOG: Box = (120, 50, 160, 90)
PUPPY: Box = (170, 70, 190, 90)
DISC: Box = (100, 20, 110, 25)


@pytest.fixture(scope="module")
def parser() -> TextParser:
    return TextParser()


def boxes(folder: Path, *found: tuple[Box, str, float]) -> Detector:
    """A detector that reads these boxes of the picture "a" from files in COCO's formats."""
    names = sorted({label for _, label, _ in found})
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    instances = folder / "instances.json"
    pictures = [{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "b"}]
    instances.write_text(json.dumps({"images": pictures, "categories": categories}))
    results = folder / "results.json"
    rows = [
        {
            **{"image_id": 1, "category_id": names.index(label), "score": score},
            "bbox": [x0, y0, x1 - x0, y1 - y0],
        }
        for (x0, y0, x1, y1), label, score in found
    ]
    results.write_text(json.dumps(rows))
    return load_detector(f"file:{results}", categories=str(instances), threshold=0.0)


def links(record: Record) -> list[tuple[str, Box]]:
    return [
        (record.phrase_text(p), record.regions[i].box) for p in record.phrases for i in p.regions
    ]


def test_labels_match_nouns_plurals_and_synonyms(tmp_path, parser) -> None:
    detector = boxes(
        tmp_path, (MAN, "person", 0.9), (DOG, "dog", 0.8), (DISC, "frisbee", 0.5), (BOY, "chair", 1)
    )
    captions = ("A young man throws a red disc to his puppies in the grass .", "A dog .")
    (record,) = pseudo_regions([Record("a", BLANK, captions)], detector, parser)
    assert links(record) == [("young man", MAN), ("red disc", DISC), ("puppies", DOG), ("dog", DOG)]
    assert [p.caption for p in record.phrases] == [0, 0, 0, 1]
    assert record.captions == captions and len(record.regions) == 4


def test_of_several_regions_the_prominent_one_is_meant(tmp_path, parser) -> None:
    detector = boxes(tmp_path, (BOY, "person", 0.9), (MAN, "person", 0.7), (DISC, "person", 1))
    (record,) = pseudo_regions([Record("a", BLANK, ("A girl runs .",))], detector, parser)
    assert links(record) == [("girl", MAN)]


def test_what_labels_do_not_tell_apart_is_left_out(tmp_path, parser) -> None:
    detector = boxes(tmp_path, (BOY, "person", 0.9), (MAN, "person", 0.7), (DOG, "dog", 0.9))
    captions = ("A man and a woman with a dog .",)
    (record,) = pseudo_regions([Record("a", BLANK, captions)], detector, parser)
    assert links(record) == [("dog", DOG)]


def test_words_of_the_label_decide_and_a_region_is_used_once(tmp_path, parser) -> None:
    detector = boxes(tmp_path, (MAN, "large blue circle", 0.9), (DOG, "small red circle", 0.5))
    captions = ("a red circle next to a blue circle", "a circle")
    (record,) = pseudo_regions([Record("a", BLANK, captions)], detector, parser)
    assert links(record) == [("red circle", DOG), ("blue circle", MAN), ("circle", MAN)]


def test_a_score_decides_between_what_labels_allow(tmp_path, parser) -> None:
    detector = boxes(tmp_path, (MAN, "person", 0.9), (BOY, "person", 0.8), (DOG, "dog", 0.7))

    def score(
        picture: Image.Image, phrases: Sequence[str], regions: Sequence[Region]
    ) -> np.ndarray:
        assert picture.size == (200, 100)
        assert [region.box for region in regions] == [MAN, BOY, DOG]
        rows = {"boy": [0.2, 0.3, 0.9], "man": [0.3, 0.1, 0.9], "grass": [0.1, 0.1, 0.2]}
        return np.array([rows[phrase] for phrase in phrases])

    record = Record("a", BLANK, ("A boy and a man on grass .",))
    (found,) = pseudo_regions([record], detector, parser, score=score)
    assert links(found) == [("boy", BOY), ("man", MAN), ("grass", DOG)]
    (found,) = pseudo_regions([record], detector, parser, score=score, floor=0.25)
    assert links(found) == [("boy", BOY), ("man", MAN)]


def test_a_score_of_another_shape_is_refused(tmp_path, parser) -> None:
    detector = boxes(tmp_path, (MAN, "person", 0.9))
    with pytest.raises(ShapeError, match=r"\(3, 3\) for 2 phrases and 1 regions"):
        list(
            pseudo_regions(
                [Record("a", BLANK, ("A man on a horse .",))],
                detector,
                parser,
                score=lambda *_: np.zeros((3, 3)),
            )
        )


def test_the_floor_is_on_the_region_s_own_score(tmp_path, parser) -> None:
    detector = boxes(tmp_path, (DOG, "dog", 0.5), (PUPPY, "dog", 0.6), (DISC, "frisbee", 0.4))
    record = Record("a", BLANK, ("A dog catches a frisbee .",))
    (found,) = pseudo_regions([record], detector, parser, floor=0.55)
    assert links(found) == [("dog", PUPPY)]
    assert len(found.regions) == 3


def test_unreadable_pictures_and_boxes_outside_are_told(tmp_path, parser) -> None:
    detector = boxes(tmp_path, ((-10, 50, 40, 120), "dog", 0.9), ((200, 0, 220, 9), "dog", 0.8))
    records = [Record("b", b"no picture", ("A dog .",)), Record("a", BLANK, ("A dog .",))]
    problems = Problems(max_fraction=1)
    broken, found = pseudo_regions(records, detector, parser, problems=problems)
    assert (broken.regions, broken.phrases) == ((), ())
    assert links(found) == [("dog", (0, 50, 40, 100))]
    assert [(p.source, p.field) for p in problems] == [("b", "image"), ("a", "regions")]
    with pytest.raises(DataError, match="b: image: picture of 10 bytes: cannot be decoded"):
        list(pseudo_regions(records, detector, parser))


def test_what_was_known_before_is_replaced(tmp_path, parser) -> None:
    (record,) = (record for record in scenes("val", 1))
    record = Record("a", BLANK, ("Nothing .",), record.regions, ())
    (found,) = pseudo_regions([record], boxes(tmp_path, (DOG, "dog", 0.5)), parser)
    assert found.regions == (Region(DOG, "dog", 0.5),) and found.phrases == ()


class Asked:
    """A zero-shot detector that finds whatever it is asked for."""

    def __call__(
        self, images: Sequence[Image.Image], texts: Sequence[Sequence[str]] | None = None
    ) -> list[list[Region]]:
        return [[Region((i, 0, i + 9, 9), t) for i, t in enumerate(some)] for some in texts or ()]

    def fingerprint(self) -> str:
        return "asked"


def test_a_zero_shot_detector_is_told_the_entities(parser) -> None:
    captions = ("A brown dog near a wooden fence .", "Tall trees .")
    (record,) = pseudo_regions([Record("a", BLANK, captions)], Asked(), parser)
    assert [region.label for region in record.regions] == [
        *("brown dog", "dog", "wooden fence", "fence", "Tall trees", "trees"),
    ]
    found = {record.phrase_text(p): record.regions[p.regions[0]].label for p in record.phrases}
    assert found == {
        "brown dog": "brown dog",
        "wooden fence": "wooden fence",
        "Tall trees": "Tall trees",
    }


def test_true_labels_of_scenes_lead_to_true_regions(parser) -> None:
    truth = list(scenes("val", 20))
    detector = Known(truth)
    right = made = 0
    for record, found in zip(truth, pseudo_regions(truth, detector, parser), strict=True):
        known = {(p.caption, p.span): p.regions for p in record.phrases}
        pairs = [known.get((p.caption, p.span)) == p.regions for p in found.phrases]
        right, made = right + sum(pairs), made + len(pairs)
    assert made > 150 and right >= 0.97 * made


class Known:
    """Gives the regions of the records, in order."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.regions = iter([list(record.regions) for record in records])

    def __call__(
        self, images: Sequence[Image.Image], texts: Sequence[Sequence[str]] | None = None
    ) -> list[list[Region]]:
        return [next(self.regions) for _ in images]

    def fingerprint(self) -> str:
        return "known"


@pytest.mark.parametrize(
    ("noun", "label", "same"),
    [
        ("firemen", "person", True),
        ("soccer player", "person", True),
        ("cowboy hat", "person", False),
        ("dirt bikes", "motorcycle", True),
        ("dirt bike", "bicycle", False),
        ("bikes", "bicycle", True),
        ("board", "surfboard", True),
        ("board", "snowboard", True),
        ("hot dogs", "hot dog", True),
        ("dogs", "hot dog", False),
        ("bear", "teddy bear", False),
        ("skis", "skis", True),
        ("glasses", "wine glass", True),
        ("tree", "tall green trees", True),
        ("tree", "tree house", False),
        ("tree", "", False),
        ("dog", "cat", False),
    ],
)
def test_nouns_and_labels(noun: str, label: str, same: bool) -> None:
    assert same_kind(noun, label) is same


def test_more_pairs_go_before_a_better_sum() -> None:
    worth = np.array([[2.9, 0.1], [0.2, 5.0]])
    allowed = np.array([[True, True], [True, False]])
    assert matching(worth, allowed) == [(0, 1), (1, 0)]
    assert matching(worth, np.zeros((2, 2), bool)) == []
    assert matching(np.array([[0.1], [0.3]]), np.ones((2, 1), bool)) == [(1, 0)]
