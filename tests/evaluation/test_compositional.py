"""What all benchmarks share: scoring with real models, chance, and the blind judge."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from intarsia.data.problems import Problems
from intarsia.errors import ConfigError, DataError
from intarsia.evaluation.blind import (
    END,
    UNKNOWN,
    Lessons,
    NgramModel,
    balanced,
    blind_negatives,
    blind_scores,
)
from intarsia.evaluation.compositional import COMPOSITIONAL, true_texts
from intarsia.evaluation.compositional_cases import CASES_AT_ONCE, Case, score_cases
from intarsia.methods import Filip
from intarsia.model import Model
from intarsia.types import Negative, Record

WORDS = "red green blue circle square star above below left right small large striped".split()
PAIRS = {  # benchmark -> its kinds, texts a case, chance of its metrics
    "aro": (("relation", "attribution"), 2, 50.0),
    "svo": (("subject", "verb", "object"), 2, 50.0),
    "sugarcrepe": (("add_att", "swap_obj"), 2, 50.0),
    "fg-ovd": (("hard",), 11, 100 / 11),
}


def shuffled_cases(folder: Path, kinds: tuple[str, ...], texts: int, n: int) -> list[Case]:
    """Noise pictures and random texts, of which a random one is called true."""
    rng, noise = Random(0), np.random.default_rng(0)
    paths = [folder / f"{i}.png" for i in range(10)]
    for path in paths:
        Image.fromarray(noise.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return [
        Case(
            f"case {i}",
            paths[i % 10],
            tuple(" ".join(rng.sample(WORDS, 5)) for _ in range(texts)),
            kinds[i % len(kinds)],
            f"stratum {i % 3}",
        )
        for i in range(n)
    ]


@pytest.mark.parametrize("name", PAIRS)
def test_shuffled_labels_land_at_chance(tmp_path, model, name):
    kinds, texts, chance = PAIRS[name]
    cases = shuffled_cases(tmp_path, kinds, texts, 180 if texts == 2 else 120)
    metrics = COMPOSITIONAL[name].evaluate(model, cases, Problems()).metrics
    for metric, found in metrics.items():
        if metric.endswith("_rank"):
            expected, deviation = 6.0, 10**0.5  # ranks 1 to 11 alike
        else:
            expected, deviation = chance, (chance * (100 - chance)) ** 0.5
        assert abs(found.value - expected) < 3.3 * deviation / found.n**0.5, (metric, found)


def test_winoground_runs_through_a_real_model(tmp_path, model):
    first = shuffled_cases(tmp_path, ("example",), 2, 20)
    cases = [
        case
        for i, c in enumerate(first)
        for case in (
            Case(str(i), tmp_path / f"{i % 10}.png", c.texts, "example"),
            Case(str(i), tmp_path / f"{(i + 1) % 10}.png", c.texts[::-1], "example"),
        )
    ]
    metrics = COMPOSITIONAL["winoground"].evaluate(model, cases, Problems()).metrics
    assert metrics["group"].value <= min(metrics["text"].value, metrics["image"].value) < 60
    assert metrics["text"].n == 20


@pytest.mark.parametrize("method", ["clip", "filip"])
def test_scores_are_those_of_the_pairs_one_by_one(tmp_path, model, backbone, method):
    if method == "filip":  # matches tokens, so both directions differ
        model = Model(backbone, Filip(backbone.dims)).eval()
    cases = shuffled_cases(tmp_path, ("hard",), 3, CASES_AT_ONCE + 5)
    good, scores = score_cases(model, cases, Problems())
    assert good == cases
    for i in (0, 7, CASES_AT_ONCE - 1, CASES_AT_ONCE, CASES_AT_ONCE + 4):
        with Image.open(cases[i].image) as picture:
            image = model.encode_images([picture.convert("RGB")])
        i2t, t2i = model.similarity(image, model.encode_texts(cases[i].texts))
        torch.testing.assert_close(scores[i], ((i2t + t2i) / 2)[0])


def test_no_picture_at_all_is_fatal(tmp_path, model):
    cases = [Case("row 1", tmp_path / "none.png", ("a", "b"), "add_att")]
    with pytest.raises(DataError, match="none of 1 cases has a picture"):
        COMPOSITIONAL["sugarcrepe"].evaluate(model, cases, Problems(max_fraction=1))


def test_ngram_probabilities_sum_to_one():
    model = NgramModel(["a dog runs", "a dog sleeps in a park", "the cat runs", "cats run"])
    contexts = [["<s>", "<s>"], ["a", "dog"], ["dog", "a"], ["never", "seen"], [UNKNOWN, "a"], []]
    for context in contexts:
        total = sum(model.probability(word, context) for word in model.vocabulary)
        assert total == pytest.approx(1, abs=1e-12)
    assert {END, UNKNOWN} < model.vocabulary


def test_bigram_probabilities_worked_by_hand():
    """From "a b", "a c": P(b|a) = (1 - d)/2 + d * 2/2 * Q(b), where Q is the unigram level.

    Five bigram types end in a, b, c and twice in the end; so Q(b) = (1 - d)/5 + d * 4/5 * 1/5,
    the vocabulary being a, b, c, the end and the unknown word.
    """
    d = 0.75
    model = NgramModel(["a b", "a c"], order=2, discount=d)
    q = (1 - d) / 5 + d * 4 / 5 / 5
    assert model.probability("b", ["a"]) == pytest.approx((1 - d) / 2 + d * q)
    assert model.probability("a", ["b"]) == pytest.approx(d * ((1 - d) / 5 + d * 4 / 5 / 5))


def test_the_blind_judge_prefers_what_people_say_and_knows_no_picture():
    model = NgramModel(["a man rides a horse", "a woman rides a bike", "a dog on the grass"])
    kinds = ("add_att", "swap_obj")
    texts = ("A man rides a bike.", "A bike rides a man.")
    cases = [Case(str(i), Path("nowhere.png"), texts, kinds[i]) for i in (0, 1)]
    found = COMPOSITIONAL["sugarcrepe"].blind(cases, model)
    assert found.metrics["micro"].value == 100
    first, again, other = blind_scores([texts[0], texts[0], texts[1]], model)
    assert first == again > other


def test_blind_winoground_is_zero_by_design():
    model = NgramModel(["a man rides a horse"])
    texts = ("a man rides a horse", "a horse rides a man")
    cases = [Case("0", Path("x"), texts, "example"), Case("0", Path("y"), texts[::-1], "example")]
    metrics = COMPOSITIONAL["winoground"].blind(cases, model).metrics
    assert [metric.value for metric in metrics.values()] == [0, 0, 0]


def test_balanced_negatives_leave_the_blind_judge_at_chance():
    rng = Random(0)
    captions = [" ".join(rng.choices(WORDS, weights=range(1, 14), k=6)) for _ in range(400)]
    model = NgramModel(captions[:200])
    records = [
        Record(
            str(i), b"", (text,), negatives=(Negative(0, "rare", " ".join(rng.sample(WORDS, 6))),)
        )
        for i, text in enumerate(captions[200:])
    ]
    assert blind_negatives(records, model).metrics["micro"].value > 65
    kept = balanced(records, model)
    metrics = blind_negatives(kept, model).metrics
    assert metrics["micro"].value == 50
    assert metrics["micro"].n >= 20
    assert kept == balanced(records, model)


def test_what_language_alone_tells_leaves_nothing_to_balance():
    model = NgramModel(["a dog runs"])
    record = Record("1", b"", ("a dog runs",), negatives=(Negative(0, "shuffle", "runs dog a"),))
    with pytest.raises(DataError, match="no negative of 1 records is left"):
        balanced([record], model)


def test_pictures_that_share_a_caption_with_the_question_do_not_teach():
    lessons = Lessons("own", "train", (("A dog runs.", "a pet"), ("a cat",), ("a bird", "a dog")))
    model, taught_on = lessons.teach(["A DOG RUNS", "a horse"])
    assert model.vocabulary == {"a", "cat", "bird", "dog", END, UNKNOWN}  # neither pet nor runs
    assert (taught_on.captions, taught_on.left_out) == (3, 1)
    assert lessons.teach(["a dog runs fast"])[1].left_out == 0
    with pytest.raises(DataError, match="captions of own train cannot teach .* all 3 pictures"):
        lessons.teach(["a dog runs", "a cat", "a dog"])


def test_the_true_texts_of_records_and_cases():
    items = [Record("1", b"", ("a", "b")), Case("2", Path("x"), ("true", "false"), "hard")]
    assert list(true_texts(items)) == ["a", "b", "true"]


def test_lessons_are_known_by_what_they_teach():
    lessons = Lessons("own", "train", (("a dog",),))
    assert lessons.key == Lessons("own", "train", (("a dog",),)).key
    others = Lessons("own", "val", (("a dog",),)), Lessons("own", "train", (("a cat",),))
    assert len({lessons.key, *(other.key for other in others)}) == 3


def test_a_language_model_needs_words():
    with pytest.raises(DataError, match="none of the texts"):
        NgramModel(["...", ""])
    with pytest.raises(ConfigError, match="order 0 and discount 0.75"):
        NgramModel(["a"], order=0)
    with pytest.raises(DataError, match="none of 1 records has a negative"):
        blind_negatives([Record("1", b"", ("a",))], NgramModel(["a"]))
