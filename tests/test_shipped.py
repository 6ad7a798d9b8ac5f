"""The models inside the package: small, loaded by name alone, and right on what they are for."""

from pathlib import Path

import matplotlib
import pytest
import torch

from intarsia import load_model
from intarsia.apps.maps import phrase_maps
from intarsia.cli import main
from intarsia.model import CONFIG, WEIGHTS, config_of
from intarsia.shipped import FOLDER, SHIPPED, shipped

HOPPER = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
MOST = 12e6  # bytes, with the picture tower


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models_are_small_and_have_cards(name):
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < MOST
    card = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    for part in ("What it is for", "Trained on", "Figures", "Terms"):
        assert f"## {part}" in card


def test_a_shipped_config_names_no_place_of_the_machine_it_was_trained_on():
    for name in SHIPPED:
        config = config_of(name)
        assert config["data"]["root"] is None and config["init"] is None


def test_mini_tells_what_is_on_a_photo():
    model = load_model("mini")
    texts = [
        "a woman in a uniform smiles at the camera",
        "two dogs run across the grass",
        "a man rides a bike down a hill",
        "children swim in a pool",
        "a snowboarder jumps in the air",
    ]
    scores, _ = model.similarity(model.encode_images([HOPPER]), model.encode_texts(texts))
    assert scores[0].argmax() == 0
    maps = model.patch_maps(HOPPER, ["face", "flag"])
    assert maps.shape == (2, 7, 7) and torch.isfinite(maps).all()


def test_a_folder_of_the_same_name_comes_first(tmp_path, monkeypatch):
    assert shipped("mini") == FOLDER / "mini" == shipped(Path("mini"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mini").mkdir()
    assert shipped("mini") == Path("mini")
    for name in (CONFIG, WEIGHTS):
        assert (FOLDER / "mini" / name).is_file()


def test_each_thing_of_a_caption_has_a_map():
    model = load_model("mini")
    found = phrase_maps(model, HOPPER, "There is a white hat  above a smiling face.")
    assert found.phrases == ["white hat", "smiling face"]
    assert torch.equal(found.maps, model.patch_maps(HOPPER, found.phrases, whole=True))


def test_a_caption_that_names_nothing_is_looked_for_itself():
    found = phrase_maps(load_model("mini"), HOPPER, "left  of it")
    assert found.phrases == ["left  of it"] and found.caption == "left of it"


def test_align_takes_mini_and_draws(tmp_path):
    main(["align", str(HOPPER), "a woman in a uniform", "--out", str(tmp_path / "a.png")])
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "phrases: woman, uniform" in page and (tmp_path / "a.png").stat().st_size > 10_000
