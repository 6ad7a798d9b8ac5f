"""What each method costs beside `clip`: a training step (forward, backward) on a ViT-B/32.

    python -m benchmarks.training_step

Random weights of CLIP ViT-B/32's sizes, end to end in bfloat16 autocast, 64 pairs of 224 px and 16
words with two linked regions each. ``ours / limit`` is the overhead over `clip`. ComAlign works on
cached components, so its step is that of its transformers alone.
"""

from __future__ import annotations

from functools import cache

import torch
from benchmarks.harness import Case, Run, Runs, run
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from intarsia.backbones.huggingface import HuggingFaceClip, attention_implementation
from intarsia.backbones.small import word_tokenizer
from intarsia.methods import Clip, ComAlign, Filip, HarmoClip, Method, Registers
from intarsia.model import Model
from intarsia.types import Batch, Components, Features, Links

WORDS = [f"word{i}" for i in range(400)]
METHODS = {
    "registers": Registers,
    "filip": Filip,
    "harmoclip": HarmoClip,
    "harmoclip, image as target": lambda dims: HarmoClip(dims, gr_target="image"),
    "comalign": ComAlign,
}


@cache
def backbone() -> HuggingFaceClip:
    tokenizer = word_tokenizer(WORDS)
    config = CLIPConfig()
    config.text_config.eos_token_id = tokenizer.eos_token_id
    config._attn_implementation = attention_implementation()
    return HuggingFaceClip(
        CLIPModel(config), tokenizer, CLIPImageProcessorPil(), name="ViT-B/32", context_length=32
    )


def batch(size: int, with_links: bool) -> Batch:
    g = torch.Generator().manual_seed(0)
    texts = [
        " ".join(WORDS[i] for i in torch.randint(len(WORDS), (16,), generator=g).tolist())
        for _ in range(size)
    ]
    corners = torch.rand(size, 2, 2, generator=g) / 2
    links = Links(
        boxes=torch.cat([corners, corners + 0.4], 2),
        words=torch.tensor([[0, 2], [5, 7]]).expand(size, 2, 2),
        labels=torch.arange(2 * size).view(size, 2),
        mask=torch.ones(size, 2, dtype=torch.bool),
    )
    return Batch(
        torch.arange(size),
        torch.arange(size),
        torch.randint(0, 256, (size, 3, 224, 224), dtype=torch.uint8, generator=g),
        backbone().tokenize(texts),
        links=links if with_links else None,
    )


def components(size: int) -> Batch:
    width = backbone().dims.embed

    def side() -> Components:
        mask = torch.ones(size, 10, dtype=torch.bool)
        return Components(torch.randn(size, 10, width), mask, torch.randn(size, 10, width), mask)

    features = Features(
        image_global=torch.randn(size, width),
        text_global=torch.randn(size, width),
        image_parts=side(),
        text_parts=side(),
    )
    return Batch(torch.arange(size), torch.arange(size), features=features)


def step(method: Method, pairs: Batch) -> Run:
    freeze = "backbone" if "components" in method.needs else "none"
    model = Model(backbone(), method, freeze=freeze).train()
    trained = list(model.parameters()) if freeze == "none" else list(method.parameters())

    def once() -> None:
        backbone().requires_grad_(freeze == "none")
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(pairs)["loss"]
        loss.backward()
        for parameter in trained:
            parameter.grad = None

    return once


def overhead(B: int, name: str = "registers") -> Runs:
    dims = backbone().dims
    method = METHODS[name](dims)
    mine = components(B) if "components" in method.needs else batch(B, "links" in method.needs)
    return Runs(step(method, mine), limit=("clip step", step(Clip(dims), batch(B, False))))


CASES = [Case(name, overhead, {"B": 64, "name": name}) for name in METHODS]

if __name__ == "__main__":
    run("training_step", CASES)
