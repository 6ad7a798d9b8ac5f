"""Detectors of transformers (closed set and zero-shot) and of torchvision."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from intarsia.components.detections import (
    THRESHOLD,
    best_first,
    fingerprint,
    local_source,
    reading,
)
from intarsia.errors import ConfigError, DataError, unknown
from intarsia.runtime import best_device
from intarsia.types import Region


class HuggingFaceDetector:
    """``AutoModelForObjectDetection``: RT-DETR, D-FINE, YOLOS, DETR, ...

    Pictures whose pixels have one shape go through the model together; padding, which would
    change their boxes, is never needed.

    Args:
        source: A folder, or a name of the Hugging Face hub.
        threshold: Boxes with a lower score are left out.
        device: None = the best there is.

    Raises:
        DataError: The model cannot be read, or lacks weights.
    """

    def __init__(
        self, source: str, *, threshold: float = THRESHOLD, device: str | None = None
    ) -> None:
        from transformers import AutoImageProcessor, AutoModelForObjectDetection

        self._threshold = threshold
        self._model = _pretrained(AutoModelForObjectDetection, source, device)
        with reading(source):
            self._processor: Any = AutoImageProcessor.from_pretrained(
                local_source(source), backend="pil"
            )

    @torch.inference_mode()
    def __call__(
        self, images: Sequence[Image.Image], texts: Sequence[Sequence[str]] | None = None
    ) -> list[list[Region]]:
        """The regions of each picture, best first; ``texts`` are not looked at."""
        pixels = [self._processor(images=image, return_tensors="pt") for image in images]
        shapes: dict[torch.Size, list[int]] = defaultdict(list)
        for index, inputs in enumerate(pixels):
            shapes[inputs["pixel_values"].shape].append(index)
        found: list[list[Region]] = [[] for _ in images]
        for indices in shapes.values():
            batch = torch.cat([pixels[index]["pixel_values"] for index in indices])
            outputs = self._model(pixel_values=batch.to(self._model.device))
            results = self._processor.post_process_object_detection(
                outputs,
                threshold=self._threshold,
                target_sizes=[images[index].size[::-1] for index in indices],
            )
            for index, result in zip(indices, results, strict=True):
                found[index] = self._regions(result)
        return found

    def fingerprint(self) -> str:
        settings = (_settings(self._model), self._processor.to_json_string(), self._threshold)
        return fingerprint(settings, self._model.state_dict())

    def _regions(self, result: dict[str, Tensor]) -> list[Region]:
        names = self._model.config.id2label
        labels = [names[label] for label in result["labels"].tolist()]
        return best_first(result["boxes"], result["scores"], labels)


class ZeroShotDetector:
    """``AutoModelForZeroShotObjectDetection``: OWL-ViT, OWLv2, Grounding DINO, OmDet.

    Args:
        source: A folder, or a name of the Hugging Face hub.
        threshold: Boxes with a lower score are left out; None = the model family's own default
            (OWL 0.1, Grounding DINO 0.25, OmDet 0.3), for their scores are not comparable.
        device: None = the best there is.

    Raises:
        DataError: The model cannot be read, or lacks weights.
    """

    def __init__(
        self, source: str, *, threshold: float | None = None, device: str | None = None
    ) -> None:
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        self._source = source
        self._model = _pretrained(AutoModelForZeroShotObjectDetection, source, device)
        with reading(source):
            self._processor: Any = AutoProcessor.from_pretrained(
                local_source(source), backend="pil"
            )
        usual = inspect.signature(self._processor.post_process_grounded_object_detection)
        self._threshold = usual.parameters["threshold"].default if threshold is None else threshold

    @torch.inference_mode()
    def __call__(
        self, images: Sequence[Image.Image], texts: Sequence[Sequence[str]] | None = None
    ) -> list[list[Region]]:
        """The regions of each picture, best first, that show one of its ``texts`` (say, nouns).

        Raises:
            ConfigError: There are not as many lists of texts as pictures.
        """
        if texts is None or len(texts) != len(images):
            given = "none" if texts is None else len(texts)
            raise ConfigError(
                f"zero-shot detector {self._source!r} looks for texts: got {given} for "
                f"{len(images)} pictures, give a list of texts for each"
            )
        return [
            self._one(image, list(dict.fromkeys(queries))) if queries else []
            for image, queries in zip(images, texts, strict=True)
        ]

    def fingerprint(self) -> str:
        processor = self._processor.image_processor.to_json_string()
        vocabulary = sorted(self._processor.tokenizer.get_vocab().items())
        settings = (_settings(self._model), processor, vocabulary, self._threshold)
        return fingerprint(settings, self._model.state_dict())

    def _one(self, image: Image.Image, queries: list[str]) -> list[Region]:
        inputs = self._processor(
            images=image, text=[queries], return_tensors="pt", truncation=True
        ).to(self._model.device)
        result = self._processor.post_process_grounded_object_detection(
            self._model(**inputs),
            threshold=self._threshold,
            target_sizes=[image.size[::-1]],
            text_labels=[queries],
        )[0]
        return best_first(result["boxes"], result["scores"], result["text_labels"])


class TorchvisionDetector:
    """A detection model of torchvision, one picture at a time (batches would be padded).

    Args:
        source: ``NAME`` with torchvision's own weights, which it downloads, or ``NAME:FILE`` with
            a state dict.
        threshold: Boxes with a lower score are left out.
        labels: Names of the classes without the background; None = those that torchvision
            trained the model on (COCO).
        device: None = the best there is.

    Raises:
        ConfigError: Torchvision has no such detector.
        DataError: The weights cannot be had, or do not fit.
    """

    def __init__(
        self,
        source: str,
        *,
        threshold: float = THRESHOLD,
        labels: Sequence[str] | None = None,
        device: str | None = None,
    ) -> None:
        from torchvision import models

        name, _, file = source.partition(":")
        valid = models.list_models(module=models.detection)
        if name not in valid:
            raise ConfigError(unknown("torchvision detector", name, valid))
        usual = models.get_model_weights(name).DEFAULT
        self._labels = usual.meta["categories"] if labels is None else ["background", *labels]
        self._settings = (name, list(self._labels), threshold)
        with reading(source):
            path = local_source(file)
            state = torch.load(path, map_location="cpu", weights_only=True) if file else None
            model: Any = models.get_model(
                name,
                weights=None if file else usual,
                weights_backbone=None,
                num_classes=len(self._labels),
            )
            if state is not None:
                model.load_state_dict(state)
        for part in model.modules():
            if hasattr(part, "score_thresh"):
                part.score_thresh = threshold
        self._device = torch.device(device or best_device())
        self._model = model.eval().to(self._device)

    @torch.inference_mode()
    def __call__(
        self, images: Sequence[Image.Image], texts: Sequence[Sequence[str]] | None = None
    ) -> list[list[Region]]:
        """The regions of each picture, best first; ``texts`` are not looked at."""
        return [self._one(image) for image in images]

    def fingerprint(self) -> str:
        return fingerprint(self._settings, self._model.state_dict())

    def _one(self, image: Image.Image) -> list[Region]:
        pixels = pil_to_tensor(image).to(self._device).float() / 255
        (result,) = self._model([pixels])
        labels = [self._labels[label] for label in result["labels"].tolist()]
        return best_first(result["boxes"], result["scores"], labels)


def _pretrained(auto: Any, source: str, device: str | None) -> Any:
    with reading(source):
        model, loading = auto.from_pretrained(
            local_source(source), dtype=torch.float32, output_loading_info=True
        )
    if missing := sorted(loading["missing_keys"]):
        raise DataError(
            f"detector {source!r} lacks {len(missing)} weights, the first {missing[0]!r}: "
            f"its checkpoint is not that of a {type(model).__name__}"
        )
    return model.eval().to(device or best_device())


def _settings(model: Any) -> dict[str, Any]:
    """A model's configuration, whatever folder it came from."""
    return {key: value for key, value in model.config.to_dict().items() if key[0] != "_"}
