import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from intarsia.data.problems import Problems
from intarsia.errors import DataError
from intarsia.evaluation.compositional import COMPOSITIONAL
from intarsia.evaluation.compositional_aro import aro_outcomes, read_aro
from intarsia.evaluation.compositional_cases import Case, score_cases
from intarsia.evaluation.metrics import summarise

RELATION, ATTRIBUTION = "visual_genome_relation.json", "visual_genome_attribution.json"


def row(name: str = "a.png", box=(0, 0, 8, 8), **more: Any) -> dict[str, Any]:
    captions = {
        "true_caption": "the dog is on the mat",
        "false_caption": "the mat is on the dog",
    }
    sides = {f"bbox_{side}": value for side, value in zip("xywh", box, strict=True)}
    return {"image_id": "1", "image_path": name, **sides, **captions, **more}


def relation(name: str, **more: Any) -> dict[str, Any]:
    return row(relation_name=name, **more)


def write(root: Path, name: str, rows: Any) -> Path:
    (root / name).write_text(json.dumps(rows))
    return root / name


def test_both_files_are_read_and_what_the_protocol_drops_is_counted(tmp_path):
    write(tmp_path, RELATION, [relation("on", box=(2, 3, 10, 20)), relation("near")])
    pairs = [row(attributes=["red", "old"])] * 25 + [row(attributes=["old", "red"])] * 24
    write(tmp_path, ATTRIBUTION, pairs)
    problems = Problems()
    cases = read_aro(tmp_path, Path("pictures"), problems)
    assert cases[0] == Case(
        f"{tmp_path / RELATION}: case 0",
        Path("pictures/a.png"),
        ("the dog is on the mat", "the mat is on the dog"),
        "relation",
        "on",
        (2, 3, 12, 23),
    )
    assert {case.stratum for case in cases[1:]} == {"red_old"}
    assert len(cases) == 26
    assert "1 skipped: a relation that the protocol leaves out" in problems.summary()
    assert "24 skipped: an attribute pair with fewer than 25 cases" in problems.summary()


def test_macro_over_relations_micro_over_cases_and_ties_are_wrong():
    """on: 1 of 1; in: 1 of 3, one of the two others being a tie."""
    names = ["on", "in", "in", "in"]
    cases = [Case("", Path(str(i)), ("t", "f"), "relation", n) for i, n in enumerate(names)]
    scores = torch.tensor([[2.0, 1], [2, 1], [1, 1], [0, 1]])
    metrics = summarise(aro_outcomes(cases, scores))
    assert metrics["relation_macro"].value == pytest.approx((100 + 100 / 3) / 2)
    assert metrics["relation_micro"].value == 50.0
    assert metrics.keys() == {"relation_macro", "relation_micro"}


def test_the_box_is_cropped_before_the_model_sees_it(tmp_path, model):
    """A picture red on the left, blue on the right: the boxes must score as the halves do."""
    picture = Image.new("RGB", (64, 32), "red")
    picture.paste("blue", (32, 0, 64, 32))
    picture.save(tmp_path / "a.png")
    boxes = [(0, 0, 32, 32), (32, -4, 99, 99)]  # the second is cut off at the border
    write(tmp_path, RELATION, [relation("on", box=box) for box in boxes])
    aro = COMPOSITIONAL["aro"]
    found = aro.evaluate(model, aro.read(tmp_path, tmp_path, Problems()), Problems())
    halves = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    texts = [relation("on")[name] for name in ("true_caption", "false_caption")]
    scores = model.similarity(model.encode_images(halves), model.encode_texts(texts))[0]
    expected = (scores[:, 0] > scores[:, 1]).float().mean() * 100
    assert found.metrics["relation_micro"].value == expected
    cases = aro.read(tmp_path, tmp_path, Problems())
    torch.testing.assert_close(score_cases(model, cases, Problems())[1], scores)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"0": {}}, "must be a list of cases, is dict"),
        ([row(attributes=["a", "b"])], "case 0: relation_name: is missing; the entry has image_id"),
        ([relation("on"), {"filename": "x"}], "case 1: image_path: is missing; the entry has file"),
        ([relation("on", bbox_w="8")], "case 0: bbox_w: must be a number, is '8'"),
        ([], "no case is left to ask: 0 of 0 records"),
        ([relation("near")], "no case is left to ask: .*; 1 skipped: a relation that the protocol"),
    ],
)
def test_another_format_is_fatal_and_named(tmp_path, rows, message):
    write(tmp_path, RELATION, rows)
    with pytest.raises(DataError, match=message) as caught:
        read_aro(tmp_path, tmp_path, Problems())
    assert str(tmp_path) in str(caught.value)


def test_no_file_at_all(tmp_path):
    with pytest.raises(DataError, match=f"neither {RELATION} nor {ATTRIBUTION}"):
        read_aro(tmp_path, tmp_path, Problems())


def test_bad_boxes_and_captions_are_listed_with_their_place(tmp_path, model):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    rows = [
        relation("on"),
        relation("on", box=(0, 0, 0, 5)),
        relation("on", true_caption=" "),
        relation("on", box=(20, 0, 5, 5)),
        relation("on", image_path="b.png"),
    ]
    path = write(tmp_path, RELATION, rows)
    problems = Problems(max_fraction=1)
    aro = COMPOSITIONAL["aro"]
    found = aro.evaluate(model, aro.read(tmp_path, tmp_path, problems), problems)
    assert found.metrics["relation_micro"].n == 1
    assert [(p.source, p.field) for p in problems] == [
        (f"{path}: case 1", "bbox"),
        (f"{path}: case 2", "caption"),
        (f"{path}: case 3", "bbox"),
        (f"{path}: case 4", "image"),
    ]
    assert "(20, 0, 25, 5) is outside of 20 x 10 pixels" in str(list(problems)[2])
    with pytest.raises(DataError, match="raise --max-bad-fraction"):
        aro.evaluate(model, aro.read(tmp_path, tmp_path, Problems(1)), Problems())


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"bbox_x": "5"}, "bbox_x"),
        ({"bbox_x": True}, "bbox_x"),
        ({"bbox_h": float("inf")}, "bbox_h"),
        ({"bbox_h": float("nan")}, "bbox_h"),
        ({"true_caption": None}, "true_caption"),
        ({"image_path": 3}, "image_path"),
        ({"relation_name": ["on"]}, "relation_name"),
        ({"false_caption": "half a pair: \ud83d"}, "text"),
        (None, "entry"),
    ],
)
def test_an_ill_typed_entry_is_one_bad_record(tmp_path, bad, field):
    good = relation("on")
    path = write(tmp_path, RELATION, [good, good, None if bad is None else good | bad, good])
    problems = Problems(max_fraction=0.25)
    assert len(read_aro(tmp_path, tmp_path, problems)) == 3
    assert [(p.source, p.field) for p in problems] == [(f"{path}: case 2", field)]
    assert problems.summary().startswith("1 of 4 records are bad (25%)")
    with pytest.raises(DataError, match=f"case 2: {field}: .*raise --max-bad-fraction"):
        read_aro(tmp_path, tmp_path, Problems(max_fraction=0.24))


def test_what_is_left_out_is_in_the_result(tmp_path, model):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    write(tmp_path, RELATION, [relation("on"), relation("near"), relation("by")])
    write(tmp_path, ATTRIBUTION, [row(attributes=["red", "old"])])
    aro = COMPOSITIONAL["aro"]
    found = aro.evaluate(model, aro.read(tmp_path, tmp_path, Problems()), Problems())
    assert found.counted == {"relation_cases_left_out": 2, "attribution_cases_left_out": 1}
