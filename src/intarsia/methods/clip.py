"""`clip`: the global contrastive loss alone, the control that every gain is measured against."""

from __future__ import annotations

from torch import Tensor

from intarsia.methods.base import Method, Temperature, normalised
from intarsia.terms import Dot
from intarsia.types import Dims, Embeddings, Features


class Clip(Method):
    """One vector of a picture against one vector of a sentence (Radford et al. 2021)."""

    terms = (Dot("global"),)

    def __init__(self, dims: Dims) -> None:
        super().__init__(dims)
        self.temperature = Temperature(dims.scale)

    def encode_image(self, x: Features) -> Embeddings:
        return Embeddings({"global": normalised(x.require("image_global"))})

    def encode_text(self, x: Features) -> Embeddings:
        return Embeddings({"global": normalised(x.require("text_global"))})

    def loss(self, image: Embeddings, text: Embeddings) -> dict[str, Tensor]:
        return {"loss": self.terms[0].contrast(image, text, self.temperature())}
