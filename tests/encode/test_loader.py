"""From records and views of them to pixels: in order, whatever cannot be read."""

import os
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from intarsia.data.records import Records
from intarsia.encode.loader import Looks, ahead, load
from intarsia.encode.views import WHOLE, View
from intarsia.types import Batch

CPU = torch.device("cpu")


@pytest.fixture
def looks(broken):
    """Three views of every third picture, one or two of the others; two cannot be read."""
    corner, middle = View((0, 0, 30, 20)), View((40, 50, 80, 60))
    kinds = [[WHOLE, corner, middle], [middle], [corner, WHOLE]]
    return Looks(Records.of(broken), [kinds[i % 3] for i in range(len(broken))])


def assert_looked(looks, seen, records, transform):
    """Together, these are all the views of all that can be read, in order."""
    expected = [
        view.pixels(Image.fromarray(records[index].image), transform)
        for index, views in enumerate(looks.views)
        if index not in (5, 11)
        for view in views
    ]
    assert torch.equal(torch.cat([batch.pixels for batch in seen]), torch.stack(expected))
    assert [i for batch in seen for i in batch.records] == [
        i for i in range(len(records)) if i not in (5, 11)
    ]
    problems = dict(problem for batch in seen for problem in batch.problems)
    assert list(problems) == [5, 11]
    assert "picture of 17 bytes: cannot be decoded" in problems[5]
    assert "picture of 0 bytes: cannot be decoded" in problems[11]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_views_come_in_order_and_what_cannot_be_read_is_told(looks, backbone, records, size):
    seen = list(load(looks, backbone.transform, batch_size=size, device=CPU))
    assert_looked(looks, seen, records, backbone.transform)
    assert [batch.records + [i for i, _ in batch.problems] for batch in seen] == [
        sorted(some, key=lambda i: i in (5, 11)) for some in looks.batches(size)
    ]


def test_worker_processes_give_the_same(looks, backbone, records):
    """As for a GPU; "meta" stands for any device that is no CPU."""
    device = torch.device("meta")
    seen = list(load(looks, backbone.transform, batch_size=20, device=device))
    assert len(seen) == len(looks.batches(20)) > 3
    assert_looked(looks, seen, records, backbone.transform)


def test_pictures_that_cannot_be_read_have_no_pixels(backbone, records):
    bad = Records.of([replace(records[0], image=b"bad"), replace(records[1], image=b"")])
    looks = Looks(bad, [[WHOLE], [WHOLE, View((0, 0, 1, 1))]])
    (seen,) = load(looks, backbone.transform, batch_size=4, device=CPU)
    assert seen.records == [] and [index for index, _ in seen.problems] == [0, 1]
    assert seen.pixels.shape == (0, 3, 112, 112) and seen.pixels.dtype == torch.uint8
    nothing = Looks(bad[:0], [])
    assert list(load(nothing, backbone.transform, batch_size=4, device=CPU)) == []


def test_pictures_are_read_as_they_are_asked_for(backbone, records, tmp_path):
    """What comes later need not be there yet."""
    path = tmp_path / "late.png"
    some = Records.of([records[0], replace(records[1], image=path)])
    looks = Looks(some, [[WHOLE], [WHOLE]])
    seen = load(looks, backbone.transform, batch_size=1, device=CPU)
    assert next(seen).records == [0]
    Image.fromarray(np.asarray(records[1].image)).save(path)
    last = next(seen)
    os.remove(path)
    assert last.records == [1] and last.problems == []
    assert torch.equal(last.pixels[0], torch.from_numpy(records[1].image.copy()).permute(2, 0, 1))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=20), st.integers(1, 8))
def test_records_go_together_until_they_have_views_enough(counts, size):
    looks = Looks(None, [[WHOLE] * count for count in counts])
    batches = looks.batches(size)
    assert [index for some in batches for index in some] == list(range(len(counts)))
    totals = [[counts[index] for index in some] for some in batches]
    assert all(sum(some) >= size > sum(some[:-1]) for some in totals[:-1])
    assert all(some for some in batches)


# ---- batches made ready ahead -----------------------------------------------------------------


def batch_of(number: int) -> Batch:
    return Batch(torch.tensor([number]), torch.tensor([number + 1]))


def test_batches_come_ahead_in_their_order():
    found = list(ahead((batch_of(i) for i in range(20)), CPU))
    assert [batch.pairs.item() for batch in found] == list(range(20))
    assert all(batch.pictures - batch.pairs == 1 for batch in found)
    assert list(ahead([], CPU)) == []


def test_one_batch_is_made_ready_while_another_is_at_work():
    taken = []

    def batches():
        for number in range(100):
            taken.append(number)
            yield batch_of(number)

    seen = []
    for batch in ahead(batches(), CPU):
        seen.append((batch.pairs.item(), len(taken)))
        if len(seen) == 10:
            break
    assert [number for number, _ in seen] == list(range(10))
    assert all(number + 1 <= count <= number + 2 for number, count in seen)
    assert all(a <= b for (_, a), (_, b) in pairwise(seen)) and len(taken) <= 11


def test_an_error_comes_after_the_batches_before_it():
    def batches():
        yield from map(batch_of, range(3))
        raise ValueError("the fourth")

    found = []
    with pytest.raises(ValueError, match="the fourth"):
        for batch in ahead(batches(), CPU):
            found.append(batch.pairs.item())
    assert found == [0, 1, 2]
