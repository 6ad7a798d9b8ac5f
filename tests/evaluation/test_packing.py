import json
import zlib
from base64 import b64encode

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intarsia.errors import DataError
from intarsia.evaluation.packing import pack, unpack


def kept(values):
    """Packed, through a JSON file's text, and back."""
    return unpack(json.loads(json.dumps(pack(values))), "x")


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([True, False, True, True, False, False, True, False, True], "bit"),
        ([0, 100, 100], "bit"),
        ([7, 7, 7], "bit"),
        (["swap", "add", "swap"], "bit"),
        (["b", "a", "c", "ü"], "u1"),
        ([f"{i:03}" for i in range(300)], "u2"),
        ([0, 0, 0, 1, 1, 2], "i1"),
        ([5, -300, 40_000], "i4"),
        ([-(2**63), 2**63 - 1, 0], "i8"),
        ([0.1, -0.0, 1e300, float("inf"), float("nan")], "f8"),
    ],
)
def test_every_kind_comes_back_as_it_was(values, dtype):
    values = np.array(values)
    assert pack(values)["dtype"] == dtype
    assert kept(values).dtype == values.dtype
    np.testing.assert_array_equal(kept(values), values)


def test_minus_zero_and_the_bits_of_nan_are_kept():
    values = np.array([-0.0, float("nan"), 1 / 3])
    assert kept(values).tobytes() == values.tobytes()


def test_half_and_single_precision_come_back_as_the_same_numbers():
    for dtype in (np.float16, np.float32):
        values = np.array([0.1, 1 / 3, -7.5], dtype)
        assert pack(values)["dtype"] == "f4"
        assert kept(values).tolist() == values.tolist()


def test_a_bit_is_an_eighth_of_a_byte_and_steps_are_differences():
    hits = pack(np.array([100, 0, 0, 0, 0, 0, 0, 0, 0, 100]))
    assert hits | {"data": 0} == {"dtype": "bit", "n": 10, "of": [0, 100], "data": 0}
    assert hits["data"] == b64encode(zlib.compress(b"\x80\x40", 9)).decode()
    owners = pack(np.array([3, 3, 5, 4]))
    assert owners | {"data": 0} == {"dtype": "i1", "n": 4, "steps": True, "data": 0}
    assert owners["data"] == b64encode(zlib.compress(b"\x03\x00\x02\xff", 9)).decode()


def test_it_is_short():
    owners = np.repeat(np.arange(1000), 5)
    hits = np.random.default_rng(0).integers(0, 2, 5000) * 100
    assert len(json.dumps(pack(owners))) < 200
    assert len(json.dumps(pack(hits))) < 1000


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_any_integers_come_back(values):
    assert kept(np.array(values, np.int64)).tolist() == values


@given(st.lists(st.floats(allow_nan=False)))
def test_any_real_numbers_come_back(values):
    assert kept(np.array(values, np.float64)).tolist() == values


@given(st.lists(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))))
def test_any_labels_come_back(values):
    assert kept(np.array(values)).tolist() == values


def test_plain_lists_are_read():
    assert unpack([100, 0, 100], "x").dtype == np.int64
    assert unpack(["swap", "add"], "x").tolist() == ["swap", "add"]


HITS = pack(np.array([0, 100, 100]))
RANKS = pack(np.array([3, 1, 2]))


def stream(raw):
    return b64encode(zlib.compress(raw)).decode()


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (RANKS | {"n": 4}, "data hold 3 bytes where n and dtype ask for 4"),
        (RANKS | {"n": 2}, "data hold more than 2 bytes where n and dtype ask for 2"),
        (HITS | {"n": 9}, "data hold 1 bytes where n and dtype ask for 2"),
        (RANKS | {"n": 10**15}, "n is 1,000,000,000,000,000: a column has at most"),
        (RANKS | {"data": stream(bytes(10**8))}, "data hold more than 3 bytes"),
        (RANKS | {"data": stream(bytes(3)) + stream(bytes(3))}, "padding|base64"),
        (RANKS | {"data": "not base64!"}, "base64"),
        (RANKS | {"data": "aGVsbG8="}, "incorrect header check"),
        (RANKS | {"data": RANKS["data"][:-8]}, "data hold . bytes"),
        (RANKS | {"data": 7}, "data are int, not base64"),
        (RANKS | {"n": -1}, "n is -1, not a number of values"),
        (RANKS | {"n": True}, "n is True, not a number of values"),
        (RANKS | {"n": "3"}, "n is '3', not a number of values"),
        (RANKS | {"dtype": "O"}, "unknown dtype 'O': choose from bit, i1"),
        (RANKS | {"dtype": ["i1"]}, "unknown dtype"),
        (RANKS | {"pickle": ""}, "neither a list nor a packed column, but"),
        ({"n": 3}, r"neither a list nor a packed column, but \['n'\]"),
        ("0110", "neither a list nor a packed column, but '0110'"),
        (None, "neither a list nor a packed column, but None"),
        (HITS | {"of": [0]}, "data choose place 1 of 1 in 'of'"),
        (HITS | {"of": 7}, "not a list of numbers or of strings: 7"),
        (HITS | {"of": [[0], [1]]}, "not a list of numbers or of strings"),
        ({k: v for k, v in HITS.items() if k != "of"}, "bits without 'of'"),
        ([1, None], "not a list of numbers or of strings"),
        ([[1], [2, 3]], "inhomogeneous"),
    ],
)
def test_what_is_no_column_is_named(column, message):
    with pytest.raises(DataError, match=rf"^a.json: per_query.r1.values: .*({message})"):
        unpack(column, "a.json: per_query.r1.values")
