"""Photos that are not those which boxes were drawn in, in the real formats of every reader.

Each picture is black with one white rectangle, which its box holds; so wherever the box ends up,
its pixels say whether it is right.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from intarsia.data.images import TURNS, load_image
from intarsia.data.problems import Problems
from intarsia.data.readers import read
from intarsia.errors import DataError
from intarsia.types import Record

SIZE = (120, 80)
BOX = (12, 8, 48, 24)
XYWH = [12, 8, 36, 16]


def drawing() -> Image.Image:
    image = Image.new("RGB", SIZE)
    image.paste("white", BOX)
    return image


def save(path: Path, image: Image.Image, orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif.tobytes(), lossless=True)
    return path


def put(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def coco(root: Path) -> tuple[str, str, Path]:
    return "coco", "val2017", _coco(root / "annotations/instances_val2017.json", root / "val2017")


def _coco(path: Path, folder: Path) -> Path:
    images = [{"id": 7, "file_name": "7.png", "width": SIZE[0], "height": SIZE[1]}]
    boxes = [{"id": 1, "image_id": 7, "category_id": 1, "bbox": XYWH, "iscrowd": 0}]
    put(path, {"images": images, "categories": [{"id": 1, "name": "dog"}], "annotations": boxes})
    return folder / "7.png"


def panoptic(root: Path) -> tuple[str, str, Path]:
    picture = _coco(path := root / "annotations/panoptic_val2017.json", root / "val2017")
    content = json.loads(path.read_text())
    segment = {"id": 5, "category_id": 1, "bbox": XYWH, "iscrowd": 0}
    content["annotations"] = [{"image_id": 7, "file_name": "7.png", "segments_info": [segment]}]
    put(path, content)
    return "coco", "panoptic_val2017", picture


def refcoco(root: Path) -> tuple[str, str, Path]:
    sentences = [{"sent": "the dog"}]
    ref = {"ref_id": 0, "ann_id": 1, "image_id": 7, "split": "val", "sentences": sentences}
    put(root / "refs(unc).json", [ref])
    return "refcoco", "val", _coco(root / "instances.json", root / "train2014")


def visual_genome(root: Path) -> tuple[str, str, Path]:
    where = {"url": "https://x/VG_100K/7.png", "width": SIZE[0], "height": SIZE[1]}
    put(root / "image_data.json", [{"image_id": 7, **where}])
    box = dict(zip(("x", "y", "width", "height"), XYWH, strict=True))
    region = {"region_id": 1, "phrase": "the dog", **box}
    put(root / "region_descriptions.json", [{"id": 7, "regions": [region]}])
    return "visual_genome", "all", root / "VG_100K" / "7.png"


def entities(root: Path) -> tuple[str, str, Path]:
    """Pixels are counted from 1 and both ends belong to the box."""
    put(root / "test.txt", "7\n")
    put(root / "Sentences/7.txt", "[/EN#1/animals The dog] waits .\n")
    corners = zip(("xmin", "ymin", "xmax", "ymax"), (13, 9, 48, 24), strict=True)
    box = "".join(f"<{name}>{value}</{name}>" for name, value in corners)
    size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height></size>"
    thing = f"<object><name>1</name><bndbox>{box}</bndbox></object>"
    put(root / "Annotations/7.xml", f"<annotation>{size}{thing}</annotation>")
    return "flickr30k_entities", "test", root / "flickr30k-images" / "7.jpg"


READERS = [coco, panoptic, refcoco, visual_genome, entities]
Layout = Callable[[Path], tuple[str, str, Path]]


def read_one(layout: Layout, root: Path, image: Image.Image, orientation: int = 1) -> tuple:
    name, split, path = layout(root)
    save(path, image, orientation)
    problems = Problems(1.0)
    (record,) = read(name, root, split, problems)
    return record, problems, (name, root, split)


def assert_box_is_white(record: Record) -> None:
    """Of the picture as it is shown, white is in the box and nowhere else."""
    pixels = np.asarray(load_image(record.image)).mean(2)
    (region,) = record.regions
    x0, y0, x1, y1 = region.box
    inside = np.zeros(pixels.shape, dtype=bool)
    inside[round(y0) : round(y1), round(x0) : round(x1)] = True
    assert (pixels[inside] > 128).mean() > 0.95 and (pixels[~inside] > 128).mean() < 0.01


@pytest.mark.parametrize("layout", READERS)
def test_a_picture_of_the_annotated_size_keeps_its_boxes(layout: Layout, tmp_path: Path) -> None:
    record, problems, _ = read_one(layout, tmp_path, drawing())
    assert record.regions[0].box == BOX and record.size == SIZE
    assert_box_is_white(record)
    assert "skipped" not in problems.summary() and not problems


@pytest.mark.parametrize("layout", READERS)
@pytest.mark.parametrize("size", [(240, 160), (60, 40), (90, 60)])
def test_boxes_of_a_scaled_copy_are_scaled_and_counted(
    layout: Layout, size: tuple[int, int], tmp_path: Path
) -> None:
    record, problems, _ = read_one(layout, tmp_path, drawing().resize(size, 0))
    factor = size[0] / SIZE[0]
    assert record.regions[0].box == pytest.approx([side * factor for side in BOX])
    assert record.size == size
    assert_box_is_white(record)
    assert "1 skipped: picture of another size than annotated" in problems.summary()


@pytest.mark.parametrize("layout", READERS)
@pytest.mark.parametrize("size", [(100, 100), (80, 120)])
def test_another_picture_is_refused(layout: Layout, size: tuple[int, int], tmp_path: Path) -> None:
    record, problems, (name, root, split) = read_one(layout, tmp_path, drawing().resize(size, 0))
    assert record.regions == () and all(phrase.regions == () for phrase in record.phrases)
    (problem,) = problems
    assert problem.field == "size" and problem.reason == (
        f"{size[0]} x {size[1]} pixels, but its boxes were drawn in 120 x 80: not a scaled copy"
    )
    with pytest.raises(DataError, match=r"1 of 1 records are bad .*: size: .* drawn in 120 x 80"):
        read(name, root, split)


@pytest.mark.parametrize("layout", READERS)
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_of_the_pixels_as_stored_are_turned_with_them(
    layout: Layout, orientation: int, tmp_path: Path
) -> None:
    """COCO's annotators saw its files without the turn that their EXIF data ask for."""
    record, problems, _ = read_one(layout, tmp_path, drawing(), orientation)
    assert record.size == (80, 120)
    assert_box_is_white(record)
    assert "1 skipped: picture turned by its EXIF data" in problems.summary()


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("factor", [1, 2])
def test_boxes_of_the_picture_as_shown_stay(orientation: int, factor: int, tmp_path: Path) -> None:
    """A copy that is stored turned and shown upright, as phones store them."""
    stored = drawing().resize((120 * factor, 80 * factor), 0)
    back = {5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    record, problems, _ = read_one(coco, tmp_path, stored.transpose(TURNS[back]), orientation)
    assert record.regions[0].box == pytest.approx([factor * side for side in BOX])
    assert record.size == (120 * factor, 80 * factor)
    assert_box_is_white(record)
    assert ("another size" in problems.summary()) == (factor == 2)


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_a_turn_that_the_size_does_not_tell_is_refused(orientation: int, tmp_path: Path) -> None:
    record, problems, _ = read_one(coco, tmp_path, drawing(), orientation)
    assert record.regions == ()
    (problem,) = problems
    assert problem.reason == (
        f"120 x 80 pixels, turned by EXIF orientation {orientation}, but its boxes were drawn in "
        "120 x 80: no telling which way"
    )


def test_an_annotation_without_a_size_is_counted(tmp_path: Path) -> None:
    _, _, path = coco(tmp_path)
    save(path, drawing())
    annotations = tmp_path / "annotations/instances_val2017.json"
    content = json.loads(annotations.read_text())
    del content["images"][0]["width"]
    put(annotations, content)
    problems = Problems(0.0)
    (record,) = read("coco", tmp_path, "val2017", problems)
    assert record.regions[0].box == BOX
    assert "1 skipped: picture with boxes whose annotated size is not known" in problems.summary()


def test_captions_alone_do_not_ask_for_a_size(tmp_path: Path) -> None:
    _, _, path = coco(tmp_path)
    save(path, drawing().resize((224, 224)))
    (tmp_path / "annotations/instances_val2017.json").unlink()
    images = [{"id": 7, "file_name": "7.png", "width": 120, "height": 80}]
    said = [{"id": 1, "image_id": 7, "caption": "A dog."}]
    put(tmp_path / "annotations/captions_val2017.json", {"images": images, "annotations": said})
    (record,) = read("coco", tmp_path, "val2017", Problems(0.0))
    assert record.captions == ("A dog.",) and record.size is None
