import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intarsia.errors import ConfigError
from intarsia.training.sampler import PairSampler


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
