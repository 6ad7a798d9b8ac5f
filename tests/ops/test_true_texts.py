"""What is said of several pictures is true of all of them, however it is written."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intarsia.ops.true_texts import same_words, true_texts


@pytest.mark.parametrize(
    "other",
    ["A dog at a CAFÉ", "  a dog\tat  a café\n", "a dog at a cafe\N{COMBINING ACUTE ACCENT}"],
)
def test_case_space_and_unicode_forms_make_no_difference(other):
    assert same_words(other) == same_words("a dog at a café")


@pytest.mark.parametrize("other", ["a dog at a café.", "a dog at a cafe", "a dog at acafé"])
def test_other_words_and_punctuation_do(other):
    assert same_words(other) != same_words("a dog at a café")


def test_by_hand():
    """Pictures 0 and 2 bear "a cat", pictures 0, 1 and 2 "a dog"; picture 1 says "x" twice."""
    texts = ["a cat", "a dog", "x", "x", "A dog", "a cat", "a dog", "y"]
    found = true_texts(texts, torch.tensor([0, 0, 1, 1, 1, 2, 2, 3]), 4)
    assert found.said.tolist() == [4, 5, 1, 1, 5, 4, 5, 3]
    assert found.true.tolist() == [[0, 4, 5], [1, 5, -1], [2, 4, 5], [3, -1, -1]]
    assert found.is_shared.tolist() == [True, True, False, False, True, True, True, False]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdefg"), st.integers(0, 5)), max_size=20))
def test_a_text_is_true_of_exactly_the_pictures_that_bear_it(captions):
    texts = [text for text, _ in captions]
    owner = torch.tensor([picture for _, picture in captions], dtype=torch.int64)
    found = true_texts(texts, owner, 6)
    expected = [[(text, picture) in captions for text in texts] for picture in range(6)]
    assert found.mask(torch.arange(6), torch.arange(len(texts))).tolist() == expected
    bearers = {text: {p for t, p in captions if t == text} for text in texts}
    assert found.is_shared.tolist() == [len(bearers[text]) > 1 for text in texts]
    if len(texts):
        assert torch.equal(found.owner, owner)


def test_without_anything_shared_a_picture_has_one_id():
    found = true_texts(["a", "b", "c"], torch.tensor([1, 0, 1]), 2)
    assert found.true.tolist() == [[0], [1]]
    assert found.said.tolist() == [1, 0, 1]
