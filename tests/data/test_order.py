import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intarsia.data.order import (
    WHOLE,
    Part,
    id_order,
    order_of_ids,
    ordered,
    parsed,
    percentile,
)
from intarsia.errors import ConfigError

IDS = [str(number) for number in range(1000)]


def test_ids_are_ordered_as_numbers_or_as_text_folder_by_folder() -> None:
    ids = ["cat/10.jpg", "cat-2/1.jpg", "cat/9.jpg", "1000", "999", "cat/a/1.jpg", "1_a", "10_b"]
    wanted = ["999", "1000", "10_b", "1_a"]
    wanted += ["cat/10.jpg", "cat/9.jpg", "cat/a/1.jpg", "cat-2/1.jpg"]
    assert sorted(ids, key=id_order) == wanted


NUMBERS = st.integers(0, 120).map(str) | st.text("0123456789", max_size=25)
NAMES = st.text("019aZ\u0663\u00e9\U0001f436\uffee /-._\n", max_size=6)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(NUMBERS | NAMES, max_size=12), max_size=3))
def test_a_column_of_ids_is_sorted_as_python_sorts_them(parts: list[list[str]]) -> None:
    """However many chunks it has; of equal ids the first stays first."""
    ids = [key for part in parts for key in part]
    expected = sorted(range(len(ids)), key=lambda place: id_order(ids[place]))
    for column in (pa.array(ids, pa.string()), pa.chunked_array(parts, pa.string())):
        assert order_of_ids(column).tolist() == expected


@pytest.mark.parametrize("low, high", [("[:3]", "[3:]"), ("[:-3]", "[-3:]"), ("[:30%]", "[30%:]")])
def test_two_halves_are_the_whole_and_share_nothing(low: str, high: str) -> None:
    first, second = (list(parsed(f"train{part}")[1].of(IDS)) for part in (low, high))
    assert first and second
    assert sorted(first + second, key=id_order) == IDS


def test_a_share_is_decided_by_each_id_alone() -> None:
    _, part = parsed("train[20%:50%]")
    chosen = set(part.of(IDS))
    assert 250 < len(chosen) < 350
    assert set(part.of(reversed(IDS[::7]))) == chosen & set(IDS[::7])
    assert chosen == {key for key in IDS if 20 <= percentile(key) < 50}
    assert set(parsed("train[-10%:]")[1].of(IDS)) == set(parsed("train[90%:]")[1].of(IDS))


def test_where_an_id_falls_never_changes() -> None:
    places = [round(percentile(key), 3) for key in ("9", "25", "flickr30k/36979")]
    assert places == [9.9, 71.737, 44.118]


def test_what_has_one_id_is_never_split() -> None:
    pairs = [("b", 1), ("a", 2), ("b", 3), ("c", 4)]
    parts = [ordered(pairs, lambda pair: pair[0], part) for part in (Part(0, 2), Part(2))]
    assert parts == [[("a", 2), ("b", 1), ("b", 3)], [("c", 4)]]


def test_a_stream_is_not_read_further_than_a_part_needs() -> None:
    assert list(Part(0, 2).of(iter(IDS))) == ["0", "1"]
    endless = iter(lambda: "7", None)
    assert list(Part(0, 2).of(endless)) == ["7", "7"]


def test_without_a_slice_all_is_wanted() -> None:
    assert parsed("a/b-coco+flickr") == ("a/b-coco+flickr", WHOLE)
    assert list(WHOLE.of(IDS)) == IDS


@pytest.mark.parametrize("split", ["train[5]", "train[:5%:]", "train[%:]", "train[5:50%]", "a[b:]"])
def test_what_is_no_slice_is_refused(split: str) -> None:
    with pytest.raises(ConfigError, match="neither a name nor a slice like"):
        parsed(split)


def test_a_share_of_more_than_everything_is_refused() -> None:
    with pytest.raises(ConfigError, match="a share is at most 100%"):
        parsed("train[:101%]")
