"""What gradient caching saves in memory and costs in time: one training step of `clip`.

The vision towers have the layers, patches and pictures (224 x 224) of ViT-B/32. The large batch
goes through one of a quarter of its width, so that the step without caching fits somewhere.
"""

from __future__ import annotations

import torch
from benchmarks.harness import Case, Runs, run
from lightning_fabric import Fabric
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from intarsia.backbones.huggingface import HuggingFaceClip, attention_implementation
from intarsia.backbones.small import word_tokenizer
from intarsia.methods import Clip
from intarsia.model import Model
from intarsia.training.step import GradientStep
from intarsia.types import Batch

WORDS = "a small red circle above two blue squares".split()
CONTEXT, SIZE = 32, 224


def vision_transformer(width: int, layers: int) -> Model:
    tokenizer = word_tokenizer(WORDS)
    vision = {"image_size": SIZE, "patch_size": 32, **_sizes(width, layers)}
    text = {"max_position_embeddings": CONTEXT, "vocab_size": len(tokenizer), **_sizes(128, 3)}
    text |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=128)
    config._attn_implementation = attention_implementation()
    processor = CLIPImageProcessorPil(crop_size={"height": SIZE, "width": SIZE})
    backbone = HuggingFaceClip(CLIPModel(config), tokenizer, processor, name="benchmark")
    return Model(backbone, Clip(backbone.dims)).train()


def _sizes(width: int, layers: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 64),
    }


def build(batch: int, chunk: int, width: int, layers: int) -> Runs:
    """One step's gradients, by chunks (ours) and of the whole batch at once."""
    torch.manual_seed(0)
    model = vision_transformer(width, layers)
    pairs = torch.arange(batch)
    pixels = torch.randint(0, 256, (batch, 3, SIZE, SIZE), dtype=torch.uint8)
    texts = [" ".join(WORDS[i % 3 : 3 + i % 5]) for i in range(batch)]
    data = Batch(pairs, pairs, pixels, model.backbone.tokenize(texts))
    fabric = Fabric(accelerator="cpu", devices=1)
    cached, whole = (GradientStep(fabric, model, size) for size in (chunk, None))

    def gradients(step: GradientStep) -> None:
        model.zero_grad()
        step.add(data)

    return Runs(lambda: gradients(cached), {"whole batch": lambda: gradients(whole)})


CASES = [
    Case("step", build, {"batch": 64, "chunk": 16, "width": 192, "layers": 12}),
    Case("step", build, {"batch": 32, "chunk": 8, "width": 768, "layers": 12}),
]
LARGE = [Case("step", build, {"batch": 512, "chunk": 32, "width": 192, "layers": 12}, rounds=1)]

if __name__ == "__main__":
    run("gradient_cache", CASES)
    run("gradient_cache_large", LARGE)
