"""From a spec to a detector: the one place that knows all kinds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from PIL import Image

from intarsia.components.box_files import BoxFile
from intarsia.components.detect_onnx import OnnxDetector
from intarsia.components.detect_torch import (
    HuggingFaceDetector,
    TorchvisionDetector,
    ZeroShotDetector,
)
from intarsia.errors import ConfigError, unknown
from intarsia.types import Region


class Detector(Protocol):
    """What finds regions in pictures."""

    def __call__(
        self, images: Sequence[Image.Image], texts: Sequence[Sequence[str]] | None = None
    ) -> list[list[Region]]:
        """The regions of each RGB picture, in its pixels, best first.

        ``texts`` holds for each picture what to look for, for those detectors that must be told.
        """
        ...

    def fingerprint(self) -> str:
        """A hash of all that the regions depend on, apart from the pictures and texts."""
        ...


_KINDS: dict[str, Callable[..., Detector]] = {
    "hf": HuggingFaceDetector,
    "zeroshot": ZeroShotDetector,
    "torchvision": TorchvisionDetector,
    "onnx": OnnxDetector,
    "file": BoxFile,
}
FORMS = (
    *("hf:NAME_OR_FOLDER", "zeroshot:NAME_OR_FOLDER", "torchvision:NAME[:FILE]"),
    *("onnx:FILE", "file:PATH"),
)


def load_detector(spec: str, **options: Any) -> Detector:
    """The detector that ``spec`` names.

    ``hf:NAME_OR_FOLDER``: an object detector of transformers.
    ``zeroshot:NAME_OR_FOLDER``: a zero-shot one, which looks for given texts.
    ``torchvision:NAME[:FILE]``: one of torchvision's, with a state dict of one's own.
    ``onnx:FILE``: a YOLOX, YOLOv8 or YOLOv9 graph.
    ``file:PATH``: no model, but boxes in the files of COCO, Visual Genome or Flickr30k Entities.

    Models are first looked for as they stand, then in :func:`intarsia.runtime.models_root`.

    Args:
        spec: as above.
        **options: keyword arguments of the kind's own class, such as ``threshold``.

    Raises:
        ConfigError: An unknown spec or option.
        DataError: The model or file cannot be read.
        MissingExtraError: ``onnx`` without ONNX Runtime.
    """
    kind, _, source = spec.partition(":")
    if kind not in _KINDS or not source:
        raise ConfigError(unknown("detector", spec, FORMS))
    parameters = inspect.signature(_KINDS[kind]).parameters.values()
    valid = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in valid:
            raise ConfigError(f"{spec}: {unknown('option', option, valid)}")
    return _KINDS[kind](source, **options)
