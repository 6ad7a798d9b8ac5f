"""Pictures of Visual Genome that are pictures of COCO or Flickr30k, and one caption a picture."""

import json
from pathlib import Path
from typing import Any

import pytest

from intarsia.data.problems import Problems
from intarsia.data.readers import read
from intarsia.data.visual_genome import visual_genome
from intarsia.errors import ConfigError, DataError
from intarsia.types import Record

URL = "https://cs.stanford.edu/people/rak248/"
TRAINED, TESTED, OF_FLICKR, OWN = 2, 2405722, 2412112, 150461
IMAGES = [
    {"image_id": TRAINED, "coco_id": 77, "flickr_id": 8505158818},
    {"image_id": TESTED, "coco_id": 397133, "flickr_id": None},
    {"image_id": OF_FLICKR, "coco_id": None, "flickr_id": 36979},
    {"image_id": OWN, "coco_id": None, "flickr_id": None},
]
PHRASES = ["a red clock", "man riding a horse"]


def region(phrase: str, x: int) -> dict[str, Any]:
    return {
        "region_id": x,
        "image_id": 0,
        "phrase": phrase,
        "x": x,
        "y": 1,
        "width": 9,
        "height": 8,
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Visual Genome with COCO, Flickr30k and Flickr30k Entities beside it, as published."""
    folder = tmp_path / "visual_genome"
    pictures = [
        {**image, "url": f"{URL}VG_100K/{image['image_id']}.jpg", "width": 80, "height": 60}
        for image in IMAGES
    ]
    described = [
        {
            "id": image["image_id"],
            "regions": [region(text, i) for i, text in enumerate(PHRASES, start=1)],
        }
        for image in IMAGES
    ]
    relation = {"predicate": "ON", "subject": thing(1, "cup"), "object": thing(2, "table")}
    related = [{"image_id": image["image_id"], "relationships": [relation]} for image in IMAGES]
    put(folder / "image_data.json", pictures)
    put(folder / "region_descriptions.json", described)
    put(folder / "relationships.json", related)
    for image in IMAGES:
        put(folder / "VG_100K" / f"{image['image_id']}.jpg", "jpeg")
    put(tmp_path / "coco/annotations/captions_val2017.json", {"images": [{"id": 397133}]})
    listed = [{"filename": "36979.jpg", "split": "test"}, {"filename": "1.jpg", "split": "train"}]
    put(tmp_path / "flickr30k/dataset_flickr30k.json", {"images": listed})
    entities = tmp_path / "flickr30k_entities"
    put(entities / "flickr30k-images/1.jpg", "jpeg")
    put(entities / "train.txt", 1)
    sentences = "[/EN#7/people A man] waits .\nNobody else is there .\n"
    put(entities / "Sentences/1.txt", sentences, raw=True)
    xml = "<annotation><size><width>20</width><height>10</height></size><object><name>7</name>"
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
    put(entities / "Annotations/1.xml", f"{xml}{box}</annotation>", raw=True)
    return folder


def thing(key: int, name: str) -> dict[str, Any]:
    return {"object_id": key, "name": name, "synsets": [], "x": 1, "y": 1, "w": 5, "h": 5}


def put(path: Path, content: Any, *, raw: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if raw else json.dumps(content), encoding="utf-8")


def kept(root: Path, split: str) -> set[int]:
    return {int(record.id) for record in visual_genome(root, split, Problems(0))}


@pytest.mark.parametrize(
    ("split", "left_out"),
    [
        ("all", set()),
        ("all-coco", {TRAINED, TESTED}),
        ("all-coco_val2017", {TESTED}),
        ("all-flickr30k", {OF_FLICKR}),
        ("all-coco-flickr30k", {TRAINED, TESTED, OF_FLICKR}),
        ("joined-coco_val2017-flickr30k", {TESTED, OF_FLICKR}),
    ],
)
def test_pictures_of_other_data_sets_are_left_out_by_id(
    root: Path, split: str, left_out: set[int]
) -> None:
    assert kept(root, split) == {TRAINED, TESTED, OF_FLICKR, OWN} - left_out


def test_what_is_left_out_is_counted_and_is_no_problem(root: Path) -> None:
    problems = Problems(0)
    assert len(list(visual_genome(root, "all-coco-flickr30k", problems))) == 1
    assert len(problems) == 0  # its annotations are not "unknown", either
    assert "2 skipped: picture of coco; 1 skipped: picture of flickr30k" in problems.summary()


def test_instances_tell_the_pictures_of_coco_where_captions_do_not(root: Path) -> None:
    folder = root.parent / "coco" / "annotations"
    (folder / "captions_val2017.json").rename(folder / "instances_val2017.json")
    assert TESTED not in kept(root, "all-coco_val2017")


def test_joined_descriptions_are_one_caption_of_phrases(root: Path) -> None:
    record = next(visual_genome(root, "joined", Problems(0)))
    assert record.captions == ("a red clock, man riding a horse",)
    assert [record.phrase_text(phrase) for phrase in record.phrases] == PHRASES
    assert [record.regions[p.regions[0]].box[0] for p in record.phrases] == [1, 2]


def test_only_the_first_ten_descriptions_are_joined(root: Path) -> None:
    texts = [f"thing {i}" for i in range(1, 13)]
    path = root / "region_descriptions.json"
    described = json.loads(path.read_text())
    described[0]["regions"] = [region(text, i) for i, text in enumerate(texts, start=1)]
    put(path, described)
    record = next(visual_genome(root, "joined", Problems(0)))
    assert record.captions == (", ".join(texts[:10]),)
    assert [record.phrase_text(p) for p in record.phrases] == texts[:10]
    assert len(record.regions) == 12


def test_flickr30k_joins_in_with_its_boxes(root: Path) -> None:
    def added(split: str) -> Record:
        *_, last = read("visual_genome", root, split)
        return last

    whole = added("all-coco+flickr30k_entities")
    assert whole.id == "flickr30k/1"
    assert whole.captions == ("A man waits .", "Nobody else is there .")
    joined = added("joined-coco+flickr30k_entities")
    assert joined.captions == ("A man waits .",)
    (phrase,) = joined.phrases
    assert joined.phrase_text(phrase) == "A man"
    assert joined.regions[phrase.regions[0]].box == (0, 0, 9, 9)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("all-imagenet", "'imagenet': choose from coco, coco_SPLIT, flickr30k"),
        ("some-coco", "'some-coco': choose from all, joined, then perhaps -coco"),
        ("all+coco", r"'all\+coco': choose from all, joined"),
    ],
)
def test_unknown_splits_name_the_choices(root: Path, split: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        list(visual_genome(root, split, Problems()))


def test_ids_that_cannot_be_had_are_fatal(root: Path) -> None:
    with pytest.raises(DataError, match=r"coco/annotations/captions_val2014\.json: cannot be"):
        list(visual_genome(root, "all-coco_val2014", Problems()))
    listed = json.loads((root / "image_data.json").read_text(encoding="utf-8"))
    del listed[0]["coco_id"]
    put(root / "image_data.json", listed)
    with pytest.raises(DataError, match=r"image_data\.json: image 2: coco_id: is missing"):
        list(visual_genome(root, "all-coco", Problems()))


def test_parts_with_flickr30k_go_on_behind_the_pictures_of_visual_genome(root: Path) -> None:
    def ids(split: str) -> list[str]:
        return [record.id for record in read("visual_genome", root, split, Problems(0))]

    whole = ids("all+flickr30k_entities")
    assert whole == [*map(str, sorted([TRAINED, TESTED, OF_FLICKR, OWN])), "flickr30k/1"]
    for k in range(6):
        assert ids(f"all+flickr30k_entities[:{k}]") + ids(f"all+flickr30k_entities[{k}:]") == whole
        assert not set(ids(f"all-coco[:{k}]")) & set(ids(f"joined+flickr30k_entities[{k}:]"))
