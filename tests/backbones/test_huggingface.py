import json
import os
import shutil

import pytest
import torch
from transformers import (
    AutoImageProcessor,
    AutoModel,
    BertConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    GemmaTokenizer,
    PreTrainedTokenizerFast,
    Siglip2Config,
    SiglipImageProcessorPil,
)

from intarsia.backbones.huggingface import HuggingFaceSiglip
from intarsia.backbones.loading import load_backbone
from intarsia.backbones.processing import image_transform
from intarsia.errors import BackboneError

CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(params=["clip", "siglip"])
def kind(request):
    return request.param


@pytest.fixture
def folder(kind, clip_folder, siglip_folder):
    return clip_folder if kind == "clip" else siglip_folder


@pytest.fixture
def ours(folder):
    return load_backbone(f"hf:{folder}")


@pytest.fixture
def reference(folder):
    return AutoModel.from_pretrained(folder, attn_implementation="sdpa").eval()


@pytest.fixture
def pixels():
    return torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)


@torch.inference_mode()
def test_global_vectors_are_the_librarys(ours, reference, folder, kind, pixels, texts):
    images = ours.transform.normalise(pixels)
    expected = reference.get_image_features(images).pooler_output
    for dense in (None, "plain", "value"):
        found = ours.encode_image(pixels, dense=dense).image_global
        torch.testing.assert_close(found, expected, **CLOSE)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    inputs = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
    if kind == "siglip":  # whose processor gives no attention mask
        inputs = {"input_ids": inputs["input_ids"]}
    else:
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    expected = reference.get_text_features(**inputs).pooler_output
    found = ours.encode_text(ours.tokenize(texts)).text_global
    torch.testing.assert_close(found, expected, **CLOSE)
    assert ours.dims.embed == found.shape[1] and ours.dims.grid == (4, 4)


@torch.inference_mode()
def test_value_patches_are_attention_of_each_token_to_itself(ours, folder, kind, pixels):
    reference = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    vision, images = reference.vision_model, ours.transform.normalise(pixels)
    output = vision(images, output_hidden_states=True)
    if kind == "clip":
        into, last = output.hidden_states[-2], vision.encoder.layers[-1]
        only_itself = torch.full((17, 17), -torch.inf).fill_diagonal_(0)[None, None]
        out = last(into, only_itself)
        expected = reference.visual_projection(vision.post_layernorm(out[:, 1:]))
    else:
        hidden = output.last_hidden_state
        expected = torch.stack([vision.head(hidden[:, i : i + 1]) for i in range(16)], 1)
    found = ours.encode_image(pixels, dense="value").image_patches
    torch.testing.assert_close(found, expected, **CLOSE)


@torch.inference_mode()
def test_plain_patches_are_the_last_hidden_states(ours, reference, kind, pixels):
    vision = reference.vision_model
    expected = vision(ours.transform.normalise(pixels)).last_hidden_state
    if kind == "clip":
        expected = reference.visual_projection(vision.post_layernorm(expected[:, 1:]))
    found = ours.encode_image(pixels, dense="plain").image_patches
    torch.testing.assert_close(found, expected, **CLOSE)


@torch.inference_mode()
def test_other_picture_size(ours, reference):
    images = torch.randn(2, 3, 96, 96)
    found = ours.encode_image(images, dense="value")
    expected = reference.get_image_features(images, interpolate_pos_encoding=True).pooler_output
    torch.testing.assert_close(found.image_global, expected, **CLOSE)
    assert found.image_patches.shape[:2] == (2, 36)


@torch.inference_mode()
def test_token_states_and_batch_padding(ours, texts):
    together = ours.encode_text(ours.tokenize(texts))
    alone = ours.encode_text(ours.tokenize(texts[1:2]))
    torch.testing.assert_close(alone.text_global, together.text_global[1:2], **CLOSE)
    a, b = alone.text_tokens[alone.text_mask], together.text_tokens[1][together.text_mask[1]]
    assert len(a) >= 2
    torch.testing.assert_close(a, b, **CLOSE)


def test_masks_and_offsets(ours):
    text = "A red  circle"
    tokens = ours.tokenize([text, "a"])
    found = [text[s:e] for (s, e), m in zip(tokens.offsets[0], tokens.mask[0], strict=True) if m]
    assert [word for word in found if word] == ["A", "red", "circle"]
    assert not tokens.offsets[~tokens.mask].any() and tokens.mask[1].sum() == 1
    assert tokens.attention.sum() > tokens.mask.sum()


def test_siglip_2_texts_are_lower_cased(siglip_folder):
    letters = {name: i for i, name in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", *"▁aderR"])}
    tokenizer = GemmaTokenizer(vocab=letters, merges=[], model_max_length=16)
    model = AutoModel.from_pretrained(siglip_folder)
    processor = AutoImageProcessor.from_pretrained(siglip_folder, backend="pil")
    ours = HuggingFaceSiglip(model, tokenizer, processor, name="siglip2")
    assert torch.equal(ours.tokenize(["A  RED"]).ids, ours.tokenize(["a  red"]).ids)
    assert "R" in tokenizer.tokenize("A RED")


CROP = {"height": 64, "width": 64}


@pytest.mark.parametrize(
    "processor",
    [
        CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size=CROP),
        CLIPImageProcessorPil(size={"shortest_edge": 73}, crop_size=CROP, resample=2),
        SiglipImageProcessorPil(size={"height": 64, "width": 64}),
    ],
    ids=["clip", "resize-more-than-crop", "siglip"],
)
def test_transform_is_the_image_processor(processor, images, tmp_path):
    processor.save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    transform = image_transform(processor, "here")
    for image in images:
        expected = processor(image, return_tensors="pt")["pixel_values"][0]
        found = transform.normalise(transform(image)[None])[0]
        torch.testing.assert_close(found, expected, **CLOSE)


def test_transform_that_is_not_square_is_an_error():
    processor = SiglipImageProcessorPil(size={"height": 64, "width": 80})
    with pytest.raises(BackboneError, match="folder: image size .*80.* choose"):
        image_transform(processor, "folder")


def test_frozen_towers_leave_the_projections_trainable(ours, kind):
    ours.freeze_towers()
    names = {name for name, p in ours.named_parameters() if p.requires_grad}
    projections = {"model.visual_projection.weight", "model.text_projection.weight"}
    heads = {"model.text_model.head.weight", "model.text_model.head.bias"}
    assert names == (projections if kind == "clip" else heads)


@torch.inference_mode()
def test_export_is_an_ordinary_folder(ours, pixels, texts, tmp_path):
    for parameter in ours.parameters():
        parameter.data.mul_(1.01)
    ours.export(tmp_path)
    expected = ours.encode_image(pixels).image_global
    reference = AutoModel.from_pretrained(tmp_path).eval()
    found = reference.get_image_features(ours.transform.normalise(pixels)).pooler_output
    torch.testing.assert_close(found, expected, **CLOSE)
    again = load_backbone(str(tmp_path))
    assert again.fingerprint() == ours.fingerprint() and again.transform == ours.transform
    assert torch.equal(again.tokenize(texts).ids, ours.tokenize(texts).ids)


class Malicious:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


def without_weights(folder, target):
    return shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors"))


def test_a_pickle_that_runs_code_is_refused(clip_folder, tmp_path):
    folder, victim = without_weights(clip_folder, tmp_path / "model"), tmp_path / "made"
    torch.save({"logit_scale": Malicious(victim)}, folder / "pytorch_model.bin")
    with pytest.raises(BackboneError, match="model is a pickle .* convert it once"):
        load_backbone(f"hf:{folder}")
    assert not victim.exists()


def test_a_plain_pickle_of_tensors_is_read(clip_folder, tmp_path):
    folder = without_weights(clip_folder, tmp_path / "model")
    state = CLIPModel.from_pretrained(clip_folder).state_dict()
    torch.save(state, folder / "pytorch_model.bin")
    found, expected = load_backbone(str(folder)), load_backbone(str(clip_folder))
    assert found.fingerprint() == expected.fingerprint()


def test_lacking_and_misshapen_weights_are_errors(clip_folder, tmp_path):
    state = CLIPModel.from_pretrained(clip_folder).state_dict()
    folder = without_weights(clip_folder, tmp_path / "lacking")
    kept = {k: v for k, v in state.items() if k != "visual_projection.weight"}
    torch.save(kept, folder / "pytorch_model.bin")
    with pytest.raises(BackboneError, match="lacks 1 weights .* visual_projection.weight"):
        load_backbone(f"hf:{folder}")
    folder = without_weights(clip_folder, tmp_path / "misshapen")
    torch.save(
        state | {"visual_projection.weight": torch.zeros(7, 48)}, folder / "pytorch_model.bin"
    )
    with pytest.raises(BackboneError, match="misshapen does not fit its model"):
        load_backbone(f"hf:{folder}")


def test_other_kinds_of_model_are_errors(tmp_path, clip_folder):
    Siglip2Config().save_pretrained(tmp_path / "naflex")
    with pytest.raises(BackboneError, match="NaFlex.*choose a SigLIP 2 of fixed resolution"):
        load_backbone(str(tmp_path / "naflex"))
    BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(BackboneError, match="model_type 'bert': choose from clip, siglip"):
        load_backbone(str(tmp_path / "bert"))
    with pytest.raises(BackboneError, match="context_length 99 .*: choose from 3 to 20"):
        load_backbone(f"hf:{clip_folder}", context_length=99)
    broken = without_weights(clip_folder, tmp_path / "broken")
    (broken / "config.json").write_text(json.dumps({"model_type": "clip"})[:-1])
    with pytest.raises(BackboneError, match="broken"):
        load_backbone(str(broken))
