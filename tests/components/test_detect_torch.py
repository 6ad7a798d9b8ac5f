import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoImageProcessor,
    AutoModelForObjectDetection,
    AutoModelForZeroShotObjectDetection,
    AutoProcessor,
    CLIPTokenizerFast,
    DFineConfig,
    HGNetV2Config,
    OwlViTConfig,
    OwlViTImageProcessor,
    OwlViTProcessor,
    RTDetrConfig,
    RTDetrImageProcessor,
    RTDetrResNetConfig,
    YolosConfig,
    YolosImageProcessor,
)

from intarsia.components.detectors import load_detector
from intarsia.errors import ConfigError, DataError
from intarsia.runtime import seed_everything
from intarsia.types import Region

LABELS = {0: "cat", 1: "dog", 2: "cup"}
DETR = {
    "d_model": 16,
    "encoder_hidden_dim": 16,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "decoder_layers": 2,
    "num_queries": 12,
    "decoder_in_channels": [16, 16, 16],
    "encoder_in_channels": [8, 16, 16],
    "num_denoising": 0,
}


def yolos() -> tuple[object, object]:
    config = YolosConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=[64, 96],
        patch_size=16,
        num_detection_tokens=10,
        initializer_range=0.5,
        id2label=LABELS,
    )
    return config, YolosImageProcessor(size={"shortest_edge": 48, "longest_edge": 96})


def rt_detr() -> tuple[object, object]:
    backbone = RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = RTDetrConfig(backbone_config=backbone, id2label=LABELS, **DETR)
    return config, RTDetrImageProcessor(size={"height": 64, "width": 64})


def d_fine() -> tuple[object, object]:
    backbone = HGNetV2Config(
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 8, 8, 16],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[8, 8, 16, 16],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        out_features=["stage2", "stage3", "stage4"],
    )
    config = DFineConfig(backbone_config=backbone, id2label=LABELS, **DETR)
    return config, RTDetrImageProcessor(size={"height": 64, "width": 64})


FAMILIES = {"yolos": yolos, "rt_detr": rt_detr, "d_fine": d_fine}


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory) -> Path:
    return saved(request.param, tmp_path_factory.mktemp(request.param))


def saved(family: str, path: Path) -> Path:
    """A random checkpoint, as the family's own code writes it."""
    seed_everything(0)
    config, processor = FAMILIES[family]()
    model = AutoModelForObjectDetection.from_config(config)
    for value in model.parameters():
        if not value.any():  # queries that start at zero would all find the same box
            torch.nn.init.normal_(value, std=0.5)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(60, 90), (120, 40), (60, 90)]
    return [Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)) for size in sizes]


def same(found: list[Region], result: dict, labels: list[str]) -> None:
    """Equal to the dictionary of boxes, scores and labels that a library returns."""
    order = result["scores"].argsort(descending=True, stable=True)
    assert [region.label for region in found] == [labels[i] for i in order.tolist()]
    boxes = torch.tensor([region.box for region in found]).view(-1, 4)
    scores = torch.tensor([region.score for region in found])
    torch.testing.assert_close(boxes, result["boxes"][order].float(), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(scores, result["scores"][order].float())


@torch.no_grad()
def test_regions_are_those_of_transformers(folder: Path, pictures: list[Image.Image]) -> None:
    detector = load_detector(f"hf:{folder}", threshold=0.01, device="cpu")
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    model = AutoModelForObjectDetection.from_pretrained(folder).eval()
    found = detector(pictures)
    assert all(len({region.score for region in regions}) > 5 for regions in found)
    for picture, regions in zip(pictures, found, strict=True):
        (result,) = processor.post_process_object_detection(
            model(**processor(images=picture, return_tensors="pt")),
            threshold=0.01,
            target_sizes=[(picture.height, picture.width)],
        )
        same(regions, result, [LABELS[label] for label in result["labels"].tolist()])


def test_company_and_texts_do_not_change_a_picture(folder, pictures) -> None:
    detector = load_detector(f"hf:{folder}", threshold=0.0, device="cpu")
    together = detector(pictures, texts=[["cat"], ["cup"], []])
    for picture, regions in zip(pictures, together, strict=True):
        (alone,) = detector([picture])
        assert [region.label for region in alone] == [region.label for region in regions]
        np.testing.assert_allclose(
            [region.box for region in alone], [region.box for region in regions], atol=1e-3
        )
    assert detector([]) == []
    assert load_detector(f"hf:{folder}", threshold=0.999)(pictures) == [[], [], []]


def test_the_fingerprint_is_that_of_weights_settings_and_names(folder, tmp_path) -> None:
    elsewhere = tmp_path / "copy"
    shutil.copytree(folder, elsewhere)
    before = load_detector(f"hf:{folder}").fingerprint()
    assert load_detector(f"hf:{elsewhere}").fingerprint() == before
    assert load_detector(f"hf:{folder}", threshold=0.2).fingerprint() != before
    config = json.loads((elsewhere / "config.json").read_text())
    config["id2label"]["0"] = "lion"
    (elsewhere / "config.json").write_text(json.dumps(config))
    assert load_detector(f"hf:{elsewhere}").fingerprint() != before


def test_weights_that_are_not_there_are_not_made_up(tmp_path) -> None:
    model = AutoModelForObjectDetection.from_pretrained(saved("yolos", tmp_path))
    model.vit.save_pretrained(tmp_path / "body")
    model.config.save_pretrained(tmp_path / "body")
    shutil.copy(tmp_path / "preprocessor_config.json", tmp_path / "body")
    with pytest.raises(DataError, match="lacks .* weights, the first .*box_predictor"):
        load_detector(f"hf:{tmp_path / 'body'}")


@pytest.fixture(scope="module")
def owl(tmp_path_factory) -> Path:
    seed_everything(0)
    path = tmp_path_factory.mktemp("owl")
    tower = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = OwlViTConfig(
        text_config={**tower, "vocab_size": 600, "intermediate_size": 32, "eos_token_id": 513},
        vision_config={**tower, "image_size": 48, "patch_size": 16, "intermediate_size": 32},
        projection_dim=16,
    )
    AutoModelForZeroShotObjectDetection.from_config(config).save_pretrained(path)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = CLIPTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocabulary, [])), vocab=vocabulary, merges=[]
    )
    tokenizer.model_max_length = 16
    images = OwlViTImageProcessor(size={"height": 48, "width": 48})
    OwlViTProcessor(images, tokenizer).save_pretrained(path)
    return path


@torch.no_grad()
def test_zero_shot_regions_are_those_of_transformers(owl, pictures) -> None:
    texts = [["a dog", "cup", "a dog"], [], ["a cup that is far too long to be read to its end"]]
    detector = load_detector(f"zeroshot:{owl}", threshold=0.01, device="cpu")
    found = detector(pictures, texts)
    processor = AutoProcessor.from_pretrained(owl, backend="pil")
    model = AutoModelForZeroShotObjectDetection.from_pretrained(owl).eval()
    for index, queries in ((0, ["a dog", "cup"]), (2, texts[2])):
        picture = pictures[index]
        inputs = processor(
            images=picture, text=[queries], return_tensors="pt", max_length=16, truncation=True
        )
        (result,) = processor.post_process_grounded_object_detection(
            model(**inputs),
            threshold=0.01,
            target_sizes=[(picture.height, picture.width)],
            text_labels=[queries],
        )
        assert found[index]
        same(found[index], result, result["text_labels"])
    assert found[1] == []


def test_a_zero_shot_detector_must_be_told_what_to_look_for(owl, pictures) -> None:
    detector = load_detector(f"zeroshot:{owl}")
    with pytest.raises(ConfigError, match="got none for 3 pictures"):
        detector(pictures)
    with pytest.raises(ConfigError, match="got 1 for 3 pictures"):
        detector(pictures, [["dog"]])
    assert detector.fingerprint() == load_detector(f"zeroshot:{owl}", threshold=0.1).fingerprint()
    assert detector.fingerprint() != load_detector(f"zeroshot:{owl}", threshold=0.2).fingerprint()


@torch.no_grad()
def widen(model: torch.nn.Module) -> None:
    """Weights under which boxes differ in score; with torchvision's random ones they are equal."""
    for key, value in model.named_parameters():
        if value.ndim > 1 and any(part in key for part in ("backbone", "classification", "cls")):
            torch.nn.init.kaiming_normal_(value).mul_(0.9)


@pytest.mark.parametrize(
    "name", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"]
)
def test_regions_are_those_of_torchvision(name: str, pictures, tmp_path) -> None:
    seed_everything(0)
    labels = ["cat", "dog", "cup"]
    model = torchvision.models.get_model(
        name,
        weights=None,
        weights_backbone=None,
        num_classes=4,
        score_thresh=0.0,
        box_score_thresh=0.0,
    ).eval()
    widen(model)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    spec = f"torchvision:{name}:{tmp_path / 'weights.pth'}"
    found = load_detector(spec, labels=labels, threshold=0.0, device="cpu")(pictures[:2])
    for picture, regions in zip(pictures, found, strict=False):
        with torch.no_grad():
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
            (result,) = model([pixels])
        assert len({region.score for region in regions}) > 50
        same(regions, result, [labels[label - 1] for label in result["labels"].tolist()])
    scores = [region.score for region in found[0]]
    middle = (scores[0] + scores[-1]) / 2
    sure = load_detector(spec, labels=labels, threshold=middle, device="cpu")(pictures[:1])
    assert 0 < len(sure[0]) < len(found[0])
    assert sure[0][-1].score > middle
    with pytest.raises(DataError, match="(?s)cannot be loaded.*size mismatch"):
        load_detector(spec, labels=["cat"])


def test_torchvision_names_its_detectors() -> None:
    with pytest.raises(ConfigError, match="'resnet18': choose from fasterrcnn.*ssdlite320"):
        load_detector("torchvision:resnet18")
