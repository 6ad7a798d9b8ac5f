"""Exported checkpoints are loaded by their own library alone, and embed as the trained model."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from intarsia.cli import main
from intarsia.errors import ConfigError
from intarsia.export import export
from intarsia.model import CONFIG, WEIGHTS, Model, ModelSpec, dump_config

TEXTS = ["a small red circle above a blue square", "a star"]
ARCHITECTURE = {
    "embed_dim": 24,
    "vision_cfg": {"layers": 2, "width": 48, "head_width": 16, "patch_size": 16, "image_size": 64},
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 2,
    },
}
LOADERS = {
    "transformers": """
from transformers import AutoModel, AutoTokenizer, AutoImageProcessor
model = AutoModel.from_pretrained(folder).eval()
tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
pixels = AutoImageProcessor.from_pretrained(folder, backend="pil")(image, return_tensors="pt")
found = model(**tokens, **pixels)
image, text, scale = found.image_embeds, found.text_embeds, model.logit_scale
""",
    "open_clip": """
import open_clip
model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
model.eval()
image = model.encode_image(preprocess(image)[None], normalize=True)
tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
text, scale = model.encode_text(tokenizer(texts), normalize=True), model.logit_scale
""",
}
SCRIPT = """
import sys, torch
from PIL import Image
folder, picture, out, *texts = sys.argv[1:]
image = Image.open(picture)
with torch.inference_mode():
    exec({loader!r})
torch.save((image, text, scale.detach()), out)
assert not any(name.startswith("intarsia") for name in sys.modules)
"""


def trained(spec: str, folder: Path) -> Model:
    """A model of random weights and an odd temperature, saved as training leaves it."""
    model_spec = ModelSpec({"spec": spec})
    model = model_spec.build(seed=3)
    with torch.no_grad():
        model.method.temperature.logit_scale.fill_(3.21)
        for parameter in model.backbone.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    folder.mkdir()
    config = {"backbone": model_spec.backbone, "method": model_spec.method, "seed": 3}
    (folder / CONFIG).write_text(dump_config(config | {"freeze": "none", "dense": "value"}))
    model.save(folder / WEIGHTS)
    return model.eval()


@pytest.fixture
def picture(tmp_path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (130, 112, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.mark.parametrize("library", LOADERS)
def test_its_own_library_alone_gives_the_same_embeddings(library, tmp_path, picture):
    spec = "scenes-clip"
    if library == "open_clip":
        (tmp_path / "tiny-export.json").write_text(json.dumps(ARCHITECTURE))
        open_clip.add_model_config(tmp_path / "tiny-export.json")
        spec = "openclip:tiny-export"
    model = trained(spec, tmp_path / "run")
    export(tmp_path / "run", library, tmp_path / "out")
    script = SCRIPT.format(loader=LOADERS[library])
    command = [sys.executable, "-c", script, tmp_path / "out", picture, tmp_path / "x.pt", *TEXTS]
    subprocess.run(command, check=True)
    image, text, scale = torch.load(tmp_path / "x.pt", weights_only=True)
    torch.testing.assert_close(
        model.encode_images([str(picture)])["global"], image, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(model.encode_texts(TEXTS)["global"], text, atol=1e-5, rtol=0)
    assert float(scale) == pytest.approx(3.21)


def test_the_card_names_data_method_and_metrics(tmp_path):
    trained("scenes-clip", tmp_path / "run")
    result = {
        "data": "scenes",
        "split": "test",
        "protocol": "retrieval",
        "metrics": {"i2t_r1": {"value": 12.5, "ci95": [10.0, 15.0]}},
        **{"n": 800, "per_query": {}, "model": "run", "seed": 0, "config": {}},
        **{"versions": {}, "revision": "0"},
    }
    (tmp_path / "result.json").write_text(json.dumps(result))
    (tmp_path / "other.json").write_text(json.dumps(result | {"split": "dev"}))
    files = [str(tmp_path / name) for name in ("result.json", "other.json")]
    asked = ["export", "--model", str(tmp_path / "run"), "--to", "transformers"]
    main([*asked, "--out", str(tmp_path / "out"), "--results", *files])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| scenes test | retrieval | i2t_r1 | 12.50 | 10.00 to 15.00 |" in card
    assert "| scenes dev | retrieval |" in card and "intarsia.methods.Clip" in card


def test_another_library_or_a_full_folder_is_an_error(tmp_path):
    trained("scenes-clip", tmp_path / "run")
    with pytest.raises(ConfigError, match="export it --to transformers"):
        export(tmp_path / "run", "open_clip", tmp_path / "out")
    with pytest.raises(ConfigError, match="not empty"):
        export(tmp_path / "run", "transformers", tmp_path / "run")
    trained("scenes-resnet", tmp_path / "dual")
    with pytest.raises(ConfigError, match="load it with intarsia.load_model"):
        export(tmp_path / "dual", "transformers", tmp_path / "out")
