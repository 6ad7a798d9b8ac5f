"""`clip`: the global contrastive loss alone, the control that every gain is measured against."""

from __future__ import annotations

from torch import Tensor

from intarsia.methods.base import Method, Temperature, normalised, same_picture
from intarsia.ops.contrastive import info_nce
from intarsia.types import Dims, Embeddings, Features, Term


class Clip(Method):
    """One vector of a picture against one vector of a sentence (Radford et al. 2021)."""

    terms = (Term("global", "dot"),)

    def __init__(self, dims: Dims) -> None:
        super().__init__(dims)
        self.temperature = Temperature()

    def encode_image(self, x: Features) -> Embeddings:
        return Embeddings({"global": normalised(x.require("image_global"))})

    def encode_text(self, x: Features) -> Embeddings:
        return Embeddings({"global": normalised(x.require("text_global"))})

    def loss(self, image: Embeddings, text: Embeddings) -> dict[str, Tensor]:
        positives = same_picture(image, text)
        return {"loss": info_nce(image["global"], text["global"], self.temperature(), positives)}
