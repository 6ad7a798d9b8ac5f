import json
from pathlib import Path
from typing import Any

import pytest

from intarsia.data.problems import Problems
from intarsia.data.readers import read
from intarsia.data.refcoco import refcoco
from intarsia.errors import ConfigError, DataError
from intarsia.types import Phrase, Region

INSTANCES: dict[str, Any] = {
    "images": [
        {
            **{"id": 581857, "file_name": "COCO_train2014_000000581857.jpg"},
            **{"width": 640, "height": 427},
        },
        {"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "width": 64, "height": 48},
    ],
    "categories": [{"id": 1, "name": "person", "supercategory": "person"}],
    "annotations": [
        {"id": 1719310, "image_id": 581857, "category_id": 1, "bbox": [103.9, 299.9, 134.2, 200]},
        {"id": 4, "image_id": 581857, "category_id": 1, "bbox": [0, 1, 20, 30], "iscrowd": 0},
        {"id": 5, "image_id": 9, "category_id": 1, "bbox": [0, 1, 20, 30], "iscrowd": 0},
    ],
}


def ref(key: int, ann: int, image: int, split: str, *sentences: str) -> dict[str, Any]:
    return {
        "sent_ids": list(range(len(sentences))),
        "file_name": f"COCO_train2014_{image:012}_{key}.jpg",
        **{"ann_id": ann, "ref_id": key, "image_id": image, "split": split, "category_id": 1},
        "sentences": [
            {"tokens": text.split(), "raw": text, "sent_id": i, "sent": text}
            for i, text in enumerate(sentences)
        ],
    }


REFS = [
    ref(0, 1719310, 581857, "train", "the lady with the blue shirt", "lady in blue"),
    ref(1, 5, 9, "testA", "left man"),
    ref(2, 4, 581857, "train", "man on the left"),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images" / "train2014").mkdir(parents=True)
    for image in INSTANCES["images"]:
        (tmp_path / "images" / "train2014" / image["file_name"]).write_bytes(b"jpeg")
    (tmp_path / "instances.json").write_text(json.dumps(INSTANCES))
    write(tmp_path, REFS)
    return tmp_path


def write(root: Path, refs: Any, by: str = "unc") -> Path:
    path = root / f"refs({by}).json"
    path.write_text(json.dumps(refs))
    return path


def test_an_expression_is_a_caption_and_the_phrase_of_its_box(root: Path) -> None:
    problems = Problems()
    (record,) = refcoco(root, "train", problems)
    assert record.id == "581857"
    assert record.captions == ("the lady with the blue shirt", "lady in blue", "man on the left")
    assert record.regions == (
        Region((103.9, 299.9, 103.9 + 134.2, 427), "person"),
        Region((0, 1, 20, 31), "person"),
    )
    assert record.phrases == (
        Phrase(0, (0, 28), (0,)),
        Phrase(1, (0, 12), (0,)),
        Phrase(2, (0, 15), (1,)),
    )
    assert record.image == root / "images/train2014/COCO_train2014_000000581857.jpg"
    assert (problems.num_seen, len(problems)) == (1, 0)


def test_two_referents_of_one_object_share_its_region(root: Path) -> None:
    write(root, [*REFS, ref(3, 4, 581857, "train", "him")])
    (record,) = refcoco(root, "train", Problems())
    assert len(record.regions) == 2 and record.phrases[-1].regions == (1,)


def test_all_objects_of_a_picture_are_its_regions(root: Path) -> None:
    """Those that no expression refers to, and crowds, in the order of the file; a bad box among
    them is told, and costs no expression."""
    more = [
        {"id": 2, "image_id": 9, "category_id": 1, "bbox": [9, 9, 0, 9]},
        {"id": 3, "image_id": 9, "category_id": 1, "bbox": [30, 8, 4, 9], "iscrowd": 1},
    ]
    some = INSTANCES["annotations"]
    changed = {**INSTANCES, "annotations": [*more, *some]}
    (root / "instances.json").write_text(json.dumps(changed))
    problems = Problems(max_fraction=1)
    (record,) = refcoco(root, "testA", problems)
    assert [region.box for region in record.regions] == [(30, 8, 34, 17), (0, 1, 20, 31)]
    assert record.phrases == (Phrase(0, (0, 8), (1,)),)
    assert [(p.source.rpartition(": ")[2], p.field) for p in problems] == [("annotation 2", "bbox")]


@pytest.mark.parametrize(
    ("bad", "field", "reason"),
    [
        (ref(7, 404, 9, "train", "who"), "ann_id", "unknown 404 in instances.json"),
        (ref(7, 5, 581857, "train", "who"), "image_id", "581857, but its object is of image 9"),
        (ref(7, 5, 9, "train", "who", " "), "sent", "empty"),
    ],
)
def test_bad_expressions_are_told_with_their_ref(
    root: Path, bad: dict[str, Any], field: str, reason: str
) -> None:
    path = write(root, [*REFS, bad])
    problems = Problems(max_fraction=5)
    *_, last = refcoco(root, "train", problems)
    assert (last.id, len(last.captions)) == ("581857", 3)
    found = {(p.source, p.field, p.reason) for p in problems}
    assert (f"{path}: ref 7", field, reason) in found


def test_a_box_outside_its_picture_is_told(root: Path) -> None:
    boxes = [{**box, "bbox": [640, 0, 9, 9]} for box in INSTANCES["annotations"]]
    (root / "instances.json").write_text(json.dumps({**INSTANCES, "annotations": boxes}))
    with pytest.raises(DataError, match=r"ref 0: bbox: \(640, 0, 649, 9\) holds no pixel of the"):
        list(refcoco(root, "train", Problems()))


def test_several_files_are_told_apart_in_the_split(root: Path) -> None:
    write(root, [ref(1, 5, 9, "val", "he")], "google")
    assert [r.captions for r in refcoco(root, "google/val", Problems())] == [("he",)]
    assert [r.id for r in refcoco(root, "unc/testA", Problems())] == ["9"]
    with pytest.raises(ConfigError, match="must be one of google/SPLIT, unc/SPLIT"):
        list(refcoco(root, "val", Problems()))
    with pytest.raises(ConfigError, match="'val': choose from testA, train"):
        list(refcoco(root, "unc/val", Problems()))


def test_a_pickle_is_never_read(root: Path) -> None:
    (root / "refs(unc).json").rename(root / "refs(unc).p")
    with pytest.raises(DataError, match=r"pickles .* are not read: convert them once"):
        list(refcoco(root, "train", Problems()))


@pytest.mark.parametrize(
    ("refs", "message"),
    [
        (INSTANCES, r"refs\(unc\)\.json: must be a list of expressions, is dict"),
        ([{"image_id": 1, "caption": "a"}], r"refs\(unc\)\.json: \[0\]: split: is missing"),
        ([{"split": "train", "image_id": 9, "ref_id": 0}], "ref 0: ann_id: is missing"),
        ([7], r"refs\(unc\)\.json: \[0\]: entry: is of another format"),
    ],
)
def test_another_format_is_fatal(root: Path, refs: Any, message: str) -> None:
    write(root, refs)
    with pytest.raises(DataError, match=message):
        list(refcoco(root, "train", Problems()))


@pytest.mark.parametrize("name", ["refcoco", "refcoco+", "refcocog"])
def test_it_is_among_the_readers(root: Path, name: str) -> None:
    assert read(name, root, "testA")[0].captions == ("left man",)


def test_pictures_come_in_the_order_of_their_ids(root: Path) -> None:
    write(root, [ref(0, 1719310, 581857, "train", "lady"), ref(1, 5, 9, "train", "man")])
    assert [r.id for r in read("refcoco", root, "train", Problems(0))] == ["9", "581857"]
    assert [r.id for r in read("refcoco", root, "train[1:]", Problems(0))] == ["581857"]


@pytest.mark.parametrize("bbox", [[], ["1", "2", "3", "4"], None])
def test_one_bad_box_costs_its_expression(root: Path, bbox: Any) -> None:
    first, *rest = INSTANCES["annotations"]
    changed = {**INSTANCES, "annotations": [{**first, "bbox": bbox}, *rest, {"image_id": 9}]}
    (root / "instances.json").write_text(json.dumps(changed), encoding="utf-8")
    problems = Problems(max_fraction=1)
    (record,) = refcoco(root, "train", problems)
    assert record.captions == ("man on the left",)
    assert [(p.source.rpartition(": ")[2], p.field) for p in problems] == [
        ("annotations[3]", "id"),
        ("ref 0", "bbox"),
    ]
