"""What a checkpoint does not tell is taken from what is known, or said."""

import json
import logging
import shutil

import open_clip
import pytest

from intarsia.backbones import unsaid
from intarsia.backbones.loading import load_backbone
from intarsia.backbones.openclip import load_openclip
from intarsia.backbones.unsaid import pixels_of
from intarsia.errors import BackboneError

FILE = "tuned.pt"
OPENAI = open_clip.OPENAI_DATASET_MEAN
HALF = (0.5, 0.5, 0.5)


def said(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == unsaid.logger.name]


@pytest.mark.parametrize(
    ("arch", "taken", "other", "confirm"),
    [
        ("tiny-clip", "GELU", "tiny-clip-quickgelu", "false"),
        ("tiny-clip-quickgelu", "QuickGELU", "tiny-clip", "true"),
    ],
)
def test_a_file_of_an_architecture_with_two_activations(
    openclip_checkpoints, caplog, arch, taken, other, confirm
):
    path = openclip_checkpoints[arch]
    load_backbone(f"openclip:{arch}:{path}")
    (message,) = said(caplog)
    assert f"{path} does not say whether it was trained with QuickGELU" in message
    assert f"tiny-clip in both variants: {taken} is taken" in message
    assert f"choose openclip:{other}:{path}; to confirm, set quick_gelu: {confirm}" in message


def test_whoever_says_which_activation_it_is_hears_nothing(openclip_checkpoints, caplog):
    load_openclip("tiny-clip", str(openclip_checkpoints["tiny-clip"]), quick_gelu=False)
    quick = "tiny-clip-quickgelu"
    load_openclip(quick, str(openclip_checkpoints[quick]), quick_gelu=True)
    load_openclip(quick)  # random weights
    load_openclip("tiny-mean", str(openclip_checkpoints["tiny-mean"]))  # has no twin
    assert not said(caplog)


def test_a_folder_tells_its_activation_itself(openclip_checkpoints, caplog, tmp_path):
    path = str(openclip_checkpoints["tiny-clip-quickgelu"])
    load_openclip("tiny-clip-quickgelu", path, quick_gelu=True).export(tmp_path)
    assert "QuickGELU" in load_backbone(str(tmp_path)).settings()
    assert not said(caplog)


@pytest.mark.parametrize(
    ("arch", "mean", "mode"),
    [
        ("ViT-B-16-SigLIP", HALF, "squash"),
        ("ViT-B-32", OPENAI, "shortest"),
        ("ViT-L-14-CLIPA", (0.485, 0.456, 0.406), "squash"),
        ("tiny-clip", OPENAI, "shortest"),  # which has no tags
    ],
)
@pytest.mark.usefixtures("openclip_checkpoints")
def test_pictures_are_as_of_all_tags_of_the_architecture(caplog, arch, mean, mode):
    found = pixels_of(arch, FILE, None)
    assert (found["mean"], found["resize_mode"]) == (mean, mode)
    assert not said(caplog)


def test_tags_that_differ_are_named_and_one_can_be_chosen(caplog):
    assert pixels_of("ViT-L-14", FILE, None)["mean"] == OPENAI
    (message,) = said(caplog)
    assert "how its pictures were normalised" in message
    assert "If it started from laion2b_s32b_b82k, say so with preprocess: TAG" in message
    caplog.clear()
    assert pixels_of("ViT-L-14", FILE, "laion2b_s32b_b82k")["mean"] == HALF
    assert pixels_of("ViT-L-14", FILE, "openai")["mean"] == OPENAI
    assert not said(caplog)
    with pytest.raises(BackboneError, match="unknown preprocess of ViT-L-14 'laion3b': choose"):
        pixels_of("ViT-L-14", FILE, "laion3b")


def test_a_file_sees_the_pictures_of_its_architectures_tags(openclip_checkpoints, monkeypatch):
    """As if ``tiny-mean`` were a SigLIP, of which there are weights to download."""
    config = {"mean": HALF, "std": HALF, "interpolation": "bilinear", "resize_mode": "squash"}
    tags = {"webli": config, "other": {**config, "mean": [0.5] * 3}}
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda arch: list(tags))
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda arch, tag: tags[tag])
    tags["other"]["mean"] = HALF
    transform = load_openclip("tiny-mean", str(openclip_checkpoints["tiny-mean"])).transform
    assert (transform.mean, transform.std, transform.mode) == (HALF, HALF, "squash")
    assert transform.size == 64
    with pytest.raises(BackboneError, match="preprocess 'webli' is for checkpoint files"):
        load_openclip("tiny-mean", "webli", preprocess="webli")


def changed(folder, target, **parts):
    """A copy of a transformers folder with other settings of its towers; None takes one away."""
    shutil.copytree(folder, target)
    file = target / "config.json"
    config = json.loads(file.read_text())
    for part, act in parts.items():
        config[part].pop("hidden_act")
        config[part] |= {} if act is None else {"hidden_act": act}
    file.write_text(json.dumps(config))
    return f"hf:{target}"


def test_a_clip_of_transformers_that_does_not_say_its_activation(clip_folder, tmp_path, caplog):
    load_backbone(f"hf:{clip_folder}")
    load_backbone(changed(clip_folder, tmp_path / "a", text_config="gelu", vision_config="gelu"))
    assert not said(caplog)
    load_backbone(changed(clip_folder, tmp_path / "b", text_config=None))
    assert "no hidden_act in text_config: quick_gelu is taken, as in OpenAI's Quick" in caplog.text
    caplog.clear()
    load_backbone(changed(clip_folder, tmp_path / "c", vision_config="gelu"))
    (message,) = said(caplog)
    assert "differ (text_config: quick_gelu, vision_config: gelu)" in message


def test_a_siglip_has_one_activation_only(siglip_folder, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        load_backbone(changed(siglip_folder, tmp_path / "a", text_config=None))
    assert not said(caplog)
