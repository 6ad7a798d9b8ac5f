import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from intarsia.cli import main
from intarsia.cli.about import ABOUT
from intarsia.data.problems import Problems
from intarsia.errors import DataError
from intarsia.evaluation.blind import NgramModel
from intarsia.evaluation.compositional import COMPOSITIONAL
from intarsia.evaluation.compositional_cases import Case, score_cases
from intarsia.evaluation.compositional_fgovd import (
    FILES,
    NUM_NEGATIVES,
    fgovd_outcomes,
    read_fgovd,
)
from intarsia.evaluation.metrics import summarise
from intarsia.evaluation.result import read_result


def content(**changes: Any) -> dict[str, Any]:
    """One box with twelve negatives, one with ten, one with nine; ids as in the published files."""
    annotations = [
        {
            "bbox": [10.5, 20.0, 30.0, 40.0],
            "area": 9.0,
            "category_id": 100,
            "neg_category_ids": list(range(101, 101 + number)),
            "image_id": 7,
            "id": 5000 + number,
        }
        for number in (12, 10, 9)
    ]
    names = [{"id": i, "name": f"a dog with {i - 100} spots"} for i in range(100, 113)]
    images = [{"id": 7, "file_name": "val2017/000000000007.jpg", "width": 640, "height": 427}]
    return {"images": images, "annotations": annotations, "categories": names, **changes}


def write(root: Path, data: Any, name: str = "1_attributes.json") -> Path:
    (root / name).write_text(json.dumps(data))
    return root / name


def test_ten_negatives_a_box(tmp_path):
    path = write(tmp_path, content())
    write(tmp_path, content(), "shuffle_negatives.json")
    problems = Problems()
    cases = read_fgovd(tmp_path, Path("coco"), problems)
    assert [case.kind for case in cases] == ["hard", "hard", "trivial", "trivial"]
    texts = tuple(f"a dog with {n} spots" for n in range(11))
    box = (10.5, 20.0, 40.5, 60.0)
    where = f"{path}: annotation 5012"
    assert cases[0] == Case(where, Path("coco/000000000007.jpg"), texts, "hard", box=box)
    assert "1 skipped: a box with fewer than 10 negatives (hard)" in problems.summary()


def test_pictures_may_lie_below_val2017(tmp_path):
    write(tmp_path, content())
    (tmp_path / "val2017").mkdir()
    (tmp_path / "val2017" / "000000000007.jpg").touch()
    assert read_fgovd(tmp_path, tmp_path, Problems())[0].image.parent.name == "val2017"


def test_first_place_and_mean_rank_with_ties_behind():
    """Ranks 1, 2 (a tie with one negative) and 11."""
    cases = [Case("", Path(str(i)), ("",) * 11, "hard") for i in range(3)]
    scores = torch.zeros(3, 11)
    scores[:, 0] = torch.tensor([1.0, 1.0, -1.0])
    scores[1, 4] = 1.0
    metrics = summarise(fgovd_outcomes(cases, scores))
    assert metrics["hard"].value == pytest.approx(100 / 3)
    assert metrics["hard_rank"].value == pytest.approx((1 + 2 + 11) / 3)


def test_bad_annotations_are_listed_with_their_place(tmp_path):
    good = content()["annotations"][0]
    bad = [
        {**good, "id": 1, "image_id": 8},
        {**good, "id": 2, "neg_category_ids": [99, *good["neg_category_ids"]]},
        {**good, "id": 3, "bbox": [1, 2, 3]},
        {**good, "id": 4, "bbox": [1, 2, 0, 3]},
        good,
    ]
    images = content()["images"] * 2
    path = write(tmp_path, content(annotations=[good, *bad], images=images))
    problems = Problems(max_fraction=10)
    assert len(read_fgovd(tmp_path, tmp_path, problems)) == 1
    assert {(p.source, p.field) for p in problems} == {
        (f"{path}: images[1]", "id"),
        (f"{path}: annotation 1", "image_id"),
        (f"{path}: annotation 2", "neg_category_ids"),
        (f"{path}: annotation 3", "bbox"),
        (f"{path}: annotation 4", "bbox"),
        (f"{path}: annotation 5012", "id"),
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "field 'images' must be a list, is NoneType"),
        (content(annotations=[{"id": 1}]), r"annotation 1: image_id: is missing; the entry has id"),
        (content(categories=[{"id": 1}]), r"categories\[0\]: name: is missing; the entry"),
        (content(annotations=[]), "no case is left to ask: 0 of 0 records"),
    ],
)
def test_another_format_is_fatal_and_named(tmp_path, data, message):
    write(tmp_path, data)
    with pytest.raises(DataError, match=message) as caught:
        read_fgovd(tmp_path, tmp_path, Problems())
    assert str(tmp_path) in str(caught.value)


def test_no_file_at_all(tmp_path):
    with pytest.raises(DataError, match=r"no file of FG-OVD: looked for 1_attributes\.json"):
        read_fgovd(tmp_path, tmp_path, Problems())


def pictures(folder: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "000000000007.jpg")
    return folder


@pytest.mark.parametrize(
    ("kind", "number"), [("hard", 10), ("color", 10), ("pattern", 7), ("transparency", 2)]
)
def test_each_file_has_the_number_of_negatives_that_its_authors_take(tmp_path, kind, number):
    some = content()["annotations"]
    texts = some[0]["neg_category_ids"]
    boxes = [
        {**some[0], "id": n, "neg_category_ids": texts[:n]}
        for n in (number - 1, number, number + 1)
    ]
    write(tmp_path, content(annotations=boxes), FILES[kind])
    problems = Problems()
    cases = read_fgovd(tmp_path, tmp_path, problems)
    assert [len(case.texts) for case in cases] == [1 + number] * 2
    assert cases.left_out == {f"{kind}_boxes_left_out": 1}
    assert f"1 skipped: a box with fewer than {number} negatives ({kind})" in problems.summary()


def test_files_of_other_numbers_of_negatives_are_scored_together(tmp_path, model):
    """Each case as it is scored alone; what the files leave out is in the result."""
    root, images = tmp_path, pictures(tmp_path)
    for kind in ("hard", "pattern", "transparency"):
        write(root, content(), FILES[kind])
    benchmark = COMPOSITIONAL["fg-ovd"]
    cases = benchmark.read(root, images, Problems())
    assert [len(case.texts) for case in cases] == [11] * 2 + [8] * 3 + [3] * 3
    _, scores = score_cases(model, cases, Problems())
    for case, row in zip(cases, scores, strict=True):
        alone = score_cases(model, [case], Problems())[1][0]
        torch.testing.assert_close(row[: len(case.texts)], alone)
        assert (row[len(case.texts) :] == -torch.inf).all()
    found = benchmark.evaluate(model, cases, Problems())
    assert found.counted == {"hard_boxes_left_out": 1}
    assert {name: metric.n for name, metric in found.metrics.items() if "_" not in name} == {
        "hard": 2,
        "pattern": 3,
        "transparency": 3,
    }
    assert 1 <= found.metrics["transparency_rank"].value <= 3
    blind = benchmark.blind(cases, NgramModel(["a dog with 0 spots"]))
    assert blind.metrics["transparency_rank"].value == 1


def test_a_result_counts_the_boxes_that_are_left_out(tmp_path, capsys):
    images = pictures(tmp_path)
    write(tmp_path, content())
    line = f"evaluate fg-ovd --model scenes-clip --root {tmp_path} --images {images}"
    main(f"{line} --json {tmp_path / 'r.json'}".split())
    assert read_result(tmp_path / "r.json")["counted"] == {"hard_boxes_left_out": 1}
    assert "1 hard boxes left out" in " ".join(capsys.readouterr().out.split())


def test_where_every_box_is_left_out_this_is_the_reason(tmp_path):
    boxes = [{**box, "neg_category_ids": [101]} for box in content()["annotations"]]
    write(tmp_path, content(annotations=boxes), FILES["transparency"])
    with pytest.raises(DataError, match=r"no case is left to ask: .*; 3 skipped: a box with fewer"):
        read_fgovd(tmp_path, tmp_path, Problems())


@pytest.mark.parametrize("kind", FILES)
def test_guessing_scores_the_chance_that_the_help_tells(kind):
    number = NUM_NEGATIVES[kind]
    cases = [Case("", Path(str(i)), ("",) * (1 + number), kind) for i in range(4000)]
    cases += [Case("", Path("x"), ("",) * 11, "other")]
    scores = torch.rand(len(cases), 11, generator=torch.Generator().manual_seed(0))
    scores[:-1, 1 + number :] = -torch.inf
    found = fgovd_outcomes(cases, scores)
    assert found[kind].values.mean() == pytest.approx(100 / (1 + number), abs=2.5)
    assert found[f"{kind}_rank"].values.mean() == pytest.approx(1 + number / 2, abs=0.1)
    told = next(part for part in ABOUT["fg-ovd"].chance.split("; ") if kind in part)
    assert told.startswith(f"1/{1 + number} = {100 / (1 + number):.1f}, rank {1 + number / 2:g}, ")


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"bbox": ["1", 2, 3, 4]}, "bbox"),
        ({"bbox": [1, 2, float("inf"), 4]}, "bbox"),
        ({"bbox": {"x": 1}}, "bbox"),
        ({"image_id": "7"}, "image_id"),
        ({"category_id": None}, "category_id"),
        ({"neg_category_ids": [[101]] * 10}, "neg_category_ids"),
        (None, "entry"),
    ],
)
def test_an_ill_typed_annotation_is_one_bad_record(tmp_path, bad, field):
    first, second, _ = content()["annotations"]
    path = write(tmp_path, content(annotations=[first, second, bad and second | {"id": 1} | bad]))
    problems = Problems(max_fraction=0.34)
    assert len(read_fgovd(tmp_path, tmp_path, problems)) == 2
    place = "annotation 1" if bad else "annotations[2]"
    assert [(p.source, p.field) for p in problems] == [(f"{path}: {place}", field)]
    assert problems.summary().startswith("1 of 3 records are bad")


def test_an_ill_typed_name_is_one_bad_row(tmp_path):
    images = [*content()["images"], {"id": 8, "file_name": 8}]
    path = write(tmp_path, content(images=images))
    problems = Problems(max_fraction=0.1)
    assert len(read_fgovd(tmp_path, tmp_path, problems)) == 2
    assert [str(p) for p in problems] == [f"{path}: images[1]: file_name: must be text, is 8"]
    assert "1 of 15 rows are bad" in problems.summary()
