"""A method with a term and a decoder of one's own, in a file of one's own, is like any other."""

import json
from pathlib import Path

import pytest
import torch

from intarsia.cli import main
from intarsia.data.scenes import SceneSet
from intarsia.identity import model_key
from intarsia.model import load_model

CODE = '''
import torch
from torch import nn

from intarsia.methods import Method
from intarsia.methods.base import Temperature, normalised
from intarsia.terms import Dot, Side, Term
from intarsia.types import Embeddings


class SoftMax(Term):
    """The mean over words of a soft maximum over patches, both ways alike."""

    def scores(self, x: Side, y: Side):
        products = torch.einsum("imd,tnd->itmn", x.vectors, y.vectors)
        best = (10 * products).logsumexp(2) / 10
        found = (best * y.mask).sum(2) / y.mask.sum(1)
        return found, found


class Own(Method):
    """Patches against words, and a head that guesses a caption's first words from the picture."""

    needs = frozenset({"patches", "tokens", "ids"})
    terms = (Dot("global"), SoftMax("words", i2t=0.5, t2i=0.5))

    def __init__(self, dims, *, lambda_words: float = 0.1) -> None:
        super().__init__(dims)
        self.lambda_words = lambda_words
        self.temperature, self.words_temperature = Temperature(), Temperature()
        self.guess = nn.Linear(dims.embed, 49_408)

    def encode_image(self, x):
        groups = {"global": normalised(x.image_global), "words": normalised(x.image_patches)}
        return Embeddings(groups, extra={"state": x.image_global} if self.training else {})

    def encode_text(self, x):
        words = normalised(x.text_tokens) * x.text_mask[..., None]
        groups = {"global": normalised(x.text_global), "words": words}
        extra = {"ids": x.tokens.ids, "mask": x.tokens.mask} if self.training else {}
        return Embeddings(groups, {"words": x.text_mask}, extra=extra)

    def loss(self, image, text):
        whole, words = (
            term.contrast(image, text, temperature())
            for term, temperature in zip(self.terms, (self.temperature, self.words_temperature))
        )
        ids, mask = text.extra["ids"], text.extra["mask"]
        log_p = self.guess(image.extra["state"].float()).log_softmax(1)
        caption = -(log_p.gather(1, ids) * mask).sum(1) / mask.sum(1)
        total = whole + words + self.lambda_words * caption.mean()
        return {"loss": total, "global": whole, "words": words, "caption": caption.mean()}
'''
TRAIN = ["--backbone", "scenes-clip", "--method", "own_method.Own", "--data", "scenes"]
TRAINER = ["--trainer.batch_size", "8", "--trainer.log_every", "1", "--trainer.accelerator", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What one's own file is, and a run of it."""
    place = tmp_path_factory.mktemp("own")
    (place / "own_method.py").write_text(CODE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        patch.chdir(place)
        train(place / "run")
        yield place


def train(out: Path, *options: str) -> list[dict]:
    given = ["--split", "train[:16]", "--trainer.steps", "20", *TRAINER, *options]
    main(["train", *TRAIN, *given, "--out", str(out)])
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def last_of(lines: list[dict], name: str) -> float:
    return sum(line[name] for line in lines[-5:]) / 5


def test_it_trains(folder):
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [*range(1, 21)]
    for name in ("loss", "words", "caption"):
        assert last_of(lines, name) < lines[0][name]


@pytest.mark.parametrize(
    "options",
    [["--trainer.grad_cache_chunk", "3"], ["--freeze", "towers"], ["--trainer.flip", "true"]],
    ids=lambda options: options[0],
)
def test_every_way_of_training_knows_what_its_loss_reads(folder, tmp_path, options):
    lines = train(tmp_path / "run", *options, "--trainer.precision", "32-true")
    assert last_of(lines, "caption") < 0.8 * lines[0]["caption"]


def test_gradients_in_chunks_reach_what_is_no_group(folder, tmp_path):
    """The decoder's path to the towers, too: the first steps' losses are those of one pass."""
    same = ["--trainer.precision", "32-true"]
    whole = train(tmp_path / "whole", *same)
    parts = train(tmp_path / "parts", *same, "--trainer.grad_cache_chunk", "3")
    for a, b in zip(whole[:4], parts[:4], strict=True):
        for name in ("loss", "words", "caption", "grad_norm"):
            assert a[name] == pytest.approx(b[name], rel=2e-3), (a["step"], name)


def test_it_is_evaluated(folder):
    for protocol in ("retrieval", "negatives", "pointing"):
        out = folder / f"{protocol}.json"
        data = ["--data", "scenes", "--split", "test[:6]", "--json", str(out)]
        main(["evaluate", protocol, "--model", str(folder / "run"), *data, "--device", "cpu"])
        assert json.loads(out.read_text())["n"] > 0


def test_it_enters_a_suite(folder):
    out = folder / "suite"
    models = ["--models", str(folder / "run"), "scenes-clip"]
    main(["evaluate", "suite", *models, "--data", "scenes:test[:3]", "--device", "cpu"]
         + ["--out", str(out)])  # fmt: skip
    assert len(json.loads((out / "suite.json").read_text())["models"]) == 2


def test_it_answers_and_shows_who_matches_whom(folder):
    model = load_model(folder / "run")
    record = SceneSet("test", 3)[0]
    image, text = model.encode_images(record.image), model.encode_texts(record.captions[0])
    assert not image.extra and not text.extra
    found = model.alignment(record.image, record.captions[0])
    torch.testing.assert_close(found, image["words"][0] @ text["words"][0].mT)
    i2t, t2i = model.similarity(image, text)
    products = (10 * found[:, text.masks["words"][0]]).logsumexp(0).mean() / 10
    expected = image["global"][0] @ text["global"][0] + 0.5 * products
    torch.testing.assert_close(i2t.squeeze(), expected)
    torch.testing.assert_close(t2i.squeeze(), expected)


def test_a_change_of_its_file_is_another_model(folder):
    model = load_model(folder / "run")
    before = model_key(model)
    (folder / "own_method.py").write_text(CODE + "\n# changed\n")
    assert model_key(model) != before
    (folder / "own_method.py").write_text(CODE)
    assert model_key(model) == before
