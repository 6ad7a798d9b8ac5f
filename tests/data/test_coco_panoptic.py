import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from intarsia.data.coco import Category, coco, coco_categories
from intarsia.data.problems import Problems
from intarsia.data.readers import read
from intarsia.errors import DataError
from intarsia.runtime import data_root
from intarsia.types import Region

IMAGES = [
    {"id": 7, "file_name": "000000000007.jpg", "width": 64, "height": 48},
    {"id": 9, "file_name": "000000000009.jpg", "width": 32, "height": 48},
]
CATEGORIES = [
    {"id": 199, "name": "wall-other-merged", "isthing": 0},
    {"id": 18, "name": "dog", "isthing": 1},
]


def segment(key: int, category: int, bbox: list[float], iscrowd: int = 0) -> dict[str, Any]:
    return {"id": key, "category_id": category, "bbox": bbox, "iscrowd": iscrowd}


def picture(image: int, *segments: dict[str, Any]) -> dict[str, Any]:
    return {"image_id": image, "file_name": f"{image:012}.png", "segments_info": list(segments)}


PICTURES = [
    picture(9, segment(5, 199, [0, 0, 32, 48]), segment(6, 18, [4, 5, 10, 20], iscrowd=1)),
    picture(7, segment(8, 18, [1, 2, 3, 4])),
]


def write(root: Path, annotations: list[Any], categories: Any = CATEGORIES) -> Path:
    path = root / "annotations" / "panoptic_val2017.json"
    path.parent.mkdir(exist_ok=True)
    content = {"images": IMAGES, "categories": categories, "annotations": annotations}
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "val2017").mkdir()
    for image in IMAGES:
        (tmp_path / "val2017" / str(image["file_name"])).write_bytes(b"jpeg")
    return tmp_path


def test_segments_of_things_stuff_and_crowds_become_regions(root: Path) -> None:
    write(root, PICTURES)
    problems = Problems()
    dog, room = coco(root, "panoptic_val2017", problems)
    assert (dog.id, dog.regions) == ("7", (Region((1, 2, 4, 6), "dog"),))
    assert room.regions == (
        Region((0, 0, 32, 48), "wall-other-merged"),
        Region((4, 5, 14, 25), "dog"),
    )
    assert (room.image, room.captions) == (root / "val2017" / "000000000009.jpg", ())
    assert (problems.num_seen, len(problems)) == (2, 0)


def test_a_slice_of_the_split_can_be_read(root: Path) -> None:
    write(root, PICTURES)
    assert [r.id for r in read("coco", root, "panoptic_val2017[1:]")] == ["9"]


def test_the_category_table_is_ordered_by_id_and_knows_things(root: Path) -> None:
    write(root, PICTURES)
    wanted = (Category("dog", True), Category("wall-other-merged", False))
    assert coco_categories(root, "panoptic_val2017") == wanted
    instances = {"images": IMAGES, "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(instances))
    assert coco_categories(root, "val2017") == (Category("person", True),)


def test_captions_alone_have_no_categories(root: Path) -> None:
    write(root, PICTURES)
    (root / "annotations" / "captions_val2017.json").write_text("{}")
    with pytest.raises(DataError, match=r"has no categories: there is no instances_val2017\.json"):
        coco_categories(root, "val2017")


def test_bad_segments_and_masks_are_counted_with_their_place(root: Path) -> None:
    bad = [segment(1, 18, [3, 3, 0, 2]), segment(2, 77, [0, 0, 5, 5]), segment(3, 18, [0, 0, 9, 9])]
    path = write(root, [picture(7, *bad), PICTURES[0], picture(404)])
    masks = path.with_suffix("")
    masks.mkdir()
    Image.new("RGB", (64, 48)).save(masks / "000000000007.png")
    Image.new("RGB", (48, 32)).save(masks / "000000000009.png")
    problems = Problems(max_fraction=10)
    dog, room = coco(root, "panoptic_val2017", problems)
    assert dog.regions == (Region((0, 0, 9, 9), "dog"),)
    assert room.regions == ()
    assert {(p.source, p.field): p.reason for p in problems} == {
        (f"{path}: annotation 000000000007.png, segment 1", "bbox"): "[3, 3, 0, 2] holds no pixel",
        (f"{path}: annotation 000000000007.png, segment 2", "category_id"): "unknown 77",
        (f"{path}: annotation 000000000009.png", "mask"): (
            "48 x 32 pixels; its picture has 32 x 48"
        ),
        (f"{path}: annotation 000000000404.png", "image_id"): "unknown image 404",
    }


def test_a_broken_mask_is_a_problem_not_a_crash(root: Path) -> None:
    path = write(root, PICTURES)
    path.with_suffix("").mkdir()
    (path.with_suffix("") / "000000000007.png").write_bytes(b"no picture")
    problems = Problems(max_fraction=10)
    assert [len(r.regions) for r in coco(root, "panoptic_val2017", problems)] == [0, 2]
    (problem,) = problems
    assert problem.field == "mask" and "cannot be decoded" in problem.reason


@pytest.mark.parametrize(
    ("annotations", "categories", "message"),
    [
        ([{"image_id": 7, "file_name": "7.png"}], CATEGORIES, "segments_info: is missing"),
        (
            [{"image_id": 7, "segments_info": []}],
            CATEGORIES,
            r"annotations\[0\]: file_name: is missing",
        ),
        (PICTURES, {"18": "dog"}, "field 'categories' must be a list, is dict"),
        (
            [picture(7, segment(1, 18, [1, 2, 3]))],
            CATEGORIES,
            "segment 1: bbox: must be x, y, width",
        ),
    ],
)
def test_another_format_is_fatal(
    root: Path, annotations: list[Any], categories: Any, message: str
) -> None:
    write(root, annotations, categories)
    with pytest.raises(DataError, match=message) as caught:
        list(coco(root, "panoptic_val2017", Problems()))
    assert "panoptic_val2017.json" in str(caught.value)


def test_a_missing_file_names_the_splits_there_are(root: Path) -> None:
    write(root, PICTURES)
    message = r"panoptic_train2017\.json is there: .* choose from panoptic_val2017"
    with pytest.raises(DataError, match=message):
        list(coco(root, "panoptic_train2017", Problems()))


def test_the_boxes_of_real_segments_are_the_extents_of_their_masks() -> None:
    root = data_root() / "coco"
    file = root / "annotations" / "panoptic_train2017.json"
    if not file.is_file():
        pytest.skip(f"no COCO sample in {root}")
    things = {c.name: c.is_thing for c in coco_categories(root, "panoptic_train2017")}
    assert (len(things), sum(things.values())) == (133, 80)
    segments = {a["image_id"]: a for a in json.loads(file.read_text())["annotations"]}
    for record in read("coco", root, "panoptic_train2017[:6]"):
        annotation = segments[int(record.id)]
        mask = np.array(Image.open(file.with_suffix("") / annotation["file_name"]), np.int64)
        owner = mask @ [1, 256, 256**2]
        for info, region in zip(annotation["segments_info"], record.regions, strict=True):
            y, x = np.nonzero(owner == info["id"])
            assert region.box == (x.min(), y.min(), x.max() + 1, y.max() + 1)
