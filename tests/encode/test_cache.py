"""What a model that is asked leaves behind: nothing, unless it has a cache."""

import tempfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from intarsia.data.problems import Problems
from intarsia.data.records import Records
from intarsia.encode.component_pairs import see_components
from intarsia.encode.components import Components, ComponentSpec
from intarsia.encode.store import Store
from intarsia.encode.towers import Towers
from intarsia.model import ModelSpec
from intarsia.types import Region

TEXTS = ["a red circle above a blue square", "two green stars"]
REGIONS = [[Region((0, 0, 40, 40))], [Region((10, 10, 60, 60)), Region((0, 0, 20, 90))], []]


@pytest.fixture
def images():
    return list(np.random.default_rng(0).integers(0, 256, (3, 90, 70, 3), dtype=np.uint8))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Where a program might leave files: its folder, its home, what is temporary."""
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "INTARSIA_DATA"):
        monkeypatch.setenv(name, str(tmp_path / name))
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "TMPDIR"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def built(method):
    freeze = "backbone" if method == "ComAlign" else "none"
    if method == "ComAlign":
        pytest.importorskip("spacy", reason="needs the extra 'text'")
    path = {"class_path": f"intarsia.methods.{method}"}
    return ModelSpec({"spec": "scenes-clip"}, path, freeze=freeze).build(1).eval()


def asked(model, images):
    regions = REGIONS if model.takes_regions else None
    image, text = model.encode_images(images, regions=regions), model.encode_texts(TEXTS)
    return {**image.groups, **{f"text {name}": x for name, x in text.groups.items()}}


def assert_same(some, others):
    assert some.keys() == others.keys()
    for name, vectors in some.items():
        torch.testing.assert_close(vectors, others[name], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("method", ["Clip", "Filip", "ComAlign"])
def test_without_a_cache_nothing_is_kept(method, images, home):
    model = built(method)
    before = sorted(home.rglob("*"))
    first = asked(model, images)
    assert_same(asked(model, images), first)
    assert sorted(home.rglob("*")) == before
    assert "store" not in vars(model)  # which would grow with every question


def test_a_cache_is_read_by_the_next_model(images, home, monkeypatch):
    first = built("ComAlign")
    first.cache = home / "cache"
    expected = asked(first, images)
    first.store.close()
    fields = {path.parent.name for path in (home / "cache" / "vectors").rglob("*.rows")}
    assert fields == {"image_global", "text_global"}
    second = built("ComAlign")
    second.load_state_dict(first.state_dict())
    second.cache = first.cache
    for name in ("image_states", "text_states"):
        monkeypatch.setattr(second.backbone, name, None)
    assert_same(asked(second, images), expected)
    assert_same(asked(built("ComAlign"), images), expected)  # of the same seed, without a cache


def test_a_picture_that_cannot_be_read_is_left_out_each_time(records, backbone, tmp_path):
    """Also where the store has vectors already."""
    pytest.importorskip("spacy", reason="needs the extra 'text'")
    some = [replace(record, size=None) for record in records[:4]]
    some[1] = replace(some[1], image=b"broken")
    components, towers = Components(ComponentSpec(), None), Towers(backbone.eval())
    for _ in range(2):
        store, problems = Store(tmp_path, "b"), Problems(0.5)
        found = see_components(components, Records.of(some), towers, store, problems)
        store.close()
        assert [parts is None for parts in found] == [False, True, False, False]
        assert [problem.source for problem in problems] == [some[1].id]
