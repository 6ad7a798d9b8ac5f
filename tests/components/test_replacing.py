"""One word in the place of another: which words, and never one that is true as well."""

from random import Random

import pytest

from intarsia.components.english import words_of
from intarsia.components.replacing import GENERIC, Vocabulary, meanings, places, stem, word_replaced
from intarsia.components.text import TextComponents, TextParser


@pytest.fixture(scope="module")
def read():
    pytest.importorskip("spacy")
    parser = TextParser()
    return lambda *captions: list(parser.parse(captions))


def made(parts: TextComponents, vocabulary: list[TextComponents], *said: str) -> set[str]:
    """All that 200 draws give."""
    known, true = Vocabulary(vocabulary), meanings([parts.text, *said])
    found = {word_replaced(parts, known, true, Random(i)) for i in range(200)}
    return {text for text in found if text}


def test_words_are_replaced_by_their_kind(read):
    (caption,) = read("A black dog sitting on a wooden bench.")
    others = read(
        "A red car.",  # lifeless, and a colour
        "A cat lying on the floor.",  # alive; a verb before "on"; behind "the"
        "Two horses.",  # several
        "A metal table.",
        "A man riding a big horse.",  # a verb before nothing; "big" has its opposites alone
    )
    assert made(caption, others) == {
        "A red dog sitting on a wooden bench.",
        "A black cat sitting on a wooden bench.",
        "A black man sitting on a wooden bench.",
        "A black horse sitting on a wooden bench.",
        "A black dog lying on a wooden bench.",
        "A black dog sitting on a metal bench.",
        "A black dog sitting on a wooden car.",
        "A black dog sitting on a wooden table.",
    }


def test_nothing_that_another_caption_says_takes_a_words_place(read):
    (caption,) = read("A dog sits on a bench.")
    others = read(
        "A puppy.", "A cat.", "A kitten.", "A person.", "A car.", "A vehicle.", "A table."
    )
    assert made(caption, others, "cats next to a car") == {"A dog sits on a table."}


def test_small_becomes_big_and_an_article_follows(read):
    (caption,) = read("A small dog is running.")
    assert made(caption, read("An enormous cup.", "A huge cup.", "A tiny cup.")) == {
        "A huge dog is running."
    }
    (caption,) = read("An old car.")
    assert made(caption, read("A young car.")) == {"A young car."}


def test_frequent_words_are_drawn_more_often(read):
    (caption,) = read("A dog.")
    known = Vocabulary(read(*["A cat."] * 9, "A horse."))
    drawn = [word_replaced(caption, known, {"dog"}, Random(i)) for i in range(500)]
    assert 0.86 < drawn.count("A cat.") / 500 < 0.94 and set(drawn) == {"A cat.", "A horse."}


@pytest.mark.parametrize("caption", ["", "Nice!", "A picture.", "A view of the top.", "黒い犬"])
def test_what_has_no_place_stays(read, caption):
    (parts,) = read(caption)
    assert not list(places(parts))
    assert made(parts, read("A red car.", "The dog.")) == set()


def test_forms_of_a_word_share_its_stem():
    for words in ("ride rides riding rode", "sit sits sitting sat", "child children", "cat cats"):
        assert len(set(map(stem, words.split()))) == 1
    assert len(set(map(stem, "dog cat horse bus car riding sitting".split()))) == 7


def test_one_word_is_another_and_never_one_for_all_things(read):
    texts = [
        "Two men in red shirts hold a large sign.",
        "A girl throwing a ball to her dog.",
        "The person is climbing on a rock near the sea.",
        "Several people standing on the beach.",
    ]
    parsed = read(*texts)
    known = Vocabulary(parsed)
    for parts in parsed:
        for seed in range(20):
            found = word_replaced(parts, known, meanings([parts.text]), Random(seed))
            if found is None:
                continue
            old, new = words_of(parts.text), words_of(found)
            changed = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
            changed = [pair for pair in changed if pair not in {("a", "an"), ("an", "a")}]
            assert len(changed) == 1 and changed[0][1] not in GENERIC
