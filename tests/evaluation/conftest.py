from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

from intarsia.backbones.base import Backbone, ImageTransform
from intarsia.methods import Clip
from intarsia.model import Model
from intarsia.types import Dims, Features, TokenBatch

COLOURS = {
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "yellow": (1, 1, 0),
    "magenta": (1, 0, 1),
    "cyan": (0, 1, 1),
}


@pytest.fixture
def model(backbone) -> Model:
    """A real model with random weights."""
    return Model(backbone, Clip(backbone.dims)).eval()


class ColourBackbone(Backbone):
    """Needs no training: a patch is its mean colour, a text the sum of the colours it names.

    A fourth number, the same everywhere, keeps what is nearly black from having a colour.
    """

    name = "colours"
    dims = Dims(embed=4, grid=(7, 7), context=16)
    transform = ImageTransform(112, 112, "crop", Image.Resampling.BICUBIC, (0,) * 3, (1,) * 3)

    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(1, 1)
        self.words = {name: i for i, name in enumerate(COLOURS)}
        self.table = torch.tensor([(*c, 0) for c in (*COLOURS.values(), (0, 0, 0))]).float()

    @property
    def tokenizer(self):
        return self.tokens_of

    def tokens_of(self, texts):
        ids = torch.full((len(texts), 16), len(COLOURS))
        for row, text in zip(ids, texts, strict=True):
            known = [self.words[w] for w in text.lower().strip(".").split() if w in self.words]
            row[: len(known)] = torch.tensor(known, dtype=torch.long)
        real = ids < len(COLOURS)
        return TokenBatch(ids, real, real, torch.zeros(*ids.shape, 2, dtype=torch.long))

    def image_states(self, pixels, *, dense=None):
        colours = nn.functional.adaptive_avg_pool2d(self.transform.normalise(pixels), 7)
        colours = nn.functional.pad(colours, (0, 0, 0, 0, 0, 1), value=0.2)
        patches = colours.flatten(2).mT if dense else None
        return Features(image_global=colours.mean((2, 3)), image_patches=patches)

    def text_states(self, tokens):
        states = self.table[tokens.ids]
        return Features(text_global=states.sum(1), text_tokens=states, text_mask=tokens.mask)

    def project(self, states):
        return replace(states)

    def towers(self):
        return [self.unused]


@pytest.fixture
def colour_model() -> Model:
    """A model that is right about colours."""
    backbone = ColourBackbone()
    return Model(backbone, Clip(backbone.dims)).eval()


@pytest.fixture
def painted():
    """A black picture of a size with boxes filled with colours: painted(size, {"red": box})."""

    def paint(size, boxes):
        image = Image.new("RGB", size)
        for name, box in boxes.items():
            image.paste(tuple(255 * value for value in COLOURS[name]), box)
        return image

    return paint


@pytest.fixture
def colour_folder(tmp_path, painted):
    """train and val of ten and five pictures of each of six colours, no two alike."""
    for split, number, black in (("train", 10, 0), ("val", 5, 20)):
        for name in COLOURS:
            folder = tmp_path / "colours" / split / name
            folder.mkdir(parents=True)
            for i in range(number):
                painted((64, 64), {name: (0, 0, 64 - black, 64 - i)}).save(folder / f"{i}.png")
    return tmp_path / "colours"
