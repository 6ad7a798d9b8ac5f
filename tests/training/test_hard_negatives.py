"""False captions in training: which there are, where they stand and what they do to a loss."""

import logging
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import nn

from intarsia.backbones.loading import load_backbone
from intarsia.components.english import words_of
from intarsia.components.hard_negatives import (
    KINDS,
    FalseCaptions,
    HardNegatives,
    false_captions,
)
from intarsia.data.problems import Problems
from intarsia.data.records import Records
from intarsia.encode.pairs import LivePairs
from intarsia.errors import ConfigError
from intarsia.methods import Clip, ComAlign, Filip, Flair, HarmoClip, Registers
from intarsia.model import Model, ModelSpec
from intarsia.training.checks import check_hard_negatives
from intarsia.training.loop import Trainer
from intarsia.training.run import DataSpec, make_pairs, train
from intarsia.training.step import GradientStep
from intarsia.types import Dims

PAIRS = [0, 5, 9, 1, 13, 18, 22]
METHODS = [Clip, Filip, Flair, HarmoClip, Registers]


@pytest.fixture(scope="module")
def made(records) -> FalseCaptions:
    pytest.importorskip("spacy")
    return false_captions(Records.of(records), HardNegatives(per_pair=2), 0)


@pytest.fixture
def some(made) -> FalseCaptions:
    """Two of the first caption, none of the second, one of each other."""
    places = made.places.clone()
    places[1::2, 1] = -1
    places[2::2, 1] = -1
    places[1] = -1
    return replace(made, places=places)


def without_dropout(model: Model) -> Model:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


def gradients(model, batch, chunk):
    model.zero_grad()
    step = GradientStep(Fabric(accelerator="cpu", devices=1), model, chunk)
    losses = step.add(batch)
    return losses, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_clip_contrasts_each_picture_with_all_texts_and_each_text_with_all_pictures(
    backbone, records, some
):
    model = without_dropout(Model(backbone, Clip(backbone.dims)))
    batch = LivePairs(records, backbone, false=some)[PAIRS]
    texts = [some.texts[p] for p in some.places[PAIRS].flatten().tolist() if p >= 0]
    assert 0 < len(texts) < 2 * len(PAIRS)

    owners = batch.pictures
    captions = [c for r in records for c in r.captions]
    with torch.no_grad():
        x = F.normalize(backbone.encode_image(batch.pixels).image_global, dim=-1)
        read = [captions[i] for i in PAIRS] + texts
        y = torch.cat([backbone.encode_text(backbone.tokenizer([t])).text_global for t in read])
        logits = x @ F.normalize(y, dim=-1).T * model.method.temperature()
    num = len(PAIRS)
    costs = []
    for i in range(num):
        mine = [j for j in range(num) if owners[j] == owners[i]]
        row = [k for k in range(len(read)) if k not in mine]
        column = [k for k in range(num) if k not in mine]
        by_row = [
            -logits[i, j] + torch.cat([logits[i, j][None], logits[i, row]]).logsumexp(0)
            for j in mine
        ]
        by_column = [
            -logits[j, i] + torch.cat([logits[j, i][None], logits[column, i]]).logsumexp(0)
            for j in mine
        ]
        costs += [torch.stack(by_row).mean() / 2, torch.stack(by_column).mean() / 2]
    expected = torch.stack(costs).sum() / num
    found = model(batch)["loss"]
    torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-5)
    assert found > model(replace(batch, false=None))["loss"]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.__name__)
def test_chunks_of_pairs_with_their_negatives_give_the_gradients_of_the_batch(
    method, backbone, records, some
):
    model = without_dropout(Model(backbone, method(backbone.dims)))
    batch = LivePairs(records, backbone, links=True, phrases=True, false=some)[PAIRS]
    losses, whole = gradients(model, batch, None)
    assert all(value.isfinite() for value in losses.values())
    for chunk in (3, 1):
        found, cached = gradients(model, batch, chunk)
        torch.testing.assert_close(found, losses)
        torch.testing.assert_close(cached, whole, rtol=1e-4, atol=3e-6)
    plain, _ = gradients(model, replace(batch, false=None), None)
    assert losses["loss"] > plain["loss"]
    if method is HarmoClip:  # false texts speak of no region
        for name in ("lrc", "gr"):
            torch.testing.assert_close(losses[name], plain[name])


@pytest.mark.parametrize("negatives", ["batch", "patches", "both"])
def test_slots_of_false_texts_are_further_negatives_at_their_position(negatives):
    from intarsia.ops.contrastive import patchwise_contrastive

    g = torch.Generator().manual_seed(0)
    x = F.normalize(torch.randn(3, 4, 8, generator=g), dim=-1)
    y = F.normalize(torch.randn(5, 4, 8, generator=g), dim=-1)
    ids = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2, 8, 9])
    found = patchwise_contrastive(x, y, torch.tensor(5.0), ids, negatives)
    total = torch.zeros(())
    for i in range(4):
        for b in range(3):
            own = 5 * x[b, i] @ y[b, i]
            row, column = [own], [own]
            if negatives != "patches":
                row += [5 * x[b, i] @ y[c, i] for c in range(5) if c != b]
                column += [5 * x[c, i] @ y[b, i] for c in range(3) if c != b]
            if negatives != "batch":
                row += [5 * x[b, i] @ y[b, k] for k in range(4) if k != i]
                column += [5 * x[b, k] @ y[b, i] for k in range(4) if k != i]
            total += sum(torch.stack(side).logsumexp(0) - own for side in (row, column)) / 6
    torch.testing.assert_close(found, total)


def test_what_is_true_of_a_picture_is_never_made_of_its_captions(records, made):
    captions = [(r, c) for r in records for c in r.captions]
    for (record, caption), places in zip(captions, made.places.tolist(), strict=True):
        for text in (made.texts[p] for p in places if p >= 0):
            assert words_of(text) not in [words_of(c) for c in record.captions]
            assert words_of(text) != words_of(caption)


def test_a_false_caption_that_another_picture_bears_is_true_of_that_one(backbone, records):
    theirs = records[7].captions[0].upper()
    first = [sum(len(r.captions) for r in records[:i]) for i in range(len(records))]
    places = torch.full((len([c for r in records for c in r.captions]), 1), -1)
    places[first[3], 0], places[first[4], 0] = 0, 1
    false = FalseCaptions([theirs, "nothing that anybody says"], places)
    pairs = LivePairs(records, backbone, false=false)
    batch = pairs[[first[3], first[4], first[7]]]
    ids = batch.false.packed().ids
    true = batch.image_ids.view(3, -1)
    assert [(true == one).any(1).tolist() for one in ids] == [[False, False, True], [False] * 3]


def test_what_is_made_depends_on_the_seed_and_the_captions_alone(records):
    pytest.importorskip("spacy")
    spec = HardNegatives(kinds=("swap_attributes", "replace_word"))
    one, same, other = (false_captions(Records.of(records), spec, seed) for seed in (0, 0, 1))
    assert one.texts == same.texts and torch.equal(one.places, same.places)
    assert one.texts != other.texts


def test_the_swaps_are_those_of_the_evaluation(records):
    pytest.importorskip("spacy")
    from intarsia.components.text import TextParser
    from intarsia.evaluation.swaps import swaps

    spec = HardNegatives(kinds=("swap_attributes",))
    found = false_captions(Records.of(records), spec, 0)
    expected = [
        [n.text for n in r.negatives if n.kind == "swap_attributes" and n.caption == i]
        for r in swaps(records, TextParser())
        for i in range(len(r.captions))
    ]
    assert [[found.texts[p] for p in row if p >= 0] for row in found.places.tolist()] == expected
    assert any(expected)


def test_counts_are_told_and_captions_without_any_are_refused(records, caplog):
    pytest.importorskip("spacy")
    with caplog.at_level(logging.INFO):
        found = false_captions(Records.of(records), HardNegatives(), 0)
    have = int((found.places >= 0).any(1).sum())
    assert f"{have} of {len(found.places)} captions have a hard negative" in caplog.text
    dull = [replace(r, captions=("Nice!",), phrases=(), negatives=()) for r in records[:4]]
    with pytest.raises(ConfigError, match="none of 4 captions has a hard negative of swap_roles"):
        false_captions(Records.of(dull), HardNegatives(kinds=("swap_roles",)), 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": ("swap_colours",)}, "swap_colours"),
        ({"kinds": ()}, "give at least one"),
        ({"kinds": ("swap_roles", "swap_roles")}, "each once"),
        ({"per_pair": 0}, "per_pair is 0: choose from 1"),
        ({"kinds": ("swap_roles",), "per_pair": 2}, "the number of kinds, 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        HardNegatives(**settings)


def test_components_and_whole_texts_do_not_go_together(backbone):
    model = Model(backbone, ComAlign(backbone.dims), freeze="backbone")
    with pytest.raises(ConfigError, match="ComAlign trains on the components of captions"):
        check_hard_negatives(model)
    check_hard_negatives(Model(backbone, Clip(backbone.dims)))


@pytest.mark.parametrize("method", [Clip, Filip, Flair, Registers], ids=lambda m: m.__name__)
def test_cached_states_give_the_losses_of_live_towers(method, backbone, records, some, tmp_path):
    model = Model(backbone, method(backbone.dims), freeze="towers").eval()
    cached = make_pairs(model, records, tmp_path, Problems(), false=some)[PAIRS]
    live = LivePairs(records, backbone, false=some)[PAIRS]
    with torch.no_grad():
        found, expected = model(cached), model(live)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)  # states are half precision
    assert found["loss"] > model(replace(cached, false=None))["loss"]


def trained(out, **more):
    spec = ModelSpec({"spec": "scenes-clip"}, freeze=more.pop("freeze", "none"))
    settings = {"batch_size": 16, "save_every": 3, "log_every": 1}
    trainer = Trainer(steps=more.pop("steps", 6), lr=more.pop("lr", 1e-3), **settings)
    records = more.pop("records")
    data = DataSpec("scenes", split="train[:48]")
    return train(spec, data, trainer, out, records=records, cache=out.parent / "cache", **more)


def test_negatives_are_kept_for_the_next_run(records, tmp_path, monkeypatch):
    pytest.importorskip("spacy")
    given, spec = Records.of(records[:6]), HardNegatives(kinds=("replace_word",))
    first = false_captions(given, spec, 0, tmp_path)
    (file,) = tmp_path.glob("negatives-*.json")

    def parsed(*_):
        raise LookupError("made anew")

    monkeypatch.setattr("intarsia.components.hard_negatives._parsed", parsed)
    again = false_captions(given, spec, 0, tmp_path)
    assert again.texts == first.texts and torch.equal(again.places, first.places)
    for other in ((given, spec, 1), (Records.of(records[:5]), spec, 0)):
        with pytest.raises(LookupError, match="made anew"):
            false_captions(*other, tmp_path)
    assert file.exists()


@pytest.mark.parametrize("freeze", ["none", "towers"])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(freeze, records, tmp_path, monkeypatch):
    pytest.importorskip("spacy")
    from intarsia.training.fit import Run

    spec = HardNegatives(kinds=("swap_attributes", "replace_word"))
    settings = {"records": records, "freeze": freeze, "hard_negatives": spec}
    whole = trained(tmp_path / "whole", **settings).state_dict()
    write = Run._save

    def save_and_stop(self):
        write(self)
        if self.step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "parts", **settings)
    parts = trained(tmp_path / "parts", resume=True, **settings).state_dict()
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
    plain = trained(tmp_path / "plain", **settings | {"hard_negatives": None}).state_dict()
    assert any(not torch.equal(plain[name], whole[name]) for name in whole)
    with pytest.raises(ConfigError, match="hard_negatives"):
        trained(tmp_path / "parts", resume=True, **settings | {"hard_negatives": HardNegatives()})


def accuracy(model, records, false):
    pairs = LivePairs(records, model.backbone, false=false)
    own = [i for i, row in enumerate(false.places.tolist()) if row[0] >= 0]
    with torch.no_grad():
        image, text = model.eval().embed(pairs[own])
    true, untrue = text["global"].split(len(own))
    x = image["global"]
    return float(((x * true).sum(1) > (x * untrue).sum(1)).float().mean())


def test_30_steps_tell_true_captions_from_false_ones_better(records, tmp_path):
    """From half of them, and more than in as many steps without."""
    pytest.importorskip("spacy")
    records = records[:24]
    spec = HardNegatives(kinds=("shuffle_words", "replace_word"))
    false = false_captions(Records.of(records), spec, 0)
    fresh = Model(load_backbone("scenes-clip"), Clip(Dims(1, (1, 1), 1)))
    before = accuracy(fresh, records, false)
    settings = {"steps": 30, "lr": 3e-3, "records": records}
    found = trained(tmp_path / "with", **settings, hard_negatives=spec)
    without = trained(tmp_path / "without", **settings)
    after, plain = (accuracy(model, records, false) for model in (found, without))
    assert before == pytest.approx(0.5, abs=0.1)
    assert after > before + 0.1 and after > plain + 0.1


def test_every_kind_is_made_of_photos_captions():
    """As the five kinds are of one caption that has room for all of them."""
    pytest.importorskip("spacy")
    from intarsia.types import Record

    caption = "A black dog chases a white cat while an old man holds a small boy."
    other = "A brown horse watches two women who throw a red ball."
    records = [Record("1", b"", (caption,)), Record("2", b"", (other,))]
    found = false_captions(Records.of(records), HardNegatives(KINDS, per_pair=5), 0)
    texts = [found.texts[p] for p in found.places[0].tolist() if p >= 0]
    assert len(texts) == 5 and caption not in texts
    words = [sorted(words_of(text)) for text in texts]
    assert sum(some == sorted(words_of(caption)) for some in words) == 4
