import json
from dataclasses import replace

import pytest
from PIL import Image

from intarsia.data.problems import Problems
from intarsia.data.table import write_table
from intarsia.errors import ConfigError, DataError
from intarsia.evaluation.blind import TEXT_ONLY
from intarsia.model import load_model
from intarsia.suite.plan import Plan, Source, Task, make_plan


def protocols(plan: Plan) -> dict[str, str]:
    return {task.protocol: f"{task.data} {task.split}" for task in plan.tasks}


@pytest.fixture
def coco(tmp_path, records):
    """Two pictures with boxes, no captions."""
    folder = tmp_path / "coco"
    (folder / "val2017").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images, annotations = [], []
    names = sorted({region.label for record in records[:2] for region in record.regions})
    for key, record in enumerate(records[:2]):
        name = f"{key}.png"
        Image.fromarray(record.image).save(folder / "val2017" / name)
        images.append({"id": key, "file_name": name, "width": 112, "height": 112})
        for region in record.regions:
            x0, y0, x1, y1 = region.box
            annotations.append(
                {"id": len(annotations), "image_id": key, "bbox": [x0, y0, x1 - x0, y1 - y0]}
                | {"category_id": names.index(region.label), "iscrowd": 0}
            )
    data = {"images": images, "annotations": annotations}
    data["categories"] = [{"id": i, "name": name} for i, name in enumerate(names)]
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(data))
    return tmp_path


def test_scenes_allow_every_protocol_on_records(tmp_path):
    plan = make_plan(tmp_path, ["scenes:test[:4]"])
    assert protocols(plan) == dict.fromkeys(
        (
            *("retrieval", "negatives", "swaps", "pointing", "grounding"),
            *("region-retrieval", "boxes-instances-roi"),
        ),
        "scenes test[:4]",
    )
    assert not plan.skipped


@pytest.mark.parametrize(("name", "captions"), [("coco-karpathy", "all"), ("coco", "5")])
def test_captions_count_as_published(name, captions, coco, records):
    """Seven captions a picture: all of Karpathy's test set, of val2017 the first five."""
    folder = coco / "coco"
    said = [[f"A picture {i} {j}." for j in range(7)] for i in range(2)]
    (folder / "val2014").mkdir()
    entries = []
    for i, texts in enumerate(said):
        Image.fromarray(records[i].image).save(folder / "val2014" / f"{i}.png")
        entry = {"filepath": "val2014", "filename": f"{i}.png", "cocoid": i, "split": "test"}
        entries.append(entry | {"sentences": [{"raw": text} for text in texts]})
    (folder / "dataset_coco.json").write_text(json.dumps({"images": entries}))
    instances = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    rows = [{"image_id": i, "caption": text} for i, texts in enumerate(said) for text in texts]
    content = {"images": instances["images"], "annotations": rows}
    (folder / "annotations" / "captions_val2017.json").write_text(json.dumps(content))
    (task,) = (t for t in make_plan(coco, [name]).tasks if t.protocol == "retrieval")
    found = task.evaluate(load_model("scenes-clip"), task.items, Problems(0.0))
    assert found.of("retrieval") == f"retrieval ({captions} captions)"
    assert found.counted["captions_left_out"] == (0 if captions == "all" else 4)


def test_an_empty_root_says_what_is_missing(tmp_path):
    plan = make_plan(tmp_path)
    assert not plan.tasks
    reasons = {skip.data: skip.reason for skip in plan.skipped}
    assert str(tmp_path / "flickr8k") in reasons["flickr8k"]
    assert str(tmp_path / "aro") in reasons["aro"]


def test_what_the_records_lack_is_skipped_with_its_reason(coco):
    plan = make_plan(coco)
    assert set(protocols(plan)) == {"grounding", "region-retrieval", "boxes-instances-roi"}
    reasons = {skip.protocol: skip.reason for skip in plan.skipped if "coco" in skip.data}
    assert reasons["retrieval"] == "none of 2 records has captions"
    assert "panoptic_val2017" in reasons["boxes-clipself-roi, boxes-fineclip-roi"]


def test_a_benchmark_without_pictures_is_skipped(tmp_path):
    (tmp_path / "sugarcrepe").mkdir()
    for reason in (str(tmp_path / "coco/val2017"), "add_att.json"):
        reasons = {skip.protocol: skip.reason for skip in make_plan(tmp_path).skipped}
        assert reason in reasons["sugarcrepe"]
        with pytest.raises(DataError, match=f"asked of sugarcrepe: .*{reason}"):
            make_plan(tmp_path, ["sugarcrepe"])
        (tmp_path / "coco/val2017").mkdir(parents=True, exist_ok=True)


def test_folders_of_classes_are_named_and_probed(tmp_path, records):
    for split in ("val", "train"):
        for i, record in enumerate(records[:4]):
            folder = tmp_path / split / f"class {i % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(record.image).save(folder / f"{i}.png")
    splits = ("", ":val[:3]")
    plan = make_plan(tmp_path, [f"image_folder{split}@{tmp_path}" for split in splits])
    assert [task.protocol for task in plan.tasks] == ["zero-shot", "probe"] * 2
    assert len(plan.tasks[0].given) == 4 and len(plan.tasks[2].given) == 3
    assert all(task.inspection for task in plan.tasks)
    with pytest.raises(DataError, match="unknown split"):
        make_plan(tmp_path, [f"image_folder:test@{tmp_path}"])


def test_classes_that_cannot_be_told_apart_are_skipped(tmp_path):
    for name in ("hot_dog", "hot-dog"):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "val" / name / "1.png")
    with pytest.raises(DataError, match="'hot-dog' and 'hot_dog' have the same sentences"):
        make_plan(tmp_path, [f"image_folder@{tmp_path}"])


def test_data_of_one_name_at_several_places_are_told_apart(tmp_path, records):
    for name, some in (("a", records[:2]), ("b", records[2:4])):
        write_table(tmp_path / f"{name}.lance", iter(some), Problems())
    places = [f"table@{tmp_path / name}.lance" for name in "ab"]
    plan = make_plan(tmp_path, places)
    names = [str(task) for task in plan.tasks]
    assert len(set(names)) == len(names)
    assert "retrieval on table a.lance test" in names and "retrieval on table b.lance test" in names
    assert {str(task) for task in make_plan(tmp_path, places[:1]).tasks} >= {
        "retrieval on table test"
    }
    with pytest.raises(ConfigError, match="is asked for twice"):
        make_plan(tmp_path, [places[0], places[0]])
    (tmp_path / "again").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="is asked for twice"):
        make_plan(tmp_path, [places[0], f"table@{tmp_path / 'again' / 'a.lance'}"])


def test_the_key_is_of_everything_that_is_asked(records):
    def key(*items, protocol="retrieval"):
        return Task(protocol, "scenes", "test", list(items), lambda *_: None).key

    first = records[0]
    assert key(first) == key(replace(first))
    for other in (
        key(first, protocol="negatives"),
        key(first, records[1]),
        key(replace(first, captions=("another",))),
        key(replace(first, regions=())),
        key(replace(first, image=records[1].image)),
    ):
        assert other != key(first)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scans", "unknown data set 'scans'"),
        ("table", "write table@PATH"),
        ("image_folder", "write image_folder@PATH"),
    ],
)
def test_what_is_no_data_set(text, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        Source.parse(text, tmp_path)


@pytest.fixture
def flickr8k(tmp_path, records):
    """Two training pictures and another for development."""
    folder = tmp_path / "flickr8k"
    (folder / "Images").mkdir(parents=True)
    rows = ["image,caption"]
    for key, record in enumerate(records[:3]):
        Image.fromarray(record.image).save(folder / "Images" / f"{key}.png")
        rows += [f'{key}.png,"{caption}"' for caption in record.captions]
    (folder / "captions.txt").write_text("\n".join(rows))
    (folder / "Flickr_8k.trainImages.txt").write_text("0.png\n1.png\n")
    (folder / "Flickr_8k.devImages.txt").write_text("2.png\n")
    return tmp_path


def test_flickr8k_teaches_by_default_whatever_is_evaluated(flickr8k, records):
    plan = make_plan(flickr8k, ["scenes:test[:2]"])
    assert str(plan.lessons) == "captions of flickr8k train"
    assert plan.lessons.pictures == tuple(record.captions for record in records[:2])
    assert {task.protocol for task in plan.tasks if task.blind} == {"negatives", "swaps"}
    named = make_plan(flickr8k, ["scenes:test[:2]"], "flickr8k:dev").lessons
    assert named.pictures == (records[2].captions,)
    elsewhere = make_plan(flickr8k / "flickr8k", ["flickr8k:dev@" + str(flickr8k / "flickr8k")])
    assert elsewhere.lessons is None and elsewhere.tasks


def test_lessons_that_cannot_be_read(flickr8k):
    (flickr8k / "flickr8k" / "Flickr_8k.trainImages.txt").unlink()
    plan = make_plan(flickr8k, ["scenes:test[:2]"])
    assert plan.lessons is None and plan.skipped[-1].protocol == TEXT_ONLY
    with pytest.raises(DataError, match="trainImages"):
        make_plan(flickr8k, ["scenes:test[:2]"], "flickr8k")
    with pytest.raises(ConfigError, match="unknown data set 'flickr9k'"):
        make_plan(flickr8k, ["scenes:test[:2]"], "flickr9k")


def test_own_files_are_found_by_pattern_and_split(tmp_path, records):
    rows = [json.dumps({"image": "0.png", "caption": "a star"})]
    Image.fromarray(records[0].image).save(tmp_path / "0.png")
    (tmp_path / "val.jsonl").write_text("\n".join(rows))
    plan = make_plan(tmp_path, [f"file:val@{tmp_path}/{{split}}.jsonl"])
    assert "retrieval" in protocols(plan)
