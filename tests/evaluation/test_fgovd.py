import json
from pathlib import Path
from typing import Any

import pytest
import torch

from intarsia.data.problems import Problems
from intarsia.errors import DataError
from intarsia.evaluation.compositional_cases import Case
from intarsia.evaluation.compositional_fgovd import fgovd_outcomes, read_fgovd
from intarsia.evaluation.metrics import summarise


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
        (content(annotations=[{"id": 1}]), r"annotation 0: lacks the field 'image_id'"),
        (content(categories=[{"id": 1}]), r"categories\[0\]: lacks the field 'name'"),
    ],
)
def test_another_format_is_fatal_and_named(tmp_path, data, message):
    write(tmp_path, data)
    with pytest.raises(DataError, match=message) as caught:
        read_fgovd(tmp_path, tmp_path, Problems())
    assert "1_attributes.json" in str(caught.value)


def test_no_file_at_all(tmp_path):
    with pytest.raises(DataError, match=r"no file of FG-OVD: looked for 1_attributes\.json"):
        read_fgovd(tmp_path, tmp_path, Problems())
