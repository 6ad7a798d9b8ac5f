"""Every benchmark scores what guessing would where its labels are shuffled, and else far more.

The model knows colours (conftest.py). A mix is so many reds, greens and blues: its text names the
colours as often, its picture is filled with their mean, and only these two point the same way.
"""

from itertools import product
from math import gcd

import numpy as np
import pytest
from PIL import Image

from intarsia.cli import main
from intarsia.data.problems import Problems
from intarsia.evaluation.compositional import COMPOSITIONAL
from intarsia.evaluation.compositional_cases import Case
from intarsia.evaluation.grounding import evaluate_grounding
from intarsia.evaluation.harness import (
    evaluate_boxes,
    evaluate_negatives,
    evaluate_pointing,
    evaluate_retrieval,
)
from intarsia.evaluation.probe import evaluate_probe
from intarsia.evaluation.region_retrieval import evaluate_region_retrieval
from intarsia.evaluation.swaps import swaps
from intarsia.evaluation.zero_shot import class_sentences, evaluate_zero_shot
from intarsia.types import Negative, Phrase, Record, Region

MIXES = [mix for mix in product(range(6), repeat=3) if gcd(*mix) == 1 and max(mix) == 5]
COLOURS = {
    "red": (5, 0, 0),
    "green": (0, 5, 0),
    "blue": (0, 0, 5),
    "yellow": (5, 5, 0),
    "magenta": (5, 0, 5),
    "cyan": (0, 5, 5),
}
QUADRANTS = [(8, 8, 48, 48), (64, 8, 104, 48), (8, 64, 48, 104), (64, 64, 104, 104)]
KINDS = {  # of a benchmark, and texts a case
    "aro": (("relation", "attribution"), 2),
    "svo": (("subject", "verb", "object"), 2),
    "sugarcrepe": (("add_att", "swap_obj"), 2),
    "fg-ovd": (("hard",), 11),
}


def mixes(rng, number):
    """Different ones."""
    return [MIXES[i] for i in rng.choice(len(MIXES), number, replace=False)]


def words(mix):
    return " ".join(
        name for name, n in zip(("red", "green", "blue"), mix, strict=True) for _ in range(n)
    )


def filled(*parts, size=112):
    """A black picture; ``parts`` are (box, mix)."""
    pixels = np.zeros((size, size, 3), np.uint8)
    for (x0, y0, x1, y1), mix in parts:
        pixels[y0:y1, x0:x1] = 51 * np.array(mix)
    return pixels


def whole(mix):
    return filled(((0, 0, 16, 16), mix), size=16)


# ---- a run of each: its figures and what guessing would score ---------------------------------


def retrieval(model, rng, shuffled):
    pictures = mixes(rng, 60)
    texts = rng.permutation(pictures) if shuffled else pictures
    records = [
        Record(str(i), whole(mix), (words(text),))
        for i, (mix, text) in enumerate(zip(pictures, texts, strict=True))
    ]
    return evaluate_retrieval(model, records, Problems()), {
        f"{way}_r{k}": 100 * k / 60 for way in ("i2t", "t2i") for k in (1, 5, 10)
    }


def negatives(model, rng, shuffled):
    records = []
    for i in range(200):
        mix, other = mixes(rng, 2)
        true, false = words(mix), words(other)
        if shuffled and rng.random() < 0.5:
            true, false = false, true
        kind = ("one", "two")[i % 2]
        records.append(Record(str(i), whole(mix), (true,), negatives=(Negative(0, kind, false),)))
    return evaluate_negatives(model, records, Problems()), dict.fromkeys(("macro", "micro"), 50)


def pointing(model, rng, shuffled):
    return evaluate_pointing(model, _quadrants(rng, shuffled), Problems()), {"pointing": 25}


def grounding(model, rng, shuffled):
    evaluation = evaluate_grounding(model, _quadrants(rng, shuffled), Problems())
    return evaluation, {"pointing": 25, "r1": 25}


def _quadrants(rng, shuffled):
    """Four colours a picture, each in a quadrant and each a phrase."""
    records = []
    for i in range(24):
        shown = [str(name) for name in rng.permutation(list(COLOURS)[:4])]
        said = [str(name) for name in rng.permutation(shown)] if shuffled else shown
        image = filled(*((q, COLOURS[name]) for q, name in zip(QUADRANTS, shown, strict=True)))
        phrases = tuple(Phrase(j, (0, len(name)), (j,)) for j, name in enumerate(said))
        records.append(Record(str(i), image, tuple(said), tuple(map(Region, QUADRANTS)), phrases))
    return records


def region_retrieval(model, rng, shuffled):
    pictures = mixes(rng, 60)
    texts = rng.permutation(pictures) if shuffled else pictures
    box = (0, 0, 64, 64)
    records = [
        Record(
            str(i),
            filled((box, mix)),
            (words(text),),
            (Region(box),),
            (Phrase(0, (0, len(words(text))), (0,)),),
        )
        for i, (mix, text) in enumerate(zip(pictures, texts, strict=True))
    ]
    evaluation = evaluate_region_retrieval(model, records, Problems())
    return evaluation, {f"r{k}": 100 * k / 60 for k in (1, 5, 10)}


def boxes(model, rng, shuffled):
    left, right = (0, 0, 48, 112), (64, 0, 112, 112)
    records = []
    for i in range(80):
        shown = rng.choice(list(COLOURS), 2, replace=False)
        labels = rng.choice(list(COLOURS), 2) if shuffled else shown
        image = filled(*((b, COLOURS[name]) for b, name in zip((left, right), shown, strict=True)))
        regions = tuple(Region(b, str(n)) for b, n in zip((left, right), labels, strict=True))
        records.append(Record(str(i), image, (), regions))
    return evaluate_boxes(model, records, Problems()), {"top1": 100 / 6}


def zero_shot(model, rng, shuffled):
    records = _classified(rng, shuffled, 180)
    evaluation = evaluate_zero_shot(
        model, records, Problems(), sentences=class_sentences(list(COLOURS))
    )
    return evaluation, {"top1": 100 / 6, "macro_top1": 100 / 6}


def probe(model, rng, shuffled):
    train, test = (_classified(rng, shuffled, number) for number in (60, 180))
    evaluation = evaluate_probe(model, train, test, Problems(), names=list(COLOURS))
    return evaluation, {"top1": 100 / 6, "macro_top1": 100 / 6}


def _classified(rng, shuffled, number):
    """Pictures of a colour and some black, no two sizes of it alike."""
    records = []
    for i in range(number):
        name = str(rng.choice(list(COLOURS)))
        image = filled(((0, 0, 16, int(rng.integers(8, 17))), COLOURS[name]), size=16)
        label = str(rng.choice(list(COLOURS))) if shuffled else name
        records.append(Record(str(i), image, (label,)))
    return records


def benchmark(name, folder):
    kinds, num_texts = KINDS[name]

    def run(model, rng, shuffled):
        cases = []
        for i in range(180):
            some = mixes(rng, num_texts)
            path = _saved(folder / f"{name} {i}.png", some[0])
            texts = [words(mix) for mix in some]
            if shuffled:
                rng.shuffle(texts)
            cases.append(Case(str(i), path, tuple(texts), kinds[i % len(kinds)], str(i % 3)))
        evaluation = COMPOSITIONAL[name].evaluate(model, cases, Problems())
        figures = [metric for metric in evaluation.metrics if not metric.endswith("_rank")]
        return evaluation, dict.fromkeys(figures, 100 / num_texts)

    return run


def winoground(folder):
    """Shuffled, each example has two pictures of something else."""

    def run(model, rng, shuffled):
        cases = []
        for i in range(180):
            pair = mixes(rng, 2)
            shown = mixes(rng, 2) if shuffled else pair
            texts = tuple(map(words, pair))
            for j, own in enumerate((texts, texts[::-1])):
                path = _saved(folder / f"{i} {j}.png", shown[j])
                cases.append(Case(str(i), path, own, "example"))
        evaluation = COMPOSITIONAL["winoground"].evaluate(model, cases, Problems())
        return evaluation, {"text": 25, "image": 25, "group": 100 / 6}

    return run


def _saved(path, mix):
    Image.fromarray(whole(mix)).save(path)
    return path


ON_RECORDS = {
    "retrieval": retrieval,
    "negatives": negatives,
    "pointing": pointing,
    "grounding": grounding,
    "region-retrieval": region_retrieval,
    "boxes": boxes,
    "zero-shot": zero_shot,
    "probe": probe,
}
NAMES = [*ON_RECORDS, *KINDS, "winoground"]


@pytest.fixture
def run(request, tmp_path):
    if request.param in ON_RECORDS:
        return ON_RECORDS[request.param]
    return (
        winoground(tmp_path)
        if request.param == "winoground"
        else benchmark(request.param, tmp_path)
    )


@pytest.mark.parametrize("run", NAMES, indirect=True)
def test_shuffled_labels_land_at_chance(run, colour_model):
    evaluation, chances = run(colour_model, np.random.default_rng(0), shuffled=True)
    assert_chance(evaluation, chances)


@pytest.mark.parametrize("run", NAMES, indirect=True)
def test_true_labels_are_far_from_chance(run, colour_model):
    evaluation, chances = run(colour_model, np.random.default_rng(0), shuffled=False)
    for name, chance in chances.items():
        assert away(evaluation.metrics[name], chance) > 3.5, name


def test_shuffled_swaps_land_at_chance(model, records):
    """Colours know no order of words: a model with random weights, and a coin for every swap."""
    pytest.importorskip("spacy", reason="needs the extra 'text'")
    from intarsia.components.text import TextParser

    rng, mixed = np.random.default_rng(0), []
    for record in swaps(records, TextParser()):
        for i, negative in enumerate(record.negatives):
            true, false = record.captions[negative.caption], negative.text
            if rng.random() < 0.5:
                true, false = false, true
            asked = (Negative(0, negative.kind, false),)
            mixed.append(Record(f"{record.id} {i}", record.image, (true,), negatives=asked))
    evaluation = evaluate_negatives(model, mixed, Problems())
    assert {"swap_attributes", "shuffle_words"} <= evaluation.metrics.keys()
    assert_chance(evaluation, dict.fromkeys(evaluation.metrics, 50))


def test_no_benchmark_is_forgotten(capsys):
    main(["evaluate", "--help"])
    lines = capsys.readouterr().out.splitlines()
    told = {line.split()[0] for line in lines if line.startswith("  ")}
    assert told == {*NAMES, "swaps", "suite"}


def assert_chance(evaluation, chances):
    for name, chance in chances.items():
        found = evaluation.metrics[name]
        assert abs(away(found, chance)) < 3.5, (name, found, chance)


def away(found, chance):
    """How many standard deviations of as many guesses a figure is above their mean."""
    return (found.value - chance) / (chance * (100 - chance) / found.n) ** 0.5
