import json
from pathlib import Path
from typing import Any

import pytest

from intarsia.data.coco import coco
from intarsia.data.problems import Problems
from intarsia.errors import DataError
from intarsia.types import Region

IMAGES = [
    {"id": 7, "file_name": "000000000007.jpg", "width": 64, "height": 48},
    {"id": 9, "file_name": "000000000009.jpg", "width": 64, "height": 48},
]
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]


def box(key: int, image: int, category: int, bbox: list[float], **more: int) -> dict[str, Any]:
    return {"id": key, "image_id": image, "category_id": category, "bbox": bbox, **more}


BOXES = [box(1, 7, 18, [1.5, 2.0, 10.0, 20.0], iscrowd=0), box(2, 9, 1, [0, 0, 5, 5], iscrowd=1)]
CAPTIONS = [
    {"id": 1, "image_id": 9, "caption": "A person."},
    {"id": 2, "image_id": 7, "caption": "A dog. \n"},
    {"id": 3, "image_id": 7, "caption": "The dog."},
]


def write(root: Path, kind: str, annotations: list[Any], **more: Any) -> Path:
    path = root / "annotations" / f"{kind}_val2017.json"
    path.parent.mkdir(exist_ok=True)
    content = {"images": IMAGES, "categories": CATEGORIES, "annotations": annotations, **more}
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "val2017").mkdir()
    for image in IMAGES:
        (tmp_path / "val2017" / str(image["file_name"])).write_bytes(b"jpeg")
    return tmp_path


def tolerant() -> Problems:
    return Problems(max_fraction=10)


def test_captions_and_regions_are_joined(root: Path) -> None:
    write(root, "captions", CAPTIONS)
    write(root, "instances", BOXES)
    problems = Problems()
    dog, crowd = coco(root, "val2017", problems)
    assert (dog.id, dog.captions) == ("7", ("A dog.", "The dog."))
    assert dog.regions == (Region((1.5, 2.0, 11.5, 22.0), "dog"),)
    assert dog.image == root / "val2017" / "000000000007.jpg"
    assert (crowd.id, crowd.captions, crowd.regions) == ("9", ("A person.",), ())
    assert (problems.num_seen, len(problems)) == (2, 0)
    assert "1 skipped: crowd region" in problems.summary()


def test_instances_alone_give_records_without_captions(root: Path) -> None:
    write(root, "instances", BOXES)
    assert [r.captions for r in coco(root, "val2017", Problems())] == [(), ()]


def test_captions_alone_need_a_caption_for_each_image(root: Path) -> None:
    write(root, "captions", [CAPTIONS[0], {"id": 5, "image_id": 7, "caption": None}])
    problems = tolerant()
    assert [r.id for r in coco(root, "val2017", problems)] == ["9"]
    assert [(Path(p.source).name, p.field) for p in problems] == [
        ("000000000007.jpg", "captions[0]"),
        ("000000000007.jpg", "captions"),
    ]


def test_pictures_may_lie_in_images(root: Path) -> None:
    write(root, "instances", BOXES)
    (root / "images").mkdir()
    (root / "val2017").rename(root / "images" / "val2017")
    assert len(list(coco(root, "val2017", Problems()))) == 2


def test_bad_entries_are_counted_with_their_place(root: Path) -> None:
    (root / "val2017" / "000000000009.jpg").unlink()
    bad = [box(3, 404, 1, [0, 0, 1, 1]), box(4, 7, 99, [0, 0, 1, 1]), box(5, 7, 1, [3, 3, 0, 2])]
    path = write(root, "instances", [*BOXES, *bad], images=[*IMAGES, IMAGES[0]])
    problems = tolerant()
    (record,) = coco(root, "val2017", problems)
    assert [region.label for region in record.regions] == ["dog"]
    assert {(p.source, p.field) for p in problems} == {
        (f"{path}: image 7", "id"),
        (f"{path}: annotation 3", "image_id"),
        (f"{path}: annotation 4", "category_id"),
        (f"{path}: annotation 5", "bbox"),
        (str(root / "val2017" / "000000000009.jpg"), "image"),
    }


def test_neither_file_names_the_splits_there_are(root: Path) -> None:
    write(root, "instances", BOXES)
    with pytest.raises(DataError, match="unknown split of coco 'train': choose from val2017"):
        list(coco(root, "train", Problems()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": {}}, "field 'annotations' must be a list, is dict"),
        ({"categories": None}, "field 'categories' must be a list, is NoneType"),
        ({"images": [{"id": 7}]}, r"images\[0\]: file_name: is missing"),
        ({"annotations": [{"id": 1, "image_id": 7, "category_id": 1}]}, "bbox: is missing"),
        ({"annotations": [box(1, 7, 1, [0, 0, 1])]}, "1: bbox: must be x, y, width and height"),
        ({"annotations": ["box"]}, r"annotations\[0\]: entry: is of another format"),
    ],
)
def test_another_format_is_fatal(root: Path, change: dict[str, Any], message: str) -> None:
    path = write(
        root, "instances", BOXES, **{k: v for k, v in change.items() if k != "annotations"}
    )
    if "annotations" in change:
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=message) as caught:
        list(coco(root, "val2017", Problems()))
    assert "instances_val2017.json" in str(caught.value)


def test_broken_json_is_fatal(root: Path) -> None:
    write(root, "captions", CAPTIONS).write_text('{"images": [')
    with pytest.raises(DataError, match=r"captions_val2017\.json: not JSON"):
        list(coco(root, "val2017", Problems()))


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"bbox": []}, "bbox"),
        ({"bbox": ["5", "5", "20", "20"]}, "bbox"),
        ({"bbox": None}, "bbox"),
        ({"category_id": [1]}, "entry"),
    ],
)
def test_one_bad_annotation_costs_itself(root: Path, bad: dict[str, Any], field: str) -> None:
    boxes = [box(n, 7 if n % 2 else 9, 1, [0, 0, 5, 5]) for n in range(3_000)]
    boxes[12] |= bad
    del boxes[13]["bbox"]
    path = write(root, "instances", boxes)
    problems = Problems()
    assert sum(len(record.regions) for record in coco(root, "val2017", problems)) == 2_998
    assert [(p.source, p.field) for p in problems] == [
        (f"{path}: annotation 12", field),
        (f"{path}: annotation 13", "bbox"),
    ]
    assert problems.summary().startswith(
        "0 of 2 records are bad (0%); 2 of 3000 boxes are bad (0.0667%)"
    )


def test_a_list_of_captions_is_captions(root: Path) -> None:
    texts = [*CAPTIONS[1:], {"id": 4, "image_id": 9, "caption": ["One.", "Two."]}]
    path = write(root, "captions", [*texts, {"id": 5, "image_id": 9, "caption": 7}])
    problems = tolerant()
    dog, person = coco(root, "val2017", problems)
    assert (dog.captions, person.captions) == (("A dog.", "The dog."), ("One.", "Two."))
    assert [str(p) for p in problems] == [
        f"{path}: annotation 5: caption: must be text or a list of texts, is 7"
    ]
