"""Sentences that name a category, for zero-shot classification by an ensemble of prompts."""

from __future__ import annotations

import re

from intarsia.types import Span

TEMPLATES = (
    "{}.",
    "a photo of {a} {}.",
    "a photo of the {}.",
    "a photo of one {}.",
    "a picture of {a} {}.",
    "an image that shows {a} {}.",
    "a close-up of {a} {}.",
    "a cropped photo of {a} {}.",
    "a cropped photo of the {}.",
    "a photo of part of {a} {}.",
    "a good photo of {a} {}.",
    "a bad photo of {a} {}.",
    "a bright photo of {a} {}.",
    "a dark photo of {a} {}.",
    "a blurry photo of the {}.",
    "a black and white photo of the {}.",
    "a low resolution photo of {a} {}.",
    "a photo of a small {}.",
    "a photo of a large {}.",
    "a photo of a small {} in the background.",
    "a photo of a large {} in the foreground.",
    "{a} {} in the scene.",
    "the {} in the scene.",
    "there is {a} {} in the scene.",
    "there is the {} in the picture.",
    "a scene with {a} {} in it.",
    "this is {a} {}.",
    "this is the {}.",
)

SPOKEN = {
    "floor-wood": "wooden floor",
    "playingfield": "playing field",
    "wall-brick": "brick wall",
    "wall-stone": "stone wall",
    "wall-tile": "tiled wall",
    "wall-wood": "wooden wall",
}


def spoken(name: str) -> str:
    """A category's name as one would say it (COCO's stuff has names made for sorting).

    >>> [spoken(n) for n in ("sky-other-merged", "wall-brick", "window-blind", "dining table")]
    ['sky', 'brick wall', 'window blind', 'dining table']
    """
    plain = re.sub(r"(-(other|merged|stuff))+$", "", name)
    return SPOKEN.get(name, re.sub(r"[-_]+", " ", plain))


def prompts(name: str) -> list[tuple[str, Span]]:
    """Every template filled with a category, and where in it the name stands.

    >>> prompts("orange")[1]
    ('a photo of an orange.', (14, 20))
    """
    words = spoken(name)
    article = "an" if words[0].lower() in "aeiou" else "a"
    filled = []
    for template in TEMPLATES:
        before, after = template.replace("{a}", article).split("{}")
        filled.append((before + words + after, (len(before), len(before) + len(words))))
    return filled
