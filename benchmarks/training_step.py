"""What each method costs beside `clip`, and `clip` beside open_clip: a training step on a ViT-B/32.

    python -m benchmarks.training_step

Random weights of CLIP ViT-B/32's sizes, end to end in bfloat16 autocast, 64 pairs of 224 px and 16
words with two linked regions each. ``ours / limit`` is the overhead over `clip`. ComAlign works on
cached components, so its step is that of its transformers alone. These are forward and backward
passes on the CPU; :func:`training_steps` gives whole steps on any device.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import cache

import open_clip
import torch
from benchmarks.harness import Case, Run, Runs, run
from lightning_fabric import Fabric
from torch import nn
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from intarsia.backbones.huggingface import HuggingFaceClip, attention_implementation
from intarsia.backbones.small import word_tokenizer
from intarsia.methods import Clip, ComAlign, Filip, HarmoClip, Method, Registers
from intarsia.model import Model
from intarsia.training.optim import parameter_groups
from intarsia.training.step import GradientStep
from intarsia.types import Batch, Components, Features, Links

WORDS = [f"word{i}" for i in range(400)]
CONTEXT = 77  # tokens, of CLIP
LONGEST = 28  # words: a batch of Flickr8k's captions needs 29.6 tokens on average
METHODS = {
    "registers": Registers,
    "filip": Filip,
    "harmoclip": lambda dims: HarmoClip(dims, gr_target="crop"),
    "harmoclip, image as target": lambda dims: HarmoClip(dims, gr_target="image"),
    "comalign": ComAlign,
}


@cache
def backbone() -> HuggingFaceClip:
    return towers(CLIPConfig())


def towers(config: CLIPConfig) -> HuggingFaceClip:
    tokenizer = word_tokenizer(WORDS)
    tokenizer.model_max_length = CONTEXT
    config.text_config.eos_token_id = tokenizer.eos_token_id
    config._attn_implementation = attention_implementation()
    return HuggingFaceClip(CLIPModel(config), tokenizer, CLIPImageProcessorPil(), name="ViT-B/32")


def batch(size: int, with_links: bool, words: int = 16) -> Batch:
    """Texts of ``words`` words, two more tokens each."""
    g = torch.Generator().manual_seed(0)
    texts = [
        " ".join(WORDS[i] for i in torch.randint(len(WORDS), (words,), generator=g).tolist())
        for _ in range(size)
    ]
    corners = torch.rand(size, 2, 2, generator=g) / 2
    links = Links(
        boxes=torch.cat([corners, corners + 0.4], 2),
        words=torch.tensor([[0, 2], [5, 7]]).expand(size, 2, 2),
        labels=torch.arange(2 * size).view(size, 2),
        mask=torch.ones(size, 2, dtype=torch.bool),
        regions=torch.arange(2).expand(size, 2)[..., None],
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


def training_steps(
    device: str, size: int, compile: bool, words: int = LONGEST
) -> dict[str, Callable[[], None]]:
    """Whole optimiser steps on ``device``, by name: each method's, and open_clip's own.

    Autocast to bfloat16, forward, backward, clipping, fused AdamW; nothing waits for the device.
    All are on the device at once.

    Args:
        device: "cuda" or "cpu".
        size: pairs a step.
        compile: as of the trainer; open_clip's runs as it is.
        words: in each text. A batch of ours is as long as its longest text, where open_clip pads
            every text to CLIP's whole context.
    """
    steps = {"open_clip": openclip_step(device, size)}
    for name, build in {"clip": Clip, **METHODS}.items():
        method = build(backbone().dims)
        if "components" not in method.needs:
            pairs = batch(size, "links" in method.needs, words).to(device)
            steps[name] = optimiser_step(method, pairs, device, compile)
    return steps


def optimiser_step(method: Method, pairs: Batch, device: str, compile: bool) -> Callable[[], None]:
    """What the training loop does at each step."""
    fabric = Fabric(accelerator=device, devices=1, precision="bf16-mixed")
    model = Model(copy.deepcopy(backbone()), method).train().to(device)
    gradients = GradientStep(fabric, model, None, compile=compile)
    groups = parameter_groups(model, lr=1e-5, backbone_lr=None, weight_decay=0.2)
    optimizer = fabric.setup_optimizers(torch.optim.AdamW(groups, fused=True))

    def once() -> None:
        gradients.add(pairs)
        fabric.clip_gradients(gradients.module, optimizer, max_norm=1.0, error_if_nonfinite=False)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return once


def openclip_step(device: str, size: int) -> Callable[[], None]:
    """What open_clip's training loop does at each step, on random weights of its ViT-B-32."""
    model = openclip_model().to(device).train()
    loss = open_clip.ClipLoss()
    vectors, matrices = [], []
    for parameter in model.parameters():
        (matrices if parameter.ndim >= 2 else vectors).append(parameter)
    groups = [{"params": vectors, "weight_decay": 0.0}, {"params": matrices, "weight_decay": 0.2}]
    optimizer = torch.optim.AdamW(groups, lr=1e-5, fused=True)
    g = torch.Generator().manual_seed(0)
    images = torch.randn(size, 3, 224, 224, generator=g).to(device)
    texts = torch.randint(1, model.vocab_size, (size, CONTEXT), generator=g).to(device)

    def once() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            image, text, scale = model(images, texts)
            total = loss(image, text, scale)
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))

    return once


def openclip_model() -> nn.Module:
    return open_clip.create_model("ViT-B-32")


def overhead(B: int, name: str = "registers") -> Runs:
    dims = backbone().dims
    method = METHODS[name](dims)
    mine = components(B) if "components" in method.needs else batch(B, "links" in method.needs)
    return Runs(step(method, mine), limit=("clip step", step(Clip(dims), batch(B, False))))


CASES = [Case(name, overhead, {"B": 64, "name": name}) for name in METHODS]

if __name__ == "__main__":
    run("training_step", CASES)
