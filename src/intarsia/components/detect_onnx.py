"""YOLOX and YOLOv8/YOLOv9 graphs in ONNX Runtime."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.ops import batched_nms, box_convert

from intarsia.components.detections import (
    COCO_80,
    THRESHOLD,
    best_first,
    local_source,
    reading,
)
from intarsia.errors import ConfigError, DataError, MissingExtraError
from intarsia.types import Region

STRIDES = (8, 16, 32)
GREY = 114  # what the models saw beside their pictures in training


class OnnxDetector:
    """A YOLO graph; its layout is told by the shape of its output, A being the number of cells.

    YOLOX: (1, A, 5 + classes), boxes relative to the cells (exported without
    ``decode_in_inference``, as is its default). YOLOv8 and v9: (1, 4 + classes, A), boxes in
    pixels. Cells are those of grids of stride 8, 16 and 32.

    Args:
        source: The file; a bare name is also looked for among the local models.
        threshold: Boxes with a lower score are left out.
        overlap: Of two boxes of a class with a greater IoU, the better one is kept.
        labels: Names of the classes; None = those in the file, else COCO's 80.

    Raises:
        DataError: The file cannot be read, or the layout is neither of the two.
        ConfigError: There are not as many labels as classes.
        MissingExtraError: ONNX Runtime is not installed.
    """

    def __init__(
        self,
        source: str,
        *,
        threshold: float = THRESHOLD,
        overlap: float = 0.65,
        labels: Sequence[str] | None = None,
    ) -> None:
        self._source, self._threshold, self._overlap = source, threshold, overlap
        self._path = Path(local_source(source))
        self._session = _session(self._path)
        self._input = self._session.get_inputs()[0]
        height, width = self._input.shape[2:]
        if not (isinstance(height, int) and isinstance(width, int)):
            raise DataError(
                f"detector {source!r}: the input is {self._input.shape}: export it with a fixed "
                "height and width"
            )
        self._size = (height, width)
        self._layout = _layout(self._session.get_outputs()[0].shape, self._size, source)
        self._labels = self._names(labels)

    def __call__(
        self, images: Sequence[Image.Image], texts: Sequence[Sequence[str]] | None = None
    ) -> list[list[Region]]:
        """The regions of each picture, best first; ``texts`` are not looked at."""
        return [self._one(image) for image in images]

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self._path.read_bytes())
        digest.update(repr((self._threshold, self._overlap, self._labels)).encode())
        return digest.hexdigest()[:16]

    def _names(self, labels: Sequence[str] | None) -> tuple[str, ...]:
        stored = self._session.get_modelmeta().custom_metadata_map.get("names")
        if labels is None and stored:
            with reading(self._source):
                labels = list(ast.literal_eval(stored).values())
        names = COCO_80 if labels is None else tuple(labels)
        if len(names) != self._layout.num_classes:
            raise ConfigError(
                f"detector {self._source!r}: {len(names)} labels for its "
                f"{self._layout.num_classes} classes: pass one for each"
            )
        return names

    def _one(self, image: Image.Image) -> list[Region]:
        centred = not self._layout.is_yolox
        pixels, frame = letterbox(image, self._size, centred=centred)
        tensor = pixels[:, :, ::-1] if self._layout.is_yolox else pixels / np.float32(255)
        batch = np.ascontiguousarray(tensor.transpose(2, 0, 1)[None], dtype=np.float32)
        (output, *_) = self._session.run(None, {self._input.name: batch})
        boxes, scores = self._layout.decode(torch.from_numpy(output[0]).float())
        best, classes = scores.max(dim=1)
        sure = best >= self._threshold
        boxes, best, classes = boxes[sure], best[sure], classes[sure]
        kept = batched_nms(boxes, best, classes, self._overlap)
        labels = [self._labels[label] for label in classes[kept].tolist()]
        return best_first(frame.undo(boxes[kept]), best[kept], labels)


@dataclass(frozen=True, slots=True)
class Frame:
    """Where :func:`letterbox` put a picture: its scales to the right and down, left and top."""

    scale: tuple[float, float]
    offset: tuple[int, int]

    def undo(self, boxes: Tensor) -> Tensor:
        """Boxes (R,4) of the model's input -> of the picture."""
        offset = boxes.new_tensor(self.offset).repeat(2)
        return (boxes - offset) / boxes.new_tensor(self.scale).repeat(2)


def letterbox(
    image: Image.Image, size: tuple[int, int], *, centred: bool
) -> tuple[NDArray[np.uint8], Frame]:
    """A picture scaled to fit (height, width), in its middle or top left corner, the rest grey."""
    height, width = size
    ratio = min(height / image.height, width / image.width)
    inner = max(int(image.width * ratio), 1), max(int(image.height * ratio), 1)
    offset = ((width - inner[0]) // 2, (height - inner[1]) // 2) if centred else (0, 0)
    canvas = Image.new("RGB", (width, height), (GREY, GREY, GREY))
    canvas.paste(image.resize(inner, Image.Resampling.BILINEAR), offset)
    scale = inner[0] / image.width, inner[1] / image.height
    return np.asarray(canvas), Frame(scale, offset)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a graph writes its boxes, for an input of ``size`` (height, width)."""

    is_yolox: bool
    num_classes: int
    size: tuple[int, int]

    def decode(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """The output for one picture -> boxes (A,4) in pixels of the input, scores (A,classes)."""
        if not self.is_yolox:
            return box_convert(output[:4].mT, "cxcywh", "xyxy"), output[4:].mT
        corners, strides = cells(self.size)
        centres = (output[:, :2] + corners) * strides
        boxes = torch.cat([centres, output[:, 2:4].exp() * strides], dim=1)
        return box_convert(boxes, "cxcywh", "xyxy"), output[:, 4:5] * output[:, 5:]


def cells(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Of every cell of the grids: (A,2) column and row, (A,1) stride."""
    corners, strides = [], []
    for stride in STRIDES:
        rows, columns = (torch.arange(side // stride) for side in size)
        corners.append(torch.cartesian_prod(rows, columns).flip(1).float())
        strides.append(torch.full((len(corners[-1]), 1), float(stride)))
    return torch.cat(corners), torch.cat(strides)


def _layout(shape: Sequence[Any], size: tuple[int, int], source: str) -> Layout:
    num_cells = len(cells(size)[0])
    if len(shape) == 3 and shape[1] == num_cells:
        return Layout(True, shape[2] - 5, size)
    if len(shape) == 3 and shape[2] == num_cells:
        return Layout(False, shape[1] - 4, size)
    raise DataError(
        f"detector {source!r}: the output is {shape}; for an input of {size[0]} x {size[1]} it "
        f"must be (1, {num_cells}, 5 + classes) as YOLOX or (1, 4 + classes, {num_cells}) as YOLOv8"
    )


def _session(path: Path) -> Any:
    try:
        runtime = import_module("onnxruntime")
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "detect") from error
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that spin while they wait take the cores from torch: half the speed of the whole.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with reading(str(path)):
        return runtime.InferenceSession(
            str(path), options, providers=runtime.get_available_providers()
        )
