"""Keys change with what they are of, and with nothing else."""

import shutil
import sys
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from intarsia.data.problems import Problems
from intarsia.errors import ConfigError
from intarsia.evaluation.compositional_cases import Case
from intarsia.evaluation.harness import evaluate_retrieval
from intarsia.identity import (
    code_key,
    config_key,
    data_key,
    differences,
    model_key,
    result_keys,
    run_keys,
    weights_key,
)
from intarsia.methods import Clip
from intarsia.model import WEIGHTS, Model, ModelSpec
from intarsia.training.run import resolved_config
from intarsia.types import Region


@pytest.fixture
def model(backbone) -> Model:
    return Model(backbone, Clip(backbone.dims)).eval()


def test_data_are_known_by_what_they_say_and_show(records):
    first, second = records[:2]
    key = data_key([first])
    assert key == data_key([replace(first)]) == data_key(iter([first]))
    for other in (
        replace(first, id="other"),
        replace(first, captions=first.captions[::-1]),
        replace(first, regions=(Region((0, 0, 1, 1)),)),
        replace(first, negatives=()),
        replace(first, image=second.image),
    ):
        assert data_key([other]) != key
    assert data_key([first, second]) != data_key([second, first])
    assert data_key([[first], [second]]) != data_key([[first, second]])


def test_a_copy_of_a_picture_is_the_same_and_a_changed_one_is_not(tmp_path, records):
    path, copy = tmp_path / "a.png", tmp_path / "copy" / "b.png"
    copy.parent.mkdir()
    Image.fromarray(records[0].image).save(path)
    shutil.copyfile(path, copy)
    case = Case("a.json[0]", path, ("a dog", "a cat"), "swap")
    key = data_key([case])
    assert key == data_key([replace(case, source="copy/a.json[0]", image=copy)])
    assert key != data_key([replace(case, texts=("a cat", "a dog"))])
    Image.fromarray(records[1].image).save(path)
    assert key != data_key([case])
    path.unlink()
    assert data_key([case]) not in (key, "")


def test_a_model_is_known_by_its_weights_and_asking_changes_nothing(model, records):
    key = model_key(model)
    evaluate_retrieval(model, records[:4], Problems())
    assert model_key(model) == key
    with torch.no_grad():
        next(model.method.parameters()).add_(1e-4)
    assert model_key(model) != key


def test_a_result_has_all_keys(model, records):
    keys = result_keys(model, records[:2], {"lr": 1})
    assert keys == {
        "data": data_key(records[:2]),
        "model": model_key(model),
        "config": config_key({"lr": 1}),
        "code": code_key(),
    }


def test_the_code_is_that_of_protocols_and_not_of_pages(tmp_path, monkeypatch):
    for name in ("evaluation/metrics.py", "suite/page.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("a = 1\n")
    monkeypatch.setattr("intarsia.identity.PACKAGE", tmp_path)
    key = code_key.__wrapped__()
    (tmp_path / "suite/page.py").write_text("a = 2\n")
    assert code_key.__wrapped__() == key
    (tmp_path / "evaluation/metrics.py").write_text("a = 2\n")
    assert code_key.__wrapped__() != key


def test_a_run_is_known_by_the_content_of_its_start_not_by_its_place(tmp_path):
    for name, content in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        (tmp_path / name).mkdir()
        metadata = {"format": "pt", "frozen_towers": ""}
        save_file({"x": torch.tensor([content])}, tmp_path / name / WEIGHTS, metadata)

    def keys(start, **config):
        data = {"name": "table", "root": f"/somewhere/{start}"}
        return run_keys({"data": data, "init": start, **config}, "data", tmp_path / start)

    assert keys("a") == keys("b") and keys("a") != keys("c")
    assert keys("a")["config"] != keys("a", trainer={"lr": 0.5})["config"]
    with pytest.raises(ConfigError, match="is not a trained model"):
        weights_key(tmp_path)


def keys_of(**spec) -> dict[str, str]:
    settings = {"backbone": {"spec": "scenes-clip"}, "method": {"class_path": METHOD}} | spec
    return run_keys(resolved_config(ModelSpec(**settings), {}), "data", None)


METHOD = "intarsia.methods.Registers"


def test_an_option_that_is_false_is_not_one_that_is_left_out():
    """Of the method and of the backbone, whose defaults may be true."""
    plain = keys_of()
    assert plain == keys_of(method={"class_path": METHOD, "init_args": {"self_attention": True}})
    assert plain != keys_of(method={"class_path": METHOD, "init_args": {"self_attention": False}})
    resnet = {"spec": "scenes-resnet"}
    assert keys_of(backbone=resnet) == keys_of(backbone=resnet | {"view": "picture"})
    assert keys_of(backbone=resnet) != keys_of(backbone=resnet | {"view": "surroundings"})
    assert keys_of() != keys_of(components={"whole_image": False})


def test_a_run_is_of_what_is_in_its_backbones_folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    keys = []
    for weights in ("old weights", "others"):
        (tmp_path / "model.safetensors").write_text(weights)
        keys.append(keys_of(backbone={"spec": f"hf:{tmp_path}"}))
    assert keys[0] != keys[1]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A method in a file of one's own that uses another."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_helper.py").write_text("FACTOR = 1.0\ndef half(x):\n    return x / 2\n")
    (tmp_path / "own_clip.py").write_text(
        "from intarsia.methods import Clip\nfrom own_helper import half\n\n"
        "class Own(Clip):\n    def __init__(self, dims):\n        super().__init__(dims)\n"
        "        self.weights = [1.0, {'a': 2}]\n"
    )
    yield tmp_path
    for name in ("own_clip", "own_helper"):
        sys.modules.pop(name, None)


def test_code_of_ones_own_counts_and_what_it_imports(own, backbone):
    spec = {"method": {"class_path": "own_clip.Own"}}
    before, method = keys_of(**spec), import_module("own_clip").Own(backbone.dims)
    model = Model(backbone, method)
    known = model_key(model)
    method.weights[1]["a"] = 3
    assert model_key(model) != known
    method.weights[1]["a"] = 2
    assert model_key(model) == known
    helper = own / "own_helper.py"
    helper.write_text(helper.read_text().replace("x / 2", "x / 3"))
    assert keys_of(**spec) != before and model_key(model) != known


def test_what_differs_of_two_configs_is_named():
    a = {"trainer": {"steps": 3, "flip": False}, "data": {"name": "coco"}}
    b = {"trainer": {"steps": 4}, "data": {"name": "scenes"}, "seed": 1}
    assert differences(a, b) == [
        "data.name is coco there, scenes here",
        "seed is None there, 1 here",
        "trainer.steps is 3 there, 4 here",
    ]
