from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intarsia.errors import ConfigError
from intarsia.ops.true_texts import TrueTexts, true_texts
from intarsia.training.sampler import PairSampler, check_batch, check_negatives, lonely_share


def test_each_epoch_shows_every_pair_once_in_another_order():
    batches = list(PairSampler(12, 3, seed=0, last=8))
    first, second = sum(batches[:4], []), sum(batches[4:], [])
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 40), st.integers(1, 4), st.integers(0, 12), st.integers(0, 5))
def test_starting_late_is_the_tail_of_starting_early(num, batch, first, seed):
    whole = list(PairSampler(num, batch, seed=seed, last=15))
    assert list(PairSampler(num, batch, seed=seed, first=first, last=15)) == whole[first:]


def test_ranks_share_one_global_batch():
    whole = list(PairSampler(24, 6, seed=3, last=5))
    parts = [list(PairSampler(24, 3, seed=3, last=5, rank=r, world=2)) for r in (0, 1)]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_seeds_differ():
    assert list(PairSampler(12, 3, seed=0, last=4)) != list(PairSampler(12, 3, seed=1, last=4))


def test_a_batch_beyond_the_data_is_an_error():
    with pytest.raises(ConfigError, match="8 on each of 2 ranks is more than 12"):
        PairSampler(12, 8, seed=0, last=1, world=2)


def test_half_of_the_pairs_are_mirrored_anew_each_epoch():
    def indices(**options):
        return sum(PairSampler(400, 40, seed=0, **options), [])

    plain, flipped = indices(last=20), indices(last=20, flip=True)
    assert [index % 400 for index in flipped] == plain
    epochs = [{index - 400 for index in flipped[i : i + 400] if index >= 400} for i in (0, 400)]
    assert all(150 < len(epoch) < 250 for epoch in epochs) and epochs[0] != epochs[1]
    assert indices(first=13, last=20, flip=True) == flipped[13 * 40 :]


def truth_of(*captions: tuple[str, ...]) -> TrueTexts:
    """Of pictures with these captions."""
    owner = [i for i, some in enumerate(captions) for _ in some]
    return true_texts(sum(captions, ()), torch.tensor(owner), len(captions))


@pytest.mark.parametrize(("size", "world"), [(2, 1), (1, 2), (64, 8)])
def test_two_pairs_can_be_told_apart(size, world):
    check_batch(size, world)


def test_one_pair_has_nothing_to_be_told_from():
    with pytest.raises(ConfigError, match="batch_size is 1 on 1 device.*no negatives.*at least 2"):
        check_batch(1, 1)


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ([("a", "b", "c")], "all 3 captions of the data set are of one picture"),
        ([("a card",), ("A card", "a  card")], "all 3 captions .* say the same of every picture"),
    ],
)
def test_data_without_negatives_are_refused(captions, message):
    with pytest.raises(ConfigError, match=message):
        check_negatives(truth_of(*captions), 2)


def test_batches_that_often_lack_negatives_are_told(caplog):
    few = truth_of(("a", "b", "c"), ("d", "e", "c"))
    check_negatives(few, 2)
    assert "about 60% of the pairs" in caplog.text and "batch of 2" in caplog.text
    caplog.clear()
    check_negatives(few, 5)
    check_negatives(truth_of(*((str(i), f"x{i}") for i in range(200))), 2)
    assert not caplog.text


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3), min_size=2, max_size=3),
    st.integers(2, 5),
)
def test_the_share_of_lonely_pairs_is_that_of_all_batches(captions, size):
    """Every batch that there is, pair by pair."""
    captions = [tuple(some) for some in captions]
    pairs = [(i, text) for i, some in enumerate(captions) for text in some]
    size = min(size, len(pairs))
    lonely = [
        all(text in captions[picture] for _, text in batch)
        for batch in combinations(pairs, size)
        for picture, _ in batch
    ]
    expected = sum(lonely) / len(lonely)
    assert lonely_share(truth_of(*captions), size) == pytest.approx(expected, abs=1e-9)
