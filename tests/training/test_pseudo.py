"""Links found by labels, then by the model as it trains."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from intarsia.cli import main
from intarsia.data.problems import Problems
from intarsia.encode.cached import CachedPairs
from intarsia.encode.pairs import LivePairs
from intarsia.errors import ConfigError
from intarsia.model import ModelSpec, load_model
from intarsia.ops.regions import pool_regions, pool_words
from intarsia.training.checkpoint import LAST
from intarsia.training.loop import Trainer
from intarsia.training.pseudo import PseudoLinks, PseudoSpec
from intarsia.training.run import DataSpec, make_pairs, train
from intarsia.types import Record, Region

pytest.importorskip("spacy", reason="needs the extra 'text'")

DATA = DataSpec("scenes")


def harmoclip(freeze="none", **arguments) -> ModelSpec:
    method = {"class_path": "intarsia.methods.HarmoClip", "init_args": arguments}
    return ModelSpec({"spec": "scenes-clip"}, method, freeze=freeze)


def small(**settings) -> Trainer:
    defaults = {"epochs": 3, "batch_size": 24, "precision": "32-true", "log_every": 1}
    return Trainer(**{**defaults, **settings})


def lines(out, key) -> list[float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row[key] for row in rows if key in row]


def bare(records, labels=True) -> list[Record]:
    """Scenes of which nobody has said which phrase is what; without ``labels`` not even what the
    regions are."""
    return [
        replace(
            r, phrases=(), regions=r.regions if labels else tuple(Region(g.box) for g in r.regions)
        )
        for r in records
    ]


@pytest.fixture
def unlabelled(records):
    return bare(records[:12], labels=False)


def found_by(records, tmp_path, **settings) -> PseudoLinks:
    return PseudoLinks(records, PseudoSpec(**settings), tmp_path, Problems())


def links_in(pairs):
    """Of all captions, in order."""
    rows = torch.arange(len(pairs.pictures))
    return pairs.linker(pairs.captioned(rows), pairs.tokens_of(rows))


def test_training_starts_with_what_labels_say(records, tmp_path, backbone):
    links = found_by(bare(records[:12]), tmp_path)
    pairs = LivePairs(links.records, backbone, links=True)
    truth = LivePairs(records[:12], backbone, links=True)
    made = int(links_in(pairs).mask.sum())
    assert made > 0.5 * int(links_in(truth).mask.sum()) and links.state() is None
    right = sum(
        box.tolist() in links_in(truth).boxes[row].tolist()
        for row in range(len(pairs))
        for box in links_in(pairs).boxes[row][links_in(pairs).mask[row]]
    )
    assert right > 0.95 * made


@pytest.mark.parametrize("freeze", ["none", "towers"])
def test_the_model_matches_what_is_most_alike(unlabelled, tmp_path, freeze):
    """Regions without labels: every link must be the model's own choice."""
    torch.manual_seed(0)
    model = harmoclip(freeze, gr_target="image").build().train()
    links = found_by(unlabelled, tmp_path, refresh=1, score_floor=-1.0)
    pairs = make_pairs(model, links.records, tmp_path, Problems())
    assert isinstance(pairs, CachedPairs if freeze == "towers" else LivePairs)
    assert not links_in(pairs).mask.any()
    assert links.refresh(model, pairs) == len(links.state()) >= int(links_in(pairs).mask.sum()) > 40
    assert model.training
    rows = [0, 5, 21]
    batch = pairs[rows]
    with torch.no_grad():
        x = model.eval().features(batch)
    grid = model.backbone.dims.grid
    for b, row in enumerate(rows):
        record = links.records[int(pairs.pictures[row])]
        boxes = torch.tensor([region.box for region in record.regions])[None] / 112
        regions = pool_regions(x.image_patches[b : b + 1], grid, boxes)[0]
        one = batch.links.rows(slice(b, b + 1))
        lexemes = pool_words(x.text_tokens[b : b + 1], x.text_mask[b : b + 1], one.words)[0]
        scores = (lexemes @ regions.mT)[one.mask[0]]
        chosen = [boxes[0].tolist().index(box.tolist()) for box in one.boxes[0][one.mask[0]]]
        assert len(set(chosen)) == len(chosen)
        mine = sum(scores[i, region] for i, region in enumerate(chosen))
        order = np.random.default_rng(0)
        for _ in range(50):
            other = order.permutation(len(record.regions))[: len(chosen)]
            assert mine >= sum(scores[i, region] for i, region in enumerate(other)) - 1e-4


def test_a_picture_is_looked_at_once_whatever_is_said_of_it(unlabelled, tmp_path, monkeypatch):
    model = harmoclip().build()
    links = found_by(unlabelled, tmp_path, refresh=1, score_floor=-1.0)
    pairs = make_pairs(model, links.records, tmp_path, Problems())
    assert len(pairs) > 2 * len(unlabelled)
    counts, tower = [], model.backbone.image_states
    monkeypatch.setattr(
        model.backbone,
        "image_states",
        lambda x, **dense: counts.append(len(x)) or tower(x, **dense),
    )
    links.refresh(model, pairs)
    assert sum(counts) == len(unlabelled)


def test_two_processes_find_the_links_of_one(tmp_path):
    common = "train --data.name scenes --data.split train[:12] --backbone scenes-clip"
    common += " --method HarmoClip --method.init_args.gr_target phrase --pseudo.refresh 1"
    common += " --trainer.precision 32-true --trainer.log_every 1 --trainer.steps 4"
    common += " --trainer.accelerator cpu --trainer.batch_size"
    two = [*f"{common} 8 --trainer.devices 2 --out".split(), str(tmp_path / "two")]
    subprocess.run([sys.executable, "-m", "intarsia", *two], check=True, timeout=300)
    main([*f"{common} 16 --out".split(), str(tmp_path / "one")])
    found = lines(tmp_path / "one", "links")
    assert found == lines(tmp_path / "two", "links") and min(found) > 0
    assert lines(tmp_path / "two", "loss") == pytest.approx(
        lines(tmp_path / "one", "loss"), rel=1e-3
    )


def test_the_floor_of_the_cosine_leaves_out(unlabelled, tmp_path):
    model = harmoclip().build()
    links = found_by(unlabelled, tmp_path, refresh=1, score_floor=2.0)
    pairs = make_pairs(model, links.records, tmp_path, Problems())
    assert links.refresh(model, pairs) == 0 and not links_in(pairs).mask.any()


def test_every_so_many_epochs(tmp_path):
    for refresh, times in ((None, 0), (1, 4), (2, 2)):
        links = found_by([], tmp_path, refresh=refresh)
        steps = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
        due = [links.are_due(a, b) for a, b in zip([-1, *steps], steps, strict=False)]
        assert sum(due) == times and not any(due[:2])


def test_stopped_and_resumed_equals_never_stopped(unlabelled, tmp_path):
    """Mirrored pictures, links of the model's own: 2 steps an epoch, matched before steps 3 and 5;
    what is kept of step 3 holds the first matching."""

    def interrupted(_):
        raise KeyboardInterrupt

    spec = harmoclip(gr_target="phrase")
    settings = {"batch_size": 8, "flip": True, "save_every": 3, "layer_decay": 0.8}
    common = {"records": unlabelled[:4], "pseudo": PseudoSpec(refresh=1, score_floor=-1.0)}
    caches = {"cache": tmp_path / "cache"}
    train(spec, DATA, small(**settings), tmp_path / "a", **common, **caches)
    assert len(lines(tmp_path / "a", "links")) == 2 and lines(tmp_path / "a", "lrc")[0] == 0
    assert lines(tmp_path / "a", "lrc")[-1] > 0
    stopped = small(**settings, validate_every=4)
    with pytest.raises(KeyboardInterrupt):
        train(spec, DATA, stopped, tmp_path / "b", **common, **caches, validate=interrupted)
    assert (tmp_path / "b" / LAST).exists()
    train(spec, DATA, small(**settings), tmp_path / "b", **common, **caches, resume=True)
    assert lines(tmp_path / "b", "loss") == lines(tmp_path / "a", "loss")
    whole, resumed = load_model(tmp_path / "a"), load_model(tmp_path / "b")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_a_detector_looks_once(records, tmp_path, monkeypatch):
    calls = []

    class Eyes:
        def __call__(self, images, texts=None):
            calls.append(len(images))
            return [[Region((0, 0, 50, 50), "circle", 0.5)] for _ in images]

        def fingerprint(self):
            return "eyes"

    monkeypatch.setattr("intarsia.training.pseudo.load_detector", lambda spec: Eyes())
    one = found_by(records[:5], tmp_path, detector="onnx:any.onnx")
    two = found_by(records[:7], tmp_path, detector="onnx:any.onnx")
    assert calls == [5, 2]
    assert [r.regions for r in one.records] == [r.regions for r in two.records[:5]]
    assert one.records[0].regions == (Region((0, 0, 50, 50), "circle", 0.5),)


def test_what_makes_no_sense_is_refused(records, tmp_path):
    with pytest.raises(ConfigError, match="pseudo.refresh is 0"):
        found_by(records[:1], tmp_path, refresh=0)
    with pytest.raises(ConfigError, match="which Clip does not use"):
        train(
            ModelSpec({"spec": "scenes-clip"}),
            DATA,
            small(),
            tmp_path / "r",
            records=records[:8],
            pseudo=PseudoSpec(),
        )
