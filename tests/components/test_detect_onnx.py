import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from intarsia.components.detect_onnx import cells, letterbox
from intarsia.components.detections import COCO_80
from intarsia.components.detectors import load_detector
from intarsia.data.images import load_image
from intarsia.data.readers import read
from intarsia.errors import ConfigError, DataError
from intarsia.runtime import data_root, models_root

pytest.importorskip("onnxruntime")

SIDE, NUM_CELLS = 96, 144 + 36 + 9
YOLOX = models_root() / "yolox_nano.onnx"
BLANK = Image.new("RGB", (SIDE, SIDE))


def varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def field(number: int, value: int | str | bytes) -> bytes:
    """One field of a protobuf message, the format of ONNX files."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def tensor(name: str, value: np.ndarray) -> bytes:
    kind = {"float32": 1, "int64": 7}[str(value.dtype)]
    dims = b"".join(field(1, size) for size in value.shape)
    return field(5, dims + field(2, kind) + field(8, name) + field(9, value.tobytes()))


def node(op: str, inputs: str, output: str, **attributes: int) -> bytes:
    body = b"".join(field(1, name) for name in inputs.split()) + field(2, output) + field(4, op)
    for name, value in attributes.items():
        body += field(5, field(1, name) + field(3, value) + field(20, 2))
    return field(1, body)


def port(number: int, name: str, shape: tuple[int, ...]) -> bytes:
    dims = b"".join(field(1, field(1, size)) for size in shape)
    return field(number, field(1, name) + field(2, field(1, field(1, 1) + field(2, dims))))


def save_graph(path: Path, output: np.ndarray, light: np.ndarray, names: str = "") -> str:
    """A graph that answers ``output`` + ``light`` * (the greatest value of the first channel)."""
    graph = (
        node("Gather", "images zero", "channel", axis=1)
        + node("ReduceMax", "channel", "brightest", keepdims=0)
        + node("Mul", "brightest light", "lit")
        + node("Add", "lit constant", "output")
        + field(2, "tiny")
        + tensor("zero", np.array(0, np.int64))
        + tensor("light", light.astype(np.float32))
        + tensor("constant", output.astype(np.float32))
        + port(11, "images", (1, 3, SIDE, SIDE))
        + port(12, "output", output.shape)
    )
    model = field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 13))
    if names:
        model += field(14, field(1, "names") + field(2, names))
    path.write_bytes(model)
    return f"onnx:{path}"


def test_yolov8_boxes_scores_and_suppression(tmp_path) -> None:
    output, light = np.zeros((2, 1, 84, NUM_CELLS))
    output[0, :4, :5] = np.array(
        [[32, 32, 16, 8], [33, 32, 16, 8], [33, 32, 16, 8], [10, 12, 4, 4], [50, 50, 8, 8]]
    ).T
    output[0, 4 + 16, 0] = 0.6  # a dog
    output[0, 4 + 16, 1] = 0.8  # the same dog, surer
    output[0, 4 + 15, 2] = 0.7  # a cat in its place stays
    output[0, 4 + 79, 3] = 0.2  # too unsure
    light[0, 4, 4] = 1.0  # a person, as sure as the first channel (red, 0 to 1) is bright
    detector = load_detector(save_graph(tmp_path / "v8.onnx", output, light))
    red = Image.new("RGB", (SIDE, SIDE), (229, 0, 0))
    (found,) = detector([red])
    assert [region.label for region in found] == ["person", "dog", "cat"]
    assert [region.score for region in found] == pytest.approx([229 / 255, 0.8, 0.7])
    assert found[0].box == (46, 46, 54, 54) and found[1].box == (25, 28, 41, 36)
    low = load_detector(f"onnx:{tmp_path / 'v8.onnx'}", threshold=0.1)
    assert [region.label for region in low([BLANK])[0]] == ["dog", "cat", "toothbrush"]
    loose = load_detector(f"onnx:{tmp_path / 'v8.onnx'}", overlap=0.95)
    assert [region.label for region in loose([BLANK])[0]] == ["dog", "cat", "dog"]
    assert len({d.fingerprint() for d in (detector, low, loose)}) == 3


def test_yolox_boxes_are_relative_to_their_cells(tmp_path) -> None:
    rng = np.random.default_rng(0)
    output, light = rng.normal(size=(1, NUM_CELLS, 7)), np.zeros((1, NUM_CELLS, 7))
    output[..., 4:] = rng.uniform(size=(1, NUM_CELLS, 3))
    output[0, 150, 4:] = [0, 0, 1]
    light[0, 150, 4] = 1 / 255  # as sure as the first channel (blue, 0 to 255) is bright
    spec = save_graph(tmp_path / "x.onnx", output, light)
    detector = load_detector(spec, labels=["cup", "jug"], overlap=1.0, threshold=0.0)
    (found,) = detector([Image.new("RGB", (SIDE, SIDE), (0, 0, 255))])
    expected, row = [], 0
    for stride in (8, 16, 32):
        for y in range(SIDE // stride):
            for x in range(SIDE // stride):
                dx, dy, w, h, sure, *classes = output[0, row]
                sure = 1.0 if row == 150 else sure
                cx, cy = (x + dx) * stride, (y + dy) * stride
                w, h = np.exp([w, h]) * stride
                label = "cup" if classes[0] > classes[1] else "jug"
                box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
                expected.append((sure * max(classes), label, box))
                row += 1
    expected.sort(key=lambda item: -item[0])
    assert [region.label for region in found] == [label for _, label, _ in expected]
    np.testing.assert_allclose([r.score for r in found], [s for s, _, _ in expected], rtol=1e-5)
    np.testing.assert_allclose(
        [r.box for r in found], [b for *_, b in expected], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("size", [(120, 40), (40, 120), (17, 64), (1, 500)])
def test_a_letterbox_is_undone(size: tuple[int, int], centred: bool) -> None:
    image = Image.new("RGB", size, (200, 10, 10))
    pixels, frame = letterbox(image, (64, 96), centred=centred)
    assert pixels.shape == (64, 96, 3)
    rows, columns = np.nonzero((pixels != 114).any(axis=2))
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert box[2] - box[0] == 96 or box[3] - box[1] == 64
    assert centred or box[:2] == [0, 0]
    assert abs((box[0] + box[2]) - 96) <= 1 or not centred
    whole = frame.undo(torch.tensor([box], dtype=torch.float64))
    torch.testing.assert_close(whole, torch.tensor([[0, 0, *size]], dtype=torch.float64))


def test_the_class_names_come_from_the_file_or_the_caller(tmp_path) -> None:
    output, light = np.zeros((2, 1, 6, NUM_CELLS))
    output[0, :, 0] = [32, 32, 8, 8, 0.1, 0.9]
    path = tmp_path / "two.onnx"
    spec = save_graph(path, output, light)
    with pytest.raises(ConfigError, match="80 labels for its 2 classes"):
        load_detector(spec)
    own = load_detector(spec, labels=["a", "b"])([BLANK])
    stored = load_detector(save_graph(path, output, light, "{0: 'cup', 1: 'jug'}"))([BLANK])
    assert own[0][0].label == "b" and stored[0][0].label == "jug"


def test_an_unknown_layout_is_told(tmp_path) -> None:
    output = np.zeros((1, 3 * NUM_CELLS, 85))
    with pytest.raises(DataError, match=r"\[1, 567, 85\].*\(1, 189, 5 \+ classes\) as YOLOX"):
        load_detector(save_graph(tmp_path / "v5.onnx", output, output))
    (tmp_path / "not.onnx").write_bytes(struct.pack("4f", 1, 2, 3, 4))
    with pytest.raises(DataError, match="not.onnx.*cannot be loaded"):
        load_detector(f"onnx:{tmp_path / 'not.onnx'}")


def test_the_classes_are_cocos() -> None:
    assert len(set(COCO_80)) == 80 and (COCO_80[0], COCO_80[79]) == ("person", "toothbrush")
    assert len(cells((416, 416))[0]) == 3549


@pytest.mark.skipif(
    not (YOLOX.is_file() and (data_root() / "coco").is_dir()),
    reason=f"needs {YOLOX} and the COCO photos of the data folder",
)
def test_a_real_yolox_finds_what_people_have_marked() -> None:
    records = list(read("coco", split="train2017[:8]"))
    found = load_detector("onnx:yolox_nano.onnx")([load_image(r.image) for r in records])
    hits = total = 0
    for record, regions in zip(records, found, strict=True):
        for truth in record.regions:
            x0, y0, x1, y1 = truth.box
            if (x1 - x0) * (y1 - y0) > 96**2:
                total += 1
                hits += any(
                    r.label == truth.label and overlap(r.box, truth.box) > 0.5 for r in regions
                )
    assert total > 10 and hits / total > 0.5


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return both / (sum(areas) - both)
