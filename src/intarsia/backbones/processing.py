"""Image processors and tokenisers of Hugging Face folders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedTokenizerFast

from intarsia.backbones.base import ImageTransform
from intarsia.backbones.checkpoints import reading
from intarsia.errors import BackboneError


@dataclass(frozen=True, slots=True)
class HuggingFaceTransform(ImageTransform):
    """Hugging Face rounds the margins of the central crop down."""

    @staticmethod
    def _margin(excess: int) -> int:
        return excess // 2


def load_image_processor(source: str) -> Any:
    """The PIL variant: torchvision's resizing differs from it by up to 0.015."""
    with reading(source):
        return AutoImageProcessor.from_pretrained(source, backend="pil")


def image_transform(processor: Any, source: str) -> ImageTransform:
    """What a Hugging Face image processor does, as an :class:`ImageTransform`.

    Raises:
        BackboneError: it makes pictures that are not squares of one size.
    """
    size: Any = processor.size
    crop: Any = getattr(processor, "crop_size", None)
    shape = (size.height, size.width)
    if getattr(processor, "do_center_crop", None) and size.shortest_edge:
        shape = (crop.height, crop.width)
    if shape[0] is None or shape[0] != shape[1]:
        raise BackboneError(
            f"{source}: image size {dict(size)}, crop {dict(crop or {})} is not supported: choose "
            "a square size, or shortest_edge with a square centre crop"
        )
    return HuggingFaceTransform(
        size=shape[0],
        resize=size.shortest_edge or shape[0],
        mode="crop" if size.shortest_edge else "squash",
        resample=Image.Resampling(int(processor.resample)),
        mean=tuple(processor.image_mean),
        std=tuple(processor.image_std),
    )


def load_tokenizer(source: str) -> Any:
    """A tokeniser that knows character offsets, which takes a ``tokenizer.json``.

    SigLIP folders name a SentencePiece class without offsets beside such a file; it is passed by.
    """
    with reading(source):
        try:
            tokenizer = AutoTokenizer.from_pretrained(source)
        except ImportError:
            return PreTrainedTokenizerFast.from_pretrained(source)
        return tokenizer if tokenizer.is_fast else PreTrainedTokenizerFast.from_pretrained(source)


def context_of(wanted: int | None, most: int | None, source: str) -> int:
    """How many tokens a text may have: ``wanted``, or by default the ``most`` there can be.

    Raises:
        BackboneError: more are wanted, or neither is known.
    """
    context = most if wanted is None else wanted
    if context is None:
        raise BackboneError(f"{source} sets no limit to the length of texts: give context_length")
    if wanted is not None and not 3 <= wanted <= (most or wanted):
        end = "on" if most is None else f"to {most}"
        raise BackboneError(f"context_length {wanted} of {source}: choose from 3 {end}")
    return context
