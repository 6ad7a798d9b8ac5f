import json
from pathlib import Path
from typing import Any

import pytest

from intarsia.data import json_stream
from intarsia.data.problems import Problems
from intarsia.data.readers import read
from intarsia.data.visual_genome import visual_genome
from intarsia.errors import ConfigError, DataError
from intarsia.types import Phrase, Region

URL = "https://cs.stanford.edu/people/rak248/"
IMAGES = [
    {"image_id": 1, "url": URL + "VG_100K_2/1.jpg", "width": 800, "height": 600, "coco_id": None},
    {"image_id": 2, "url": URL + "VG_100K/2.jpg", "width": 400, "height": 300, "coco_id": 77},
]
CAR = {"object_id": 10, "names": ["car"], "synsets": ["car.n.01"], "x": 5, "y": 6, "w": 70, "h": 8}
TREE = {"object_id": 11, "names": ["tree"], "synsets": [], "x": 1, "y": 2, "w": 3, "h": 4}
SIGN = {"object_id": 12, "name": "sign", "synsets": [], "x": 90, "y": 91, "w": 20, "h": 21}
FILES: dict[str, Any] = {
    "image_data": IMAGES,
    "region_descriptions": [
        {
            "id": 1,
            "regions": [
                {
                    **{"region_id": 1382, "image_id": 1, "phrase": "the clock is  green "},
                    **{"x": 421, "y": 57, "width": 82, "height": 139},
                }
            ],
        },
        {"id": 2, "regions": []},
    ],
    "objects": [
        {"image_id": 1, "image_url": "", "objects": [CAR, TREE]},
        {"image_id": 2, "image_url": "", "objects": []},
    ],
    "attributes": [
        {"image_id": 2, "attributes": []},
        {"image_id": 1, "attributes": [{**CAR, "attributes": ["red", "parked"]}, TREE]},
    ],
    "relationships": [
        {
            "image_id": 1,
            "relationships": [
                {"relationship_id": 5, "predicate": "ON", "subject": SIGN, "object": CAR}
            ],
        },
        {"image_id": 2, "relationships": []},
    ],
}
CLOCK = Region((421, 57, 503, 196), "the clock is green")
RED_CAR = Region((5, 6, 75, 14), "red parked car")


def write(root: Path, *names: str, **changed: Any) -> Path:
    for image in IMAGES:
        path = root.joinpath(*str(image["url"]).split("/")[-2:])
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"jpeg")
    for name in ("image_data", *names):
        (root / f"{name}.json").write_text(json.dumps(changed.get(name, FILES[name])))
    return root


def edited(name: str, list_name: str, **fields: Any) -> list[Any]:
    """A file of FILES with fields of the first entry of image 1 changed."""
    first, *rest = FILES[name]
    entry, *others = first[list_name]
    return [{**first, list_name: [{**entry, **fields}, *others]}, *rest]


def test_all_four_files_make_one_record(tmp_path: Path) -> None:
    problems = Problems()
    root = write(tmp_path, "region_descriptions", "objects", "attributes", "relationships")
    (record,) = visual_genome(root, "all", problems)
    assert (record.id, record.image) == ("1", root / "VG_100K_2" / "1.jpg")
    assert record.captions == ("the clock is green", "sign on car")
    tree, sign = Region((1, 2, 4, 6), "tree"), Region((90, 91, 110, 112), "sign")
    assert record.regions == (CLOCK, RED_CAR, tree, sign)
    assert record.phrases == (
        Phrase(0, (0, 18), (0,)),
        Phrase(1, (0, 4), (3,)),
        Phrase(1, (8, 11), (1,)),
    )
    assert [record.phrase_text(p) for p in record.phrases[1:]] == ["sign", "car"]
    assert (problems.num_seen, len(problems)) == (2, 0)
    assert "1 skipped: picture that nothing is said of" in problems.summary()


def test_objects_alone_give_regions_without_captions(tmp_path: Path) -> None:
    records = list(visual_genome(write(tmp_path, "attributes"), "all", Problems()))
    assert [r.captions for r in records] == [(), ()]
    assert records[0].regions[0] == RED_CAR


def test_files_are_read_in_parts_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(tmp_path, "region_descriptions", "attributes", "relationships")
    whole = list(visual_genome(root, "all", Problems()))
    monkeypatch.setattr(json_stream, "CHARACTERS", 7)
    assert list(visual_genome(root, "all", Problems())) == whole
    (root / "attributes.json").write_text(json.dumps(FILES["attributes"], indent=3) + "\n")
    assert list(visual_genome(root, "all", Problems())) == whole


@pytest.mark.parametrize(
    ("name", "list_name", "fields", "field", "reason"),
    [
        ("region_descriptions", "regions", {"phrase": " "}, "phrase", "empty"),
        ("region_descriptions", "regions", {"width": 0}, "box", "(421, 57, 421, 196) holds no"),
        ("objects", "objects", {"x": 800}, "box", "no pixel of the 800 x 600 picture"),
        (
            "relationships",
            "relationships",
            {"predicate": ""},
            "predicate",
            "'sign' '' 'car': empty",
        ),
    ],
)
def test_bad_entries_are_told_with_their_place(
    tmp_path: Path, name: str, list_name: str, fields: Any, field: str, reason: str
) -> None:
    root = write(tmp_path, name, **{name: edited(name, list_name, **fields)})
    problems = Problems(max_fraction=1)
    list(visual_genome(root, "all", problems))
    (problem,) = problems
    assert problem.source == f"{root / name}.json: image 1: {list_name}[0]"
    assert problem.field == field and reason in problem.reason


def test_a_relation_stays_where_a_box_is_bad(tmp_path: Path) -> None:
    bad = edited("relationships", "relationships", subject={**SIGN, "w": -3})
    problems = Problems(max_fraction=1)
    root = write(tmp_path, "relationships", relationships=bad)
    (record,) = visual_genome(root, "all", problems)
    assert record.captions == ("sign on car",) and len(problems) == 1
    assert [p.regions for p in record.phrases] == [(), (0,)]


def test_boxes_are_cut_to_the_picture(tmp_path: Path) -> None:
    changed = edited("objects", "objects", x=-5, w=900)
    record, _ = visual_genome(write(tmp_path, "objects", objects=changed), "all", Problems())
    assert record.regions[0].box == (0, 6, 800, 14)


def test_pictures_that_image_data_does_not_know_are_told(tmp_path: Path) -> None:
    changed = [*FILES["objects"], {"image_id": 99, "objects": []}]
    problems = Problems(max_fraction=1)
    list(visual_genome(write(tmp_path, "objects", objects=changed), "all", problems))
    assert [(p.source.split("objects")[-1], p.field) for p in problems] == [
        (".json: image 99", "image_id")
    ]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": [], "annotations": []}, r"objects\.json: must be a list of pictures, begins"),
        ([{"image_id": 1, "relationships": []}], r"objects\.json: \[0\]: objects: is missing"),
        (edited("objects", "objects", x="left"), r"objects\[0\]: entry: is of another format"),
        ([1], r"objects\.json: \[0\]: entry: is of another format"),
    ],
)
def test_another_format_is_fatal(tmp_path: Path, changed: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(visual_genome(write(tmp_path, "objects", objects=changed), "all", Problems()))


def test_a_file_cut_off_is_fatal(tmp_path: Path) -> None:
    path = write(tmp_path, "objects") / "objects.json"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(DataError, match=r"objects\.json: not JSON, or cut off"):
        list(visual_genome(tmp_path, "all", Problems()))


def test_no_annotations_and_an_unknown_split_name_the_choices(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"looked for region_descriptions\.json, attributes"):
        list(visual_genome(write(tmp_path), "all", Problems()))
    with pytest.raises(ConfigError, match="'train': choose from all"):
        list(visual_genome(tmp_path, "train", Problems()))


def test_parts_are_slices(tmp_path: Path) -> None:
    write(tmp_path, "objects")
    assert [record.id for record in read("visual_genome", tmp_path, "all[-1:]")] == ["2"]


VERSION_1 = {
    "image_data": [{"id": i["image_id"], **i} for i in IMAGES],
    "region_descriptions": [
        {
            "id": 1,
            "regions": [
                {
                    **{"id": 1382, "image": 1, "phrase": "the clock is  green "},
                    **{"x": 421, "y": 57, "width": 82, "height": 139},
                }
            ],
        },
        {"id": 2, "regions": []},
    ],
    "objects": [
        {"id": 1, "objects": [{"id": 10, "names": ["car"], "x": 5, "y": 6, "w": 70, "h": 8}]},
        {"id": 2, "objects": []},
    ],
    "attributes": [
        {
            "id": 1,
            "attributes": [
                {
                    **{"id": 10, "object_names": ["car"], "attributes": ["red", "parked"]},
                    **{"x": 5, "y": 6, "w": 70, "h": 8},
                },
                {"id": 11, "object_names": ["tree"], "x": 1, "y": 2, "w": 3, "h": 4},
            ],
        }
    ],
    "relationships": [
        {
            "id": 1,
            "relationships": [
                {
                    **{"id": 5, "predicate": "ON"},
                    "subject": {"id": 12, "name": "sign", "x": 90, "y": 91, "w": 20, "h": 21},
                    "object": {"id": 10, "name": "car", "x": 5, "y": 6, "w": 70, "h": 8},
                }
            ],
        }
    ],
}


def test_version_1_says_the_same_under_other_names(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "old").mkdir()
    names = ("region_descriptions", "objects", "attributes", "relationships")
    for image in VERSION_1["image_data"]:
        del image["image_id"]
    (new,) = visual_genome(write(tmp_path / "new", *names), "all", Problems(0))
    (old,) = visual_genome(write(tmp_path / "old", *names, **VERSION_1), "all", Problems(0))
    assert old.captions == new.captions == ("the clock is green", "sign on car")
    assert (old.id, old.regions, old.phrases) == (new.id, new.regions, new.phrases)


def test_parts_count_the_pictures_of_image_data_in_the_order_of_ids(tmp_path: Path) -> None:
    write(tmp_path, "region_descriptions", "objects", image_data=IMAGES[::-1])
    assert [r.id for r in read("visual_genome", tmp_path, "all", Problems(0))] == ["1"]
    (tmp_path / "region_descriptions.json").unlink()
    assert [r.id for r in read("visual_genome", tmp_path, "all", Problems(0))] == ["1", "2"]
    assert [r.id for r in read("visual_genome", tmp_path, "all[:1]", Problems(0))] == ["1"]
    assert [r.id for r in read("visual_genome", tmp_path, "all-coco[1:]", Problems(0))] == []


def test_bad_boxes_are_a_share_of_the_boxes(tmp_path: Path) -> None:
    bad = edited("objects", "objects", x="left")
    problems = Problems(max_fraction=0.5)
    first, _ = visual_genome(write(tmp_path, "objects", objects=bad), "all", problems)
    assert [region.label for region in first.regions] == ["tree"]
    assert "1 of 2 boxes are bad (50%): 1 entry" in problems.summary()
