from dataclasses import replace

import pytest

from intarsia.components.english import words_of
from intarsia.components.text import TextParser
from intarsia.data.problems import Problems
from intarsia.evaluation.swaps import evaluate_swaps, swaps
from intarsia.types import Negative, Record


@pytest.fixture(scope="module")
def parser() -> TextParser:
    pytest.importorskip("spacy")
    return TextParser()


def record(*captions: str, key: str = "1") -> Record:
    return Record(key, b"", captions)


def made(parser: TextParser, *captions: str) -> dict[str, str]:
    (found,) = swaps([record(*captions)], parser)
    return {n.kind: n.text for n in found.negatives if n.caption == 0}


@pytest.mark.parametrize(
    ("caption", "kind", "expected"),
    [
        (
            "An old car is parked behind a red bus.",
            "swap_attributes",
            "A red car is parked behind an old bus.",
        ),
        (
            "A black dog chases a white cat.",
            "swap_roles",
            "A white cat chases a black dog.",
        ),
        (
            "A black dog chases a white dog.",  # not a paraphrase: who chases matters
            "swap_attributes",
            "A white dog chases a black dog.",
        ),
        ("A horse is ridden by an officer.", "swap_roles", "An officer is ridden by a horse."),
        ("Two dogs chase three cats.", "swap_roles", "Two cats chase three dogs."),
        (
            "A man feeds birds while an old woman reads a book.",
            "swap_phrases",
            "An old woman feeds birds while a man reads a book.",
        ),
    ],
)
def test_what_is_swapped(parser, caption, kind, expected):
    assert made(parser, caption)[kind] == expected


@pytest.mark.parametrize(
    "caption",
    [
        "A dog and a cat.",  # listed
        "A dog and a cat sleep on the bed.",  # both do the same
        "A dog stands next to a cat.",  # holds both ways
        "A woman is dancing with a man.",
        "A dog chases two cats.",  # one and several
        "A woman rides a bike.",  # the living and the lifeless
        "A small dog chases another small dog.",  # equal words
        "A dog runs.",
    ],
)
def test_what_a_reader_would_not_miss_is_left_alone(parser, caption):
    assert made(parser, caption).keys() == {"shuffle_words"}


def test_equal_nouns_in_a_symmetric_relation_keep_their_attributes(parser):
    """The same scene in other words; with another noun it is another scene."""
    assert "swap_attributes" not in made(parser, "A black dog sits next to a white dog.")
    assert "swap_attributes" in made(parser, "A black dog sits next to a white cat.")


def test_another_true_caption_is_no_negative(parser):
    captions = ("A dog chases a cat.", "a cat chases a dog")
    assert "swap_roles" in made(parser, captions[0])
    assert "swap_roles" not in made(parser, *captions)


def test_shuffling_keeps_words_capital_and_full_stop(parser):
    caption = "The brown dog runs quickly over the wet grass."
    text = made(parser, caption)["shuffle_words"]
    assert sorted(words_of(text)) == sorted(words_of(caption))
    assert words_of(text) != words_of(caption)
    assert text[0].isupper()
    assert text.endswith(".")
    assert made(parser, "Dog") == {}


def test_deterministic_by_seed_and_independent_of_the_other_records(parser, records):
    own = [replace(r, negatives=(Negative(0, "old", "x"),)) for r in records[:6]]
    first = swaps(own, parser)
    assert first == swaps(own, parser)
    assert first[3:] == swaps(own[3:], parser)
    assert first != swaps(own, parser, seed=1)
    kinds = {n.kind for r in first for n in r.negatives}
    assert "old" not in kinds
    assert {"swap_attributes", "shuffle_words"} <= kinds


def test_negatives_never_say_the_same_in_the_same_words(parser, records):
    for found in swaps(records, parser):
        true = {tuple(words_of(caption)) for caption in found.captions}
        for negative in found.negatives:
            assert tuple(words_of(negative.text)) not in true
            caption = found.captions[negative.caption]
            count = [
                sorted("a" if word == "an" else word for word in words_of(text))
                for text in (caption, negative.text)
            ]
            assert count[0] == count[1]


def test_they_are_evaluated_like_any_hard_negatives(parser, records, model):
    metrics = evaluate_swaps(model, records[:4], Problems()).metrics
    assert {"swap_attributes", "shuffle_words", "macro", "micro"} <= metrics.keys()
    assert metrics["shuffle_words"].n == sum(len(r.captions) for r in records[:4])
