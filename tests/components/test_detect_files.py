import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from intarsia.components.box_files import picture_of
from intarsia.components.detectors import load_detector
from intarsia.data.coco import coco
from intarsia.data.problems import Problems
from intarsia.errors import ConfigError, DataError
from intarsia.types import Record, Region

BLANK = np.zeros((40, 60, 3), np.uint8)
INSTANCES = {
    "images": [{"id": 110, "file_name": "000110.jpg"}, {"id": 7, "file_name": "000007.jpg"}],
    "categories": [{"id": 18, "name": "dog"}, {"id": 44, "name": "bottle"}],
    "annotations": [
        {"id": 1, "image_id": 110, "category_id": 18, "bbox": [2, 3, 10, 20]},
        {"id": 2, "image_id": 110, "category_id": 44, "bbox": [0, 0, 9, 9], "iscrowd": 1},
    ],
}
RESULTS = [
    {"image_id": 110, "category_id": 44, "bbox": [1, 2, 3, 4], "score": 0.4},
    {"image_id": 110, "category_id": 18, "bbox": [5, 6, 7, 8], "score": 0.8},
    {"image_id": 110, "category_id": 18, "bbox": [5, 6, 9, 9], "score": 0.1},
]
GENOME = [
    {
        "image_id": 2,
        "objects": [{"x": 4, "y": 5, "w": 6, "h": 7, "names": ["red car"], "object_id": 1}],
    }
]
ENTITIES = """<annotation><filename>345.jpg</filename>
<object><name>12</name><name>15</name>
 <bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>
<object><name>9</name><scene>0</scene><nobndbox>1</nobndbox></object></annotation>"""


def written(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def picture(record_id: str) -> Image.Image:
    return picture_of(Record(record_id, BLANK, ()))


@pytest.fixture
def results(tmp_path):
    names = written(tmp_path / "instances.json", INSTANCES)
    path = written(tmp_path / "results.json", RESULTS)
    return lambda **options: load_detector(f"file:{path}", categories=str(names), **options)


def test_coco_results_are_named_by_the_instances_file(results) -> None:
    assert results()([picture("110"), picture("7")]) == [
        [Region((5, 6, 12, 14), "dog", 0.8), Region((1, 2, 4, 6), "bottle", 0.4)],
        [],
    ]
    assert len(results(threshold=0.05)([picture("110")])[0]) == 3


def test_a_picture_is_known_by_its_file_even_when_pickled_or_opened_by_hand(
    results, tmp_path
) -> None:
    path = tmp_path / "000110.jpg"
    Image.fromarray(BLANK).save(path)
    known = picture_of(Record("a", path, ()))
    for image in (known, pickle.loads(pickle.dumps(known)), known.copy(), Image.open(path)):
        assert [region.label for region in results()([image])[0]] == ["dog", "bottle"]


def test_an_unknown_picture_is_named(results) -> None:
    with pytest.raises(DataError, match="no boxes of the picture '111'"):
        results()([picture("111")])
    with pytest.raises(DataError, match=r"picture_of\(record\)"):
        results()([Image.fromarray(BLANK)])


def test_coco_instances_are_those_of_the_reader(tmp_path) -> None:
    folder = tmp_path / "annotations"
    folder.mkdir()
    path = written(folder / "instances_val.json", INSTANCES)
    (tmp_path / "val").mkdir()
    for item in INSTANCES["images"]:
        Image.fromarray(BLANK).save(tmp_path / "val" / item["file_name"])
    records = list(coco(tmp_path, "val", Problems()))
    found = load_detector(f"file:{path}")([picture_of(record) for record in records])
    assert found == [list(record.regions) for record in records]
    assert [len(regions) for regions in found] == [0, 1]


def test_visual_genome_objects(tmp_path) -> None:
    detector = load_detector(f"file:{written(tmp_path / 'objects.json', GENOME)}")
    assert detector([picture("2")]) == [[Region((4, 5, 10, 12), "red car", 1.0)]]
    assert detector([picture("2.jpg")]) == detector([picture("2")])
    ((image,), old) = GENOME, tmp_path / "old.json"
    one = {"id" if name == "image_id" else name: value for name, value in image.items()}
    oldest = load_detector(f"file:{written(old, [one])}")  # of version 1.0
    assert oldest([picture("2")]) == detector([picture("2")])


@pytest.mark.parametrize("kind", ["coco", "entities"])
def test_boxes_fit_a_scaled_copy_and_no_other_picture(kind: str, tmp_path) -> None:
    """BLANK is 60 x 40; the file's picture is twice that, or of another shape."""
    for width, height in ((120, 80), (60, 40), (100, 100)):
        if kind == "coco":
            image = {"id": 7, "file_name": "7.jpg", "width": width, "height": height}
            boxes = [{"id": 1, "image_id": 7, "category_id": 18, "bbox": [20, 30, 40, 20]}]
            content = {**INSTANCES, "images": [image], "annotations": boxes}
            place = written(tmp_path / f"{width}.json", content)
        else:
            place = tmp_path / str(width)
            place.mkdir()
            size = f"<size><width>{width}</width><height>{height}</height></size>"
            corners = zip(("xmin", "ymin", "xmax", "ymax"), (21, 31, 60, 50), strict=True)
            box = "".join(f"<{name}>{value}</{name}>" for name, value in corners)
            thing = f"<object><name>dog</name><bndbox>{box}</bndbox></object>"
            written(place / "7.xml", f"<annotation>{size}{thing}</annotation>")
        detector = load_detector(f"file:{place}")
        if width == 100:
            with pytest.raises(DataError, match=r"7: boxes of a picture of 100 x 100 pixels; this"):
                detector([picture("7")])
        else:
            half = 2 if width == 120 else 1
            expected = (20 / half, 30 / half, 60 / half, 50 / half)
            assert detector([picture("7")]) == [[Region(expected, "dog", 1.0)]]


def test_flickr30k_entities_count_pixels_from_one(tmp_path) -> None:
    written(tmp_path / "345.xml", ENTITIES)
    detector = load_detector(f"file:{tmp_path}")
    box = (0, 1, 30, 40)
    assert (
        detector([picture("345"), picture("345.jpg")])
        == [[Region(box, "12"), Region(box, "15")]] * 2
    )


def test_broken_files_are_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match="categories=INSTANCES_JSON"):
        load_detector(f"file:{written(tmp_path / 'results.json', RESULTS)}")
    unknown = [{**RESULTS[0], "category_id": 3}]
    names = str(written(tmp_path / "instances.json", INSTANCES))
    with pytest.raises(DataError, match="instances.json has no image 110 or no category 3"):
        load_detector(f"file:{written(tmp_path / 'bad.json', unknown)}", categories=names)
    with pytest.raises(DataError, match="lacks the field 'w'"):
        short = [{"image_id": 1, "objects": [{"x": 1, "y": 1, "names": ["cup"]}]}]
        load_detector(f"file:{written(tmp_path / 'objects.json', short)}")
    with pytest.raises(DataError, match="neither COCO"):
        load_detector(f"file:{written(tmp_path / 'three.json', 3)}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no .xml file"):
        load_detector(f"file:{tmp_path / 'empty'}")
    written(tmp_path / "1.xml", "<annotation>")
    with pytest.raises(DataError, match="1.xml: not XML"):
        load_detector(f"file:{tmp_path}")([picture("1")])


def test_the_fingerprint_is_that_of_the_boxes(results, tmp_path) -> None:
    before = results().fingerprint()
    assert before == results().fingerprint() != results(threshold=0.2).fingerprint()
    written(tmp_path / "results.json", RESULTS[:1])
    assert results().fingerprint() != before
