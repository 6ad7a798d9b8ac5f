"""Gradient caching: the same gradients as without, in every setting of the loop."""

from dataclasses import replace

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import nn
from transformers import BertConfig, BertModel, MobileNetV2Config, MobileNetV2Model

from intarsia.backbones.dual import DualEncoder
from intarsia.encode.pairs import LivePairs
from intarsia.errors import ConfigError
from intarsia.methods import Clip, Filip, Flair, HarmoClip, Method, Registers
from intarsia.methods.base import Temperature, normalised
from intarsia.model import Model
from intarsia.ops.matching import fine_grained_scores
from intarsia.terms import MeanMax
from intarsia.training.step import GradientStep
from intarsia.types import Embeddings


class Words(Method):
    """Tokens against patches; a batch keeps only as many columns of tokens as its longest text."""

    needs = frozenset({"patches", "tokens"})
    terms = (MeanMax("local"),)

    def __init__(self, dims):
        super().__init__(dims)
        self.temperature = Temperature()
        self.widths = []

    def encode_image(self, x):
        return Embeddings({"local": normalised(x.image_patches), "unused": x.image_global})

    def encode_text(self, x):
        width = int(x.text_mask.nonzero()[:, 1].max()) + 1
        self.widths.append(width)
        tokens, mask = x.text_tokens[:, :width], x.text_mask[:, :width]
        return Embeddings({"local": normalised(tokens)}, {"local": mask})

    def loss(self, image, text):
        scores = fine_grained_scores(image["local"], text["local"], None, text.masks["local"])
        losses = [self.temperature() * s for s in scores]
        return {"loss": sum(nn.functional.cross_entropy(x, torch.arange(len(x))) for x in losses)}


class Captioner(Words):
    """Its loss pulls at one side alone, and at nothing that is a group."""

    def encode_image(self, x):
        image = super().encode_image(x)
        return replace(image, extra={"state": x.image_global})

    def loss(self, image, text):
        return {"loss": (self.temperature() * image.extra["state"]).square().mean()}


@pytest.fixture
def model(request, backbone):
    method = request.param
    dropout = {"layers": 1, "dropout": 0.2} if method is Registers else {}
    return Model(backbone, method(backbone.dims, **dropout)).train()


def of(*methods):
    return pytest.mark.parametrize("model", methods, indirect=True, ids=lambda m: m.__name__)


@pytest.fixture
def batch(backbone, records):
    return LivePairs(records[:6], backbone, links=True, phrases=True)[[0, 5, 9, 1, 13, 18, 22]]


def gradients(model, batch, chunk, fabric=None, **settings):
    fabric = fabric or Fabric(accelerator="cpu", devices=1)
    model.zero_grad()
    step = GradientStep(fabric, model, chunk)
    torch.manual_seed(1)
    losses = step.add(batch, **settings)
    return losses, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


@of(Clip, Filip, Flair, HarmoClip, Registers, Words, Captioner)
def test_chunks_give_the_gradients_of_the_whole_batch(model, batch):
    without_dropout(model)
    losses, whole = gradients(model, batch, None, share=0.5)
    for chunk in (3, 1):
        found, cached = gradients(model, batch, chunk, share=0.5)
        torch.testing.assert_close(found, losses)
        torch.testing.assert_close(cached, whole, rtol=1e-4, atol=3e-6)
    assert {"method.temperature.logit_scale"} < whole.keys()


@of(HarmoClip)
def test_chunks_know_the_regions_of_the_whole_batch(model, batch):
    """Phrases of one region are in different chunks: as strangers they would cost more."""
    without_dropout(model)
    losses, _ = gradients(model, batch, 1)
    regions = torch.arange(batch.links.mask.numel()).view(*batch.links.mask.shape, 1)
    strangers, _ = gradients(model, replace(batch, links=replace(batch.links, regions=regions)), 1)
    assert losses["lrc"] < strangers["lrc"] and losses["gr"] < strangers["gr"]
    assert losses["gc"] == strangers["gc"]


def seen_by(backbone):
    """The pictures that each call of the image tower gets."""
    counts = []
    tower = backbone.image_states

    def states(pixels, **dense):
        counts.append(len(pixels))
        return tower(pixels, **dense)

    backbone.image_states = states
    return counts


@pytest.mark.parametrize("chunk", [None, 3])
def test_crops_are_looked_at_once_and_some_at_a_time(backbone, batch, chunk):
    model = Model(backbone, HarmoClip(backbone.dims, gr_target="crop")).train()
    num_crops, width = int(batch.links.mask.sum()), batch.links.mask.shape[1]
    whole = model.crops(batch)
    counts = seen_by(backbone)
    parts = model.crops(batch)
    assert torch.equal(parts, whole) and sum(counts) == num_crops
    assert max(counts) <= max(backbone.images_at_once, width) < num_crops
    counts.clear()
    gradients(model, batch, chunk)
    assert sum(counts) == num_crops + len(batch) * (1 if chunk is None else 2)


@of(Words)
def test_chunks_of_texts_differ_in_length(model, batch):
    """What the test above relies on for ragged groups."""
    gradients(model, batch, 1)
    assert len(set(model.method.widths)) > 1


@of(Clip, Registers)
def test_dropout_is_drawn_alike_twice(model, batch):
    """Against one pass with all the graphs at once that draws its dropout chunk by chunk."""
    projection = model.backbone.model.text_projection
    model.backbone.model.text_projection = nn.Sequential(nn.Dropout(0.3), projection)
    torch.manual_seed(1)
    parts = [model.embed(batch.rows(slice(start, start + 3))) for start in (0, 3, 6)]
    image, text = (Embeddings.concatenate(side) for side in zip(*parts, strict=True))
    losses = model.losses(image, text)
    losses["loss"].backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    after = torch.get_rng_state()
    found, cached = gradients(model, batch, 3)
    assert torch.equal(found["loss"], losses["loss"])
    torch.testing.assert_close(cached, expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(torch.get_rng_state(), after)


@of(Registers)
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision(model, batch, precision):
    """The scaler's factor enters once: the cached gradients are those of the plain step."""
    without_dropout(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0) if precision == "16-mixed" else None
    fabric = Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision(precision, "cpu", scaler))
    exact, whole, cached = (
        torch.cat([grad.flatten() for grad in gradients(model, batch, chunk, other)[1].values()])
        for chunk, other in ((None, None), (None, fabric), (3, fabric))
    )
    factor = 1024.0 if scaler else 1.0
    assert not torch.equal(whole, factor * exact)
    for found in (whole, cached):
        assert (found / factor - exact).norm() < 0.05 * exact.norm()


@of(Clip)
def test_gradients_add_up_over_batches(model, batch):
    _, once = gradients(model, batch, 3)
    fabric = Fabric(accelerator="cpu", devices=1)
    step = GradientStep(fabric, model, 3)
    step.add(batch, share=0.25)
    for name, parameter in model.named_parameters():
        if name in once:
            torch.testing.assert_close(parameter.grad, 1.25 * once[name], rtol=1e-4, atol=1e-6)


@of(Clip)
def test_a_batch_that_fits_one_chunk_is_embedded_once(model, batch, monkeypatch):
    calls = []
    embed = model.embed
    monkeypatch.setattr(model, "embed", lambda part: calls.append(len(part)) or embed(part))
    gradients(model, batch, 7)
    assert calls == [7]
    gradients(model, batch, 4)
    assert calls == [7, 4, 3, 4, 3]


def mobilenet(backbone):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    return DualEncoder(
        MobileNetV2Model(MobileNetV2Config(image_size=64, depth_multiplier=0.1, min_depth=4)),
        BertModel(BertConfig(vocab_size=200, num_hidden_layers=1, **sizes)),
        backbone._tokenizer,
        replace(backbone.transform, size=64),
        name="mobilenet",
        context=20,
        embed_dim=16,
    )


def test_batch_norm_is_refused_while_it_trains(backbone):
    model = Model(mobilenet(backbone), Clip(backbone.dims)).train()
    fabric = Fabric(accelerator="cpu", devices=1)
    with pytest.raises(ConfigError, match=r"backbone\.vision\.\S+: BatchNorm2d .*freeze: towers"):
        GradientStep(fabric, model, 8)
    GradientStep(fabric, model, None)
    frozen = Model(mobilenet(backbone), Clip(backbone.dims), freeze="towers").train()
    GradientStep(fabric, frozen, 8)
