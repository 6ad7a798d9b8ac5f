"""Grounding of colours, which the model of these tests gets right, and against hand-made boxes."""

import json

import numpy as np
import pytest
from PIL import Image

from intarsia.data.problems import Problems
from intarsia.data.readers import read
from intarsia.errors import DataError
from intarsia.evaluation.grounding import (
    NOWHERE,
    Grounded,
    evaluate_grounding,
    grounding_outcomes,
    judged,
)
from intarsia.evaluation.harness import evaluate_pointing
from intarsia.evaluation.mentions import mentions
from intarsia.evaluation.metrics import summarise
from intarsia.types import Phrase, Record, Region

QUADRANTS = [(8, 8, 48, 48), (64, 8, 104, 48), (8, 64, 48, 104), (64, 64, 104, 104)]
FOUR = ("red", "green", "blue", "yellow")


def record_of(image, boxes, key="r", phrases=()):
    """A phrase a colour; ``phrases`` are (text, regions) beside."""
    said = [(name, (i,)) for i, name in enumerate(boxes)] + list(phrases)
    return Record(
        key,
        np.asarray(image),
        tuple(text for text, _ in said),
        tuple(Region(box) for box in boxes.values()),
        tuple(Phrase(i, (0, len(text)), regions) for i, (text, regions) in enumerate(said)),
    )


def values(evaluation):
    return {name: metric.value for name, metric in evaluation.metrics.items()}


# ---- right boxes ------------------------------------------------------------------------------


def test_half_an_overlap_is_right_and_less_is_not():
    """Boxes 10 high: of 0..30 and 10..40 the IoU is 20/40, of 0..30 and 11..41 it is 19/41."""
    ranked = np.array([[0.0, 0, 30, 10]])
    assert judged(ranked, [(10, 0, 40, 10)]) == (0, 1)
    assert judged(ranked, [(11, 0, 41, 10)]) == (NOWHERE, 0)
    assert judged(ranked, [(11, 0, 41, 10), (0, 0, 30, 11)]) == (0, 1)
    many = np.array([[50.0, 0, 60, 10], [0, 0, 30, 10], [1, 0, 31, 10], [70, 0, 80, 10]])
    assert judged(many, [(0, 0, 30, 10)]) == (1, 0.5)


def test_recall_worked_by_hand():
    """Places 0, 4, 9, 10 and none: 1, 2, 3 of 5 within 1, 5, 10; 4 of 5 anywhere."""
    found = Grounded(
        np.array([True, True, False, True, False]),
        np.array([0, 4, 9, 10, NOWHERE]),
        np.array([1, 0.2, 0.1, 0.05, 0]),
        np.full(5, 0.25),
        np.array([0, 0, 1, 1, 1]),
    )
    metrics = summarise(grounding_outcomes(found, "proposals"))
    assert {name: pytest.approx(m.value) for name, m in metrics.items()} == {
        **{"pointing": 60, "pointing_chance": 25},
        **{"r1": 20, "r5": 40, "r10": 60, "r1_chance": 27, "bound": 80},
    }
    assert "bound" not in grounding_outcomes(found, "maps")


# ---- the whole --------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["maps", "proposals", "both"])
def test_a_model_that_is_right_is_found_right(colour_model, painted, source):
    """A picture twice as wide as high: its boxes are scaled apart in x and y."""
    boxes = {"red": (32, 16, 96, 48), "blue": (128, 64, 192, 112), "green": (0, 80, 64, 112)}
    record = record_of(painted((224, 112), boxes), boxes)
    evaluation = evaluate_grounding(colour_model, [record], Problems(0.0), source=source)
    found = values(evaluation)
    assert found.pop("pointing_chance") == pytest.approx(100 * (2 * 2 + 2 * 3 + 2 * 2) / 49 / 3)
    assert found.pop("r1_chance", 100 / 3) == pytest.approx(100 / 3)
    assert set(found.values()) == {100.0}
    assert evaluation.variant == {"maps": "maps-any-box"}.get(source, f"{source}-regions-any-box")
    assert evaluation.per_query["r1"].clusters.tolist() == [0, 0, 0]


def test_the_point_is_that_of_the_protocol_pointing(model, records):
    """On square pictures, which that does not cut; scenes and a model with random weights."""
    ours = evaluate_grounding(model, records[:8], Problems()).per_query
    other = evaluate_pointing(model, records[:8], Problems()).per_query
    for name in ("pointing", "pointing_chance"):
        assert ours[name].values.tolist() == other[name].values.tolist()


def test_the_protocol_pointing_cuts_wide_pictures_and_grounding_does_not(colour_model, painted):
    """A picture twice as wide as high: the middle half is what the backbone cuts out."""
    boxes = {"red": (0, 0, 48, 112), "blue": (64, 0, 160, 112)}
    record = record_of(painted((224, 112), boxes), boxes)
    whole = evaluate_grounding(colour_model, [record], Problems()).per_query
    cut = evaluate_pointing(colour_model, [record], Problems()).per_query
    assert whole["pointing"].values.tolist() == [100, 100]
    assert cut["pointing"].values.tolist() == [0, 100]
    assert cut["pointing_chance"].values[0] == 0 < whole["pointing_chance"].values[0]


def test_a_wrong_word_is_found_wrong(colour_model, painted):
    boxes = {"red": QUADRANTS[0], "blue": QUADRANTS[3]}
    image = painted((112, 112), boxes)
    swapped = record_of(image, {"blue": QUADRANTS[0], "red": QUADRANTS[3]})
    for source in ("maps", "proposals", "both"):
        found = values(evaluate_grounding(colour_model, [swapped], Problems(), source=source))
        assert (found["pointing"], found["r1"]) == (0, 0)


@pytest.mark.parametrize("source", ["maps", "proposals", "both"])
def test_shuffled_phrases_land_at_chance(colour_model, painted, source):
    rng = np.random.default_rng(1)
    image = painted((112, 112), dict(zip(FOUR, QUADRANTS, strict=True)))
    records = [
        record_of(image, dict(zip(rng.permutation(FOUR), QUADRANTS, strict=True)), str(i))
        for i in range(40)
    ]
    evaluation = evaluate_grounding(colour_model, records, Problems(), source=source)
    low, high = evaluation.metrics["r1"].ci95
    assert low <= 25 <= high and high - low < 25
    low, high = evaluation.metrics["pointing"].ci95
    assert low <= 25 <= high


def test_any_of_several_boxes_or_the_one_around_them(colour_model, painted):
    """Red to the left and to the right, as one phrase: no single box is around both."""
    left, right = (0, 32, 32, 80), (80, 32, 112, 80)
    image = painted((112, 112), {"red": left})
    image.paste((255, 0, 0), right)
    record = Record(
        "r",
        np.asarray(image),
        ("red",),
        (Region(left), Region(right)),
        (Phrase(0, (0, 3), (0, 1)),),
    )
    runs = {
        targets: evaluate_grounding(
            colour_model, [record], Problems(), source="proposals", targets=targets
        )
        for targets in ("any", "merged")
    }
    assert values(runs["any"])["r1"] == 100
    assert values(runs["merged"])["bound"] == 0
    assert runs["merged"].variant == "proposals-regions-merged-box"


def test_a_detector_proposes_and_is_told_the_phrases(colour_model, painted):
    boxes = {"red": QUADRANTS[0], "blue": QUADRANTS[3]}
    record = record_of(painted((112, 112), boxes), boxes)
    asked = []

    class Finds:
        def __call__(self, images, texts=None):
            asked.append((images[0].info["record"], texts))
            best = [Region((0, 50, 9, 60), score=0.9), Region((-4, 4, 52, 50), score=0.8)]
            return [[*best, Region(QUADRANTS[3], score=0.1)]]

        def fingerprint(self):
            return ""

    found = evaluate_grounding(
        colour_model, [record], Problems(0.0), source="proposals", detector=Finds()
    )
    assert asked == [("r", [["red", "blue"]])]
    assert values(found)["r1"] == 100 and found.variant == "proposals-detector-any-box"
    fewer = evaluate_grounding(
        *(colour_model, [record], Problems(0.0)),
        source="proposals",
        detector=Finds(),
        num_proposals=2,
    )
    assert values(fewer)["bound"] == 50


def test_categories_are_phrases_where_there_are_none(colour_model, painted):
    boxes = {"red": QUADRANTS[0], "blue": QUADRANTS[3]}
    regions = (*(Region(box, name) for name, box in boxes.items()), Region(QUADRANTS[1]))
    record = Record("r", np.asarray(painted((112, 112), boxes)), (), regions)
    metrics = evaluate_grounding(colour_model, [record], Problems(0.0)).metrics
    assert (metrics["r1"].value, metrics["r1"].n) == (100, 2)


# ---- bad input --------------------------------------------------------------------------------


def test_what_a_text_means():
    record = record_of(
        np.zeros((4, 4, 3), np.uint8),
        {"red": QUADRANTS[0], "blue": QUADRANTS[1]},
        phrases=[("red", (1,)), ("red", (0,)), ("nothing", ())],
    )
    assert mentions(record) == {"red": {(0,), (1,)}, "blue": {(1,)}}


def test_every_mention_counts_as_often_as_it_is_said(colour_model, painted):
    """Flickr30k Entities: "red" in two sentences of the red square, then once of the blue one
    (another chain), and "blue" once; "RED" is a mention, too. Right are 2 + 1 + 1 of 5; of distinct
    texts "red" is ambiguous, which leaves "RED" and "blue"."""
    boxes = {"red": QUADRANTS[0], "blue": QUADRANTS[3]}
    more = [("red", (0,)), ("red", (1,)), ("RED", (0,))]
    record = record_of(painted((112, 112), boxes), boxes, phrases=[*more, ("sky", ())])
    for source in ("maps", "proposals", "both"):
        found = evaluate_grounding(colour_model, [record], Problems(0.0), source=source)
        assert found.per_query["r1"].values.tolist() == [100, 100, 100, 0, 100]
        assert found.per_query["pointing"].values.tolist() == [100, 100, 100, 0, 100]
        left_out = {"phrase_without_a_box_left_out": 1}
        assert found.counted == {"pictures": 1, "phrases": 5, **left_out}
    distinct = evaluate_grounding(colour_model, [record], Problems(0.0), counting="distinct")
    assert (distinct.metrics["r1"].n, distinct.variant) == (2, "maps-any-box-distinct")
    assert distinct.counted["phrase_that_means_several_sets_of_boxes_left_out"] == 1


def test_the_protocol_pointing_counts_alike(colour_model, painted):
    boxes = {"red": QUADRANTS[0], "blue": QUADRANTS[3]}
    record = record_of(painted((112, 112), boxes), boxes, phrases=[("red", (0,)), ("red", (1,))])
    mentions = evaluate_pointing(colour_model, [record], Problems())
    assert mentions.per_query["pointing"].values.tolist() == [100, 100, 100, 0]
    assert (mentions.of("pointing"), mentions.counted["phrases"]) == ("pointing (mentions)", 4)
    distinct = evaluate_pointing(colour_model, [record], Problems(), counting="distinct")
    assert distinct.per_query["pointing"].values.tolist() == [100]
    assert distinct.of("pointing") == "pointing (distinct)"


def test_refcoco_chooses_among_all_objects(colour_model, tmp_path):
    """One expression said twice of the red square, once of the blue; two more squares that nobody
    refers to are candidates all the same, so that a random order is right in a quarter."""
    image = Image.new("RGB", (112, 112))
    colours = ("red", "lime", "blue", "yellow")
    for colour, box in zip(colours, QUADRANTS, strict=True):
        image.paste(colour, box)
    (tmp_path / "train2014").mkdir()
    image.save(tmp_path / "train2014" / "9.png")
    boxes = [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in QUADRANTS]
    instances = {
        "images": [{"id": 9, "file_name": "9.png", "width": 112, "height": 112}],
        "categories": [{"id": 1, "name": "square"}],
        "annotations": [
            {"id": 10 + i, "image_id": 9, "category_id": 1, "bbox": box, "iscrowd": i == 3}
            for i, box in enumerate(boxes)
        ],
    }
    refs = [
        {"ref_id": i, "ann_id": ann, "image_id": 9, "split": "val"}
        | {"sentences": [{"sent": text} for text in texts]}
        for i, (ann, texts) in enumerate([(10, ("red", "red")), (12, ("blue",))])
    ]
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    (tmp_path / "refs(unc).json").write_text(json.dumps(refs))
    records = read("refcoco", tmp_path, "val", Problems(0.0))
    found = evaluate_grounding(colour_model, records, Problems(0.0), source="proposals")
    assert found.per_query["r1"].values.tolist() == [100, 100, 100]
    assert values(found)["r1_chance"] == 25


def test_boxes_outside_and_ambiguous_phrases_are_counted(colour_model, painted):
    boxes = {"red": QUADRANTS[0], "blue": (112, 0, 150, 40), "green": (90, 90, 140, 140)}
    record = record_of(
        painted((112, 112), boxes),
        boxes,
        phrases=[("yellow", (0,)), ("yellow", (2,)), ("sky", ())],
    )
    problems = Problems(1.0)
    found = evaluate_grounding(colour_model, [record], problems, counting="distinct")
    assert (found.metrics["pointing"].value, found.metrics["pointing"].n) == (100, 2)
    assert [(p.source, p.field) for p in problems] == [("r", "regions[1]")]
    for reason in (
        "1 skipped: phrase without a box",
        "1 skipped: phrase that means several sets of boxes",
        "1 skipped: phrase whose boxes miss the picture",
    ):
        assert reason in problems.summary()
    with pytest.raises(DataError, match=r"r: regions\[1\]: .* holds no pixel of the 112 x 112"):
        evaluate_grounding(colour_model, [record], Problems())


def test_broken_pictures_and_no_boxes_are_told(colour_model, painted):
    boxes = {"red": QUADRANTS[0]}
    whole = record_of(painted((112, 112), boxes), boxes)
    broken = Record("b", b"none", whole.captions, whole.regions, whole.phrases)
    with pytest.raises(DataError, match="b: image: picture of 4 bytes: cannot be decoded"):
        evaluate_grounding(colour_model, [whole, broken], Problems())
    metrics = evaluate_grounding(colour_model, [broken, whole], Problems(1.0)).metrics
    assert metrics["r1"].n == 1
    with pytest.raises(DataError, match="none of 1 records has a phrase or a label with a box"):
        evaluate_grounding(colour_model, [Record("c", whole.image, ("red",))], Problems())


def test_the_model_is_left_as_it_was(colour_model, painted):
    before = colour_model.backbone.transform
    boxes = {"red": QUADRANTS[0]}
    evaluate_grounding(colour_model, [record_of(painted((112, 112), boxes), boxes)], Problems())
    assert colour_model.backbone.transform is before
