"""configs/paper: every row is what it says, and trains an epoch from a small model of its family.

The weights of the real bases cannot be had here. In their place stand random checkpoints of the
same architectures, narrow and shallow, saved in the same formats and with the real ones' inverse
temperature of 100; the data are a few generated pictures in the layout of the real data sets, read
by the split that the config names.
"""

import json
import math
from functools import cache
from pathlib import Path

import open_clip
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerFast

from intarsia.cli import main, train_parser
from intarsia.model import load_model

FOLDER = Path(__file__).parents[1] / "configs" / "paper"
METHODS = {
    "clip": "Clip",
    "registers": "Registers",
    "harmoclip": "HarmoClip",
    "comalign": "ComAlign",
}
BASES = ("vit-b-32", "vit-l-14", "negclip", "coca")
ROWS = [f"{method}_{base}" for method in METHODS for base in BASES]
VISION = {"layers": 2, "width": 48, "head_width": 16, "patch_size": 16, "image_size": 32}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
COCA = {
    "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_heads": 2}
    | {"output_tokens": True},
    "text_cfg": {**TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {**TEXT, "context_length": 76, "attn_pooler_heads": 2},
    "custom_text": True,
}
CLIP = {"quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT}
LARGE = {  # as ViT-L/14: patches of 14, more blocks, a wider text tower
    "quick_gelu": True,
    "vision_cfg": {**VISION, "layers": 3, "width": 64, "patch_size": 14, "image_size": 28},
    "text_cfg": {**TEXT, "width": 48, "heads": 3},
}
STANDS_FOR = {"vit-b-32": "paper-clip", "vit-l-14": "paper-large", "coca": "paper-coca"}
SCALE = 100.0  # of OpenAI's CLIP and of open_clip's CoCa
FRESH = 1 / 0.07
TEMPERATURES = {
    "clip": {"temperature": SCALE},
    "registers": {"temperature": SCALE, "local_temperature": FRESH},
    "harmoclip": {
        "temperature": SCALE,
        "lexeme_temperature": SCALE,
        "region_temperature": SCALE,
    },
    "comalign": {f"temperatures.{name}": FRESH for name in ("entity", "relation", "global")},
}
"""Where each starts: in the base's space at its scale, in a space of a method's own afresh."""
PAIRS = 5  # three of Visual Genome, whose fourth picture is COCO's, and two of Flickr30k
PHRASES = ("a red circle", "a small dog", "a man rides a black horse")


@cache
def options_of(row: str):
    return train_parser().parse_args(["--config", str(FOLDER / f"{row}.yaml"), "--out", "nowhere"])


def test_every_method_has_every_base():
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_what_its_name_says(row):
    method, base = row.split("_")
    options, same_base = options_of(row), options_of(f"clip_{base}")
    assert options.method.class_path == f"intarsia.methods.{METHODS[method]}"
    assert options.backbone == same_base.backbone
    assert options.data == same_base.data
    if method == "comalign":
        assert options.freeze == "backbone" and options.trainer.batch_size == 1600
        assert options.trainer == options_of("comalign_vit-b-32").trainer
    else:
        assert options.freeze == "none" and options.trainer == same_base.trainer
    if method == "harmoclip":
        assert options.method.init_args.gr_target == "phrase"  # METHODS: region-language alignment
    if method == "registers":
        arch = options.backbone.split(":")[1]
        vision = open_clip.get_model_config(arch)["vision_cfg"]
        positions = (vision["image_size"] // vision["patch_size"]) ** 2
        assert options.method.init_args.lambda_local * positions == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("base", BASES)
def test_open_clip_knows_the_base(base):
    """Architecture and tag exist, and agree on the activation."""
    _, arch, pretrained = options_of(f"clip_{base}").backbone.split(":")
    config = open_clip.get_model_config(arch)
    if base == "negclip":
        assert config["quick_gelu"] and pretrained == "checkpoints/negclip.pth"
    else:
        tag = open_clip.get_pretrained_cfg(arch, pretrained)
        assert tag and bool(tag.get("quick_gelu")) == bool(config.get("quick_gelu"))


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory) -> dict[str, str]:
    """A spec of a small random checkpoint for each base."""
    folder = tmp_path_factory.mktemp("bases")
    paths = {}
    for arch, config in (("paper-clip", CLIP), ("paper-large", LARGE), ("paper-coca", COCA)):
        (folder / f"{arch}.json").write_text(json.dumps({"embed_dim": 24, **config}))
        open_clip.add_model_config(folder / f"{arch}.json")
        state = open_clip.create_model(arch).state_dict()
        state["logit_scale"] = torch.tensor(math.log(SCALE))
        paths[arch] = folder / f"{arch}.safetensors"
        save_file(state, paths[arch])
        if arch == "paper-clip":  # as a training run leaves it
            state = {f"module.{key}": value for key, value in state.items()}
            torch.save({"epoch": 5, "state_dict": state}, folder / "negclip.pth")
    return {
        **{base: f"openclip:{arch}:{paths[arch]}" for base, arch in STANDS_FOR.items()},
        "negclip": f"openclip:paper-clip:{folder / 'negclip.pth'}",
        "transformers": f"hf:{transformers_clip(folder / 'hf')}",
    }


def transformers_clip(folder: Path) -> Path:
    words = sorted({word for phrase in PHRASES for word in phrase.split()})
    names = {name: i for i, name in enumerate(["<pad>", "<unk>", "<start>", "<end>", *words])}
    tokenizer = Tokenizer(models.WordLevel(names, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 2), ("<end>", 3)]
    )
    special = {"pad_token": "<pad>", "unk_token": "<unk>"}
    special |= {"bos_token": "<start>", "eos_token": "<end>"}
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"hidden_size": 32, "intermediate_size": 64}
    text = {"vocab_size": len(names), "max_position_embeddings": 77, "eos_token_id": 3, **sizes}
    text |= {"bos_token_id": 2, "pad_token_id": 0}
    vision = {"image_size": 32, "patch_size": 16, **sizes}
    config = CLIPConfig(
        text_config=text,
        vision_config=vision,
        projection_dim=24,
        logit_scale_init_value=math.log(SCALE),
    )
    crop = {"height": 32, "width": 32}
    parts = (
        CLIPModel(config),
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=77, **special),
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=crop),
    )
    for part in parts:
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Four pictures of Visual Genome, one of them COCO's, and two of Flickr30k Entities."""
    root = tmp_path_factory.mktemp("data")
    pictures, described = [], []
    for key in range(1, 5):
        draw(root / "visual_genome" / "VG_100K" / f"{key}.jpg", key)
        pictures.append(
            {"image_id": key, "url": f"https://x/VG_100K/{key}.jpg", "width": 48, "height": 40}
            | {"coco_id": 7 if key == 1 else None, "flickr_id": None}
        )
        box = {"y": 2, "width": 16, "height": 20}
        regions = [
            {"region_id": i, "phrase": text, "x": 12 * i, **box} for i, text in enumerate(PHRASES)
        ]
        described.append({"id": key, "regions": regions})
    write(root / "visual_genome/image_data.json", json.dumps(pictures))
    write(root / "visual_genome/region_descriptions.json", json.dumps(described))
    entities = root / "flickr30k_entities"
    write(entities / "train.txt", "8\n9\n")
    for key in (8, 9):
        draw(entities / "flickr30k-images" / f"{key}.jpg", key)
        write(entities / f"Sentences/{key}.txt", "[/EN#1/animals A small dog] waits .\n")
        size = "<size><width>48</width><height>40</height></size>"
        box = "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>30</xmax><ymax>30</ymax></bndbox>"
        thing = f"<object><name>1</name>{box}</object>"
        write(entities / f"Annotations/{key}.xml", f"<annotation>{size}{thing}</annotation>")
    return root


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", (48, 40), (25 * seed, 255 - 25 * seed, 90))
    picture.paste((250, 30 * seed % 255, 0), (seed, seed, 20 + seed, 25))
    picture.save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("row", "base"),
    [(row, row.split("_")[1]) for row in ROWS]
    + [(f"{m}_vit-b-32", "transformers") for m in METHODS],
)
def test_a_row_trains_an_epoch(row, base, stand_ins, data, tmp_path, monkeypatch):
    monkeypatch.setenv("INTARSIA_DATA", str(data))
    if row.startswith("comalign"):
        pytest.importorskip("spacy", reason="needs the extra 'text'")
    given = ["--config", str(FOLDER / f"{row}.yaml"), "--backbone", stand_ins[base]]
    given += ["--out", str(tmp_path / "run"), "--cache", str(data / "cache")]
    smaller = "--trainer.epochs 1 --trainer.batch_size 2 --trainer.log_every 1"
    smaller += " --trainer.num_workers 0 --trainer.accelerator cpu --components.detector null"
    if options_of(row).trainer.grad_cache_chunk:
        smaller += " --trainer.grad_cache_chunk 1"
    main(["train", *given, *smaller.split()])
    logged = [*map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())]
    steps = [line for line in logged if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, PAIRS // 2 + 1))
    assert all(math.isfinite(line["loss"]) and line["loss"] > 0 for line in steps)
    model, method = load_model(tmp_path / "run"), row.split("_")[0]
    assert type(model.method).__name__ == METHODS[method]
    starts = TEMPERATURES[method]
    reached = {
        name.removesuffix(".logit_scale"): parameter.exp().item()
        for name, parameter in model.method.named_parameters()
        if name.endswith("logit_scale")
    }
    assert reached == pytest.approx(starts, rel=0.01)  # two steps away from there
    assert not model.backbone.training
    kept = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert kept["data"]["split"] == "joined-coco+flickr30k_entities"
    if row.startswith("harmoclip"):
        assert all(line["lrc"] > 0 and line["gr"] > 0 for line in steps)  # regions and phrases
