"""Parts of a split are the same pictures, whatever is read of them."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from intarsia.data.problems import Problems
from intarsia.data.readers import read
from intarsia.errors import DataError

LISTED = {
    "captions": [30, 4, 100, 9],
    "instances": [100, 9, 25, 30, 4, 7],
    "panoptic": [25, 4, 1000, 100],
    "image_info": [2, 4, 9],
}
ALL = [2, 4, 7, 9, 25, 30, 100, 1000]
KINDS = ("train2017", "panoptic_train2017")


def image(key: int) -> dict[str, Any]:
    return {"id": key, "file_name": f"{key:012}.png", "width": 8, "height": 8}


def annotation(kind: str, key: int) -> dict[str, Any]:
    box = {"id": key, "category_id": 1, "bbox": [0, 0, 4, 4]}
    if kind == "panoptic":
        return {"image_id": key, "file_name": f"{key:012}.png", "segments_info": [box]}
    return {**box, "image_id": key, "caption": f"picture {key}"}


def write(root: Path, kind: str, images: list[dict[str, Any]]) -> Path:
    content = {
        "images": images,
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [annotation(kind, image["id"]) for image in images],
    }
    path = root / "annotations" / f"{kind}_train2017.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("annotations", "train2017"):
        (tmp_path / folder).mkdir()
    for kind, keys in LISTED.items():
        write(tmp_path, kind, [image(key) for key in keys])
    for key in ALL:
        (tmp_path / "train2017" / f"{key:012}.png").write_bytes(b"picture")
    (tmp_path / "annotations" / "captions_train2017.json").unlink()
    return tmp_path


def ids(root: Path, split: str) -> list[int]:
    return [int(record.id) for record in read("coco", root, split, Problems(0))]


def test_every_reader_orders_by_id(root: Path) -> None:
    assert ids(root, "train2017") == sorted(LISTED["instances"])
    assert ids(root, "panoptic_train2017") == sorted(LISTED["panoptic"])
    write(root, "captions", [image(key) for key in [*LISTED["captions"], 25, 7]])
    assert ids(root, "train2017") == sorted({*LISTED["captions"], *LISTED["instances"]})


def test_no_half_holds_a_picture_of_the_other_half_of_any_kind(root: Path) -> None:
    for (one, other), k in product(product(KINDS, KINDS), range(-9, 10)):
        first, second = ids(root, f"{one}[:{k}]"), ids(root, f"{other}[{k}:]")
        assert set(first) == set(ids(root, one)) & set(ALL[:k])
        assert set(second) == set(ids(root, other)) & set(ALL[k:])
        assert not set(first) & set(second)


def test_positions_count_pictures_that_no_annotation_is_read_of(root: Path) -> None:
    assert ids(root, "train2017[:3]") == [4, 7]
    assert ids(root, "panoptic_train2017[:3]") == [4]
    assert ids(root, "panoptic_train2017[-1:]") == [1000]


def test_a_share_is_the_same_pictures_of_every_kind(root: Path) -> None:
    for one, other in product(KINDS, KINDS):
        assert not set(ids(root, f"{one}[:50%]")) & set(ids(root, f"{other}[50%:]"))
        both = {*ids(root, f"{one}[:50%]"), *ids(root, f"{one}[50%:]")}
        assert both == set(ids(root, one))


def test_a_missing_picture_does_not_move_the_others(root: Path) -> None:
    before = ids(root, "train2017[4:]")
    (root / "train2017" / f"{4:012}.png").unlink()
    assert ids(root, "train2017[4:]") == before
    with pytest.raises(DataError, match="000000000004.png: image: no such file"):
        ids(root, "train2017[:4]")


def test_what_is_bad_in_another_part_is_not_counted(root: Path) -> None:
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["annotations"][0]["bbox"] = []  # of picture 100
    path.write_text(json.dumps(content), encoding="utf-8")
    assert ids(root, "train2017[:4]") == [4, 7, 9]
    problems = Problems(1.0)
    assert len(list(read("coco", root, "train2017[4:]", problems))) == 3
    assert "1 of 3 boxes are bad" in problems.summary()


@pytest.mark.parametrize(
    "changed", [{"id": 4, "file_name": "other.png"}, {"id": 5, "file_name": f"{4:012}.png"}]
)
def test_files_that_disagree_on_a_picture_have_no_parts(root: Path, changed: Any) -> None:
    write(root, "image_info", [{**image(4), **changed}])
    with pytest.raises(DataError, match="image_info_train2017.json: .* would overlap"):
        ids(root, "train2017[:4]")
    assert len(ids(root, "train2017")) == 6


def test_a_picture_outside_the_folder_is_told(root: Path) -> None:
    write(root, "instances", [image(4), {**image(9), "file_name": "../secret.png"}])
    problems = Problems(1.0)
    assert [record.id for record in read("coco", root, "train2017", problems)] == ["4"]
    assert "lies outside the folder of pictures" in " ".join(map(str, problems))
