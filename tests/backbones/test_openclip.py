import os
import pickle

import open_clip
import pytest
import torch

from intarsia.backbones.loading import load_backbone
from intarsia.backbones.openclip import image_transform, load_openclip
from intarsia.errors import BackboneError

CLOSE = {"rtol": 0, "atol": 1e-5}
ARCHS = ["tiny-clip", "tiny-clip-quickgelu", "tiny-mean", "tiny-coca", "siglip"]


@pytest.fixture(params=ARCHS)
def arch(request):
    return request.param


@pytest.fixture
def pair(arch, openclip_checkpoints, openclip_siglip):
    """Ours and the original library's model of one checkpoint."""
    if arch == "siglip":
        name = f"local-dir:{openclip_siglip}"
        return load_backbone(str(openclip_siglip)), open_clip.create_model(name).eval(), name
    path = str(openclip_checkpoints[arch])
    reference = open_clip.create_model(arch, pretrained=path).eval()
    return load_backbone(f"openclip:{arch}:{path}"), reference, arch


@pytest.fixture
def pixels(pair):
    size = pair[0].transform.size
    return torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8)


def encode(reference, images):
    out = reference.encode_image(images, normalize=False)
    return out[0] if isinstance(out, tuple) else out


@torch.inference_mode()
def test_global_vectors_are_the_librarys(pair, pixels, texts):
    ours, reference, name = pair
    expected = encode(reference, ours.transform.normalise(pixels))
    for dense in (None, "plain", "value"):
        found = ours.encode_image(pixels, dense=dense)
        torch.testing.assert_close(found.image_global, expected, **CLOSE)
    expected = reference.encode_text(open_clip.get_tokenizer(name)(texts), normalize=False)
    found = ours.encode_text(ours.tokenize(texts))
    torch.testing.assert_close(found.text_global, expected, **CLOSE)
    assert ours.dims.embed == found.text_global.shape[1]


def last_hidden(visual, images):
    """What enters and leaves the last block, seen by hooks."""
    seen = {}
    last = visual.transformer.resblocks[-1]
    before = last.register_forward_pre_hook(lambda _, args: seen.update(into=args[0]))
    after = last.register_forward_hook(lambda *args: seen.update(out=args[2]))
    visual(images)
    before.remove(), after.remove()
    return last, seen["into"], seen["out"]


@torch.inference_mode()
def test_value_patches_are_attention_of_each_token_to_itself(pair, pixels, arch):
    ours, reference, _ = pair
    images, visual = ours.transform.normalise(pixels), reference.visual
    if arch == "siglip":
        tokens = visual.trunk.forward_features(images)[:, 1:]
        alone = [visual.trunk.attn_pool(tokens[:, i : i + 1]) for i in range(tokens.shape[1])]
        expected = torch.stack(alone, 1)
    elif arch == "tiny-coca":
        _, _, out = last_hidden(visual, images)
        alone = [visual._pool(out[:, i : i + 1])[0] for i in range(1, out.shape[1])]
        expected = torch.stack(alone, 1) @ visual.proj
    else:
        last, into, _ = last_hidden(visual, images)
        only_itself = torch.full((into.shape[1],) * 2, -torch.inf).fill_diagonal_(0)
        out = last(into, attn_mask=only_itself)
        expected = visual.ln_post(out[:, 1:]) @ visual.proj
    found = ours.encode_image(pixels, dense="value").image_patches
    torch.testing.assert_close(found, expected, **CLOSE)
    assert found.shape[1] == ours.dims.num_patches


@torch.inference_mode()
def test_plain_patches_are_the_last_hidden_states(pair, pixels, arch):
    ours, reference, _ = pair
    images, visual = ours.transform.normalise(pixels), reference.visual
    if arch == "siglip":
        expected = visual.trunk.forward_features(images)[:, 1:]
    elif arch == "tiny-coca":
        expected = ours.encode_image(pixels, dense="value").image_patches
    else:
        expected = visual.ln_post(last_hidden(visual, images)[2][:, 1:]) @ visual.proj
    found = ours.encode_image(pixels, dense="plain").image_patches
    torch.testing.assert_close(found, expected, **CLOSE)


@torch.inference_mode()
def test_other_picture_size_interpolates_like_the_library(arch, pair, openclip_checkpoints):
    ours, reference, _ = pair
    size = ours.transform.size + 32
    images = torch.randn(2, 3, size, size)
    if arch == "siglip":
        reference.visual.trunk.set_input_size(size)
    else:
        path = str(openclip_checkpoints[arch])
        reference = open_clip.create_model(arch, pretrained=path, force_image_size=size).eval()
    found = ours.encode_image(images, dense="value")
    torch.testing.assert_close(found.image_global, encode(reference, images), **CLOSE)
    assert found.image_patches.shape[1] == (ours.dims.grid[0] + 2) ** 2


@torch.inference_mode()
def test_token_states_and_batch_padding(pair, texts, arch):
    ours, reference, name = pair
    seen = []
    text = getattr(reference, "text", reference)
    hook = text.ln_final.register_forward_hook(lambda *args: seen.append(args[2]))
    reference.encode_text(open_clip.get_tokenizer(name)(texts[1:2]))
    hook.remove()
    together = ours.text_states(ours.tokenize(texts))
    alone = ours.text_states(ours.tokenize(texts[1:2]))
    torch.testing.assert_close(alone.text_global, together.text_global[1:2], **CLOSE)
    a, b = alone.text_tokens[alone.text_mask], together.text_tokens[1][together.text_mask[1]]
    torch.testing.assert_close(a, b, **CLOSE)
    if arch != "tiny-coca":  # which normalises the pooled vector only
        states = seen[0][0, : alone.text_mask.shape[1]][alone.text_mask[0]]
        torch.testing.assert_close(a, states, **CLOSE)


def test_offsets(pair, arch):
    ours = pair[0]
    text = "A red  circle"
    tokens = ours.tokenize([text, "a"])
    found = [text[s:e] for (s, e), m in zip(tokens.offsets[0], tokens.mask[0], strict=True) if m]
    assert found == ["A", "red", "circle"]
    assert tokens.mask.sum(1).tolist() == [3, 1]


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.usefixtures("openclip_checkpoints")
def test_transform_is_the_librarys(mode, interpolation, images):
    model, _, preprocess = open_clip.create_model_and_transforms(
        "tiny-clip", image_interpolation=interpolation, image_resize_mode=mode
    )
    transform = image_transform(model.visual.preprocess_cfg)
    for image in images:
        found = transform.normalise(transform(image)[None])[0]
        torch.testing.assert_close(found, preprocess(image), **CLOSE)


def test_frozen_towers_leave_the_projections_trainable(pair, arch):
    ours = pair[0]
    ours.freeze_towers()
    names = {name for name, p in ours.named_parameters() if p.requires_grad}
    image = set() if arch == "siglip" else {"vision.projection"}
    text = {"text.projection.weight", "text.projection.bias"}
    assert names == image | (text if arch == "siglip" else {"text.projection"})


@pytest.mark.usefixtures("openclip_checkpoints")
def test_every_weight_gets_a_gradient():
    ours = load_backbone("openclip:tiny-clip")
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    image = ours.encode_image(pixels, dense="value")
    text = ours.encode_text(ours.tokenize(["a dog", "a cat"]))
    total = image.image_global.square().sum() + image.image_patches.square().sum()
    (total + text.text_global.square().sum()).backward()
    assert [n for n, p in ours.named_parameters() if p.grad is None] == []


@torch.inference_mode()
def test_export_is_loaded_by_open_clip_itself(pair, pixels, texts, tmp_path):
    ours, _, name = pair
    for parameter in ours.parameters():
        parameter.data.mul_(1.01)
    ours.export(tmp_path)
    reference = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    found = ours.encode_image(pixels).image_global
    expected = encode(reference, ours.transform.normalise(pixels))
    torch.testing.assert_close(found, expected, **CLOSE)
    found = ours.encode_text(ours.tokenize(texts)).text_global
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    torch.testing.assert_close(found, reference.encode_text(tokenizer(texts), False), **CLOSE)
    assert load_backbone(str(tmp_path)).fingerprint() == ours.fingerprint()


class Malicious:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


@pytest.mark.usefixtures("openclip_checkpoints")
def test_a_pickle_that_runs_code_is_refused(tmp_path):
    victim, path = tmp_path / "made", tmp_path / "evil.pt"
    torch.save({"state_dict": {"module.x": torch.zeros(1)}, "evil": Malicious(victim)}, path)
    with pytest.raises(BackboneError, match="evil.pt is a pickle .* convert it once"):
        load_openclip("tiny-clip", str(path))
    assert not victim.exists()
    old = tmp_path / "old.pt"
    old.write_bytes(pickle.dumps({"state_dict": Malicious(victim)}, protocol=2))
    with pytest.raises(BackboneError, match="old.pt"):
        load_openclip("tiny-clip", str(old))
    assert not victim.exists()


def test_quick_gelu_of_tags_and_files(openclip_checkpoints):
    with pytest.raises(BackboneError, match="QuickGELU.*use ViT-B-32-quickgelu"):
        load_backbone("openclip:ViT-B-32:openai")
    path = str(openclip_checkpoints["tiny-clip"])
    with pytest.raises(BackboneError, match="use tiny-clip-quickgelu"):
        load_openclip("tiny-clip", path, quick_gelu=True)
    load_openclip("tiny-clip", path, quick_gelu=False)
    path = str(openclip_checkpoints["tiny-clip-quickgelu"])
    with pytest.raises(BackboneError, match="trained with GELU.*use tiny-clip$"):
        load_openclip("tiny-clip-quickgelu", path, quick_gelu=False)


def test_errors_name_the_value_and_the_choices(tmp_path, openclip_checkpoints):
    path = str(openclip_checkpoints["tiny-clip"])
    with pytest.raises(BackboneError, match="'ViT-B-33': choose from .*ViT-B-32"):
        load_openclip("ViT-B-33")
    with pytest.raises(BackboneError, match="'laion3b': choose from .*laion2b_s34b_b79k"):
        load_openclip("ViT-B-32", "laion3b")
    with pytest.raises(BackboneError, match="context_length 99 of tiny-clip: choose from 3 to 77"):
        load_openclip("tiny-clip", path, context_length=99)
    with pytest.raises(BackboneError, match=r"negclip.pt does not fit its model"):
        load_openclip("tiny-coca", path)
    with pytest.raises(BackboneError, match="ModifiedResNet has no supported patch tokens"):
        load_openclip("RN50")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a checkpoint")
    with pytest.raises(BackboneError, match="broken.safetensors"):
        load_openclip("tiny-clip", str(broken))


@pytest.mark.usefixtures("openclip_checkpoints")
def test_context_length_cuts_texts():
    ours = load_openclip("tiny-clip", context_length=8)
    tokens = ours.tokenize(["dog " * 20])
    assert tokens.ids.shape == (1, 8) and tokens.ids[0, -1] == 49407 and ours.dims.context == 8
