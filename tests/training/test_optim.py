import pytest
import torch
from torch import nn

from intarsia.errors import ConfigError
from intarsia.methods import Clip
from intarsia.model import Model
from intarsia.training.optim import WeightAverage, layer_factors, parameter_groups
from intarsia.training.schedule import Schedule


def test_cosine_rises_then_falls_to_zero():
    schedule = Schedule(warmup=0.1)
    factors = [schedule.factor(step, 100) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == 1.0 and factors.index(1.0) == 9
    assert factors[-1] == 0.0
    assert all(a >= b for a, b in zip(factors[10:], factors[11:], strict=False))


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(2, 2)
        self.method = nn.Linear(2, 2)


def test_vectors_do_not_decay_and_the_backbone_has_its_own_rate():
    model = Small()
    groups = parameter_groups(model, lr=1.0, backbone_lr=0.1, weight_decay=0.5)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert found[id(model.backbone.weight)] == (0.1, 0.5)
    assert found[id(model.backbone.bias)] == (0.1, 0.0)
    assert found[id(model.method.weight)] == (1.0, 0.5)
    assert found[id(model.method.bias)] == (1.0, 0.0)


def test_nothing_to_train_is_an_error():
    with pytest.raises(ConfigError, match="nothing to train"):
        parameter_groups(Small().requires_grad_(False), lr=1.0, backbone_lr=None, weight_decay=0.0)


def test_weight_average_by_hand_and_swap_undoes_itself():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    average = WeightAverage(model, decay=0.75)
    with torch.no_grad():
        model.weight.fill_(5.0)
    average.update(model)  # 0.75 * 1 + 0.25 * 5
    average.swap(model)
    assert model.weight.item() == 2.0
    average.swap(model)
    assert model.weight.item() == 5.0


def test_deeper_layers_learn_more_slowly(backbone):
    model = Model(backbone, Clip(backbone.dims))
    groups = parameter_groups(
        model, lr=1.0, backbone_lr=0.1, weight_decay=0.5, factors=layer_factors(model, 0.5)
    )
    found = {id(p): (g["base_lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(found) == sum(p.requires_grad for p in model.parameters())
    vision, clip = backbone.model.vision_model, backbone.model
    assert found[id(clip.visual_projection.weight)] == (0.1, 0.5)
    assert found[id(vision.post_layernorm.bias)] == (0.1, 0.0)
    layers = [found[id(layer.mlp.fc1.weight)] for layer in vision.encoder.layers]
    assert layers == [(0.1 * 0.5**depth, 0.5) for depth in (4, 3, 2, 1)]
    assert found[id(vision.embeddings.patch_embedding.weight)] == (0.1 * 0.5**5, 0.5)
    assert found[id(model.method.temperature.logit_scale)] == (1.0, 0.0)


@pytest.mark.parametrize("decay", [0.0, 1.5])
def test_the_layer_decay_is_a_factor(backbone, decay):
    with pytest.raises(ConfigError, match=f"layer_decay is {decay}"):
        layer_factors(Model(backbone, Clip(backbone.dims)), decay)
