"""Records give back what went in, by whatever way they are asked for."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intarsia.data import records as module
from intarsia.data.images import load_image
from intarsia.data.problems import Problems
from intarsia.data.records import KEY_BYTES, PackedRows, Records
from intarsia.data.table import read_table, write_table
from intarsia.errors import DataError
from intarsia.types import FilePart, ImageSource, Negative, Phrase, Record, Region

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
RECORDS = [
    Record("bare", b"", ()),
    Record("bytes", b"\x89PNG\0rest", ("", "a dog", "", " ")),
    Record("file", Path("pictures/caf\u00e9 1.jpg"), ("ein r\u00f6ter Hund", "\U0001f436", "a\0b")),
    Record("part", FilePart(Path("s.tar"), 2**40, 2**33), ("e\u0301", "\u202eleft", "a\nb")),
    Record(
        "all",
        PIXELS,
        ("a red dog by a cat", "a dog"),
        (Region((0.1, -2.0, 1e6, 4), "dog", 0.25), Region((1, 1, 2, 2)), Region((0, 0, 1, 1), "")),
        (Phrase(0, (2, 9), (0, 1)), Phrase(1, (0, 5)), Phrase(0, (13, 18), (2,))),
        (Negative(0, "swap", "a red cat by a dog"), Negative(1, "", "")),
        (5, 3),
    ),
    Record("sized", b"x", ("one",), size=(30_000, 1)),
]
"""A record of every kind of picture, with and without all else."""


def same(one: Record, other: Record) -> bool:
    """Equal in every field, pixels included."""
    if not isinstance(one.image, np.ndarray):
        return one == other
    assert isinstance(other.image, np.ndarray) and other.image.dtype == np.uint8
    is_same = np.array_equal(one.image, other.image)
    return is_same and replace(one, image=b"") == replace(other, image=b"")


def all_same(some: Any, others: Any) -> bool:
    return all(same(a, b) for a, b in zip(some, others, strict=True))


@pytest.fixture(params=["one chunk", "many chunks"])
def found(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Records:
    """The same as RECORDS, in one piece, or packed two at a time as much is."""
    if request.param == "many chunks":
        monkeypatch.setattr(module, "PACKED_AT_ONCE", 2)
        monkeypatch.setattr(module, "MOST_IN_ONE", 0)
    records = Records.of(iter(RECORDS))
    rows = records._rows
    assert isinstance(rows, PackedRows)
    assert rows.table["id"].num_chunks == (3 if request.param == "many chunks" else 1)
    return records


def test_every_field_comes_back_as_it_went_in(found: Records) -> None:
    assert len(found) == len(RECORDS)
    assert all_same(found, RECORDS)
    assert all_same([found[i] for i in range(len(RECORDS))], RECORDS)
    for one, other in zip(found, RECORDS, strict=True):
        assert type(one.image) is type(other.image)
        assert all(type(side) is float for region in one.regions for side in region.box)


def test_columns_are_those_of_the_records(found: Records) -> None:
    captions = [caption for record in RECORDS for caption in record.captions]
    assert found.ids == [record.id for record in RECORDS]
    assert found.captions == captions
    assert found.num_captions.tolist() == [len(record.captions) for record in RECORDS]
    assert found.num_captions.dtype == np.int64
    rows = np.array([8, 0, 3, 3, 10])
    assert found.captions_at(rows) == [captions[row] for row in rows]
    assert [found.id_of(i) for i in (0, -1, 3)] == ["bare", "sized", "part"]
    assert [found.size(i) for i in (4, 5)] == [(5, 3), (30_000, 1)]
    assert Records.of([Record("a", PIXELS, ())]).size(0) == (5, 3)  # which it looks up
    with pytest.raises(DataError, match="picture of 9 bytes: cannot be decoded"):
        found.size(1)


@pytest.mark.parametrize(
    "part",
    [slice(None), slice(1, 4), slice(-2, None), slice(None, None, -1), slice(4, 0, -2), slice(9)],
)
def test_a_slice_is_the_records_of_a_part(found: Records, part: slice) -> None:
    expected = RECORDS[part]
    some = found[part]
    assert isinstance(some, Records) and all_same(some, expected)
    assert some.ids == [record.id for record in expected]
    assert some.captions == [caption for record in expected for caption in record.captions]
    assert some.num_captions.tolist() == [len(record.captions) for record in expected]
    assert some.picture_keys() == [found.picture_keys()[i] for i in range(len(RECORDS))[part]]
    assert all_same((record for record, _ in some.known()), expected)
    if expected:
        rows = np.arange(len(some.captions))[::-1]
        assert some.captions_at(rows) == some.captions[::-1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-6, 5)), st.lists(st.slices(6), max_size=3), st.booleans())
def test_parts_of_parts_are_those_of_a_list(
    indices: list[int], parts: list[slice], begins_with_indices: bool
) -> None:
    found: Any = Records.of(iter(RECORDS))
    expected = RECORDS
    if begins_with_indices:
        chosen = [i % 6 for i in indices]
        found, expected = found.at(chosen), [RECORDS[i] for i in chosen]
    for part in parts:
        found, expected = found[part], expected[part]
    assert len(found) == len(expected)
    inside = [i for i in indices if -len(expected) <= i < len(expected)]
    assert all_same(found.__getitems__(inside), [expected[i] for i in inside])
    assert found.ids == [record.id for record in expected]


def test_single_records_by_any_index(found: Records) -> None:
    for index in (0, 5, -1, -6, np.int64(2), np.int32(-3)):
        assert same(found[index], RECORDS[index])  # type: ignore[index]
    for records in (found, found[1:3], found[3:3]):
        for index in (len(records), -len(records) - 1):
            with pytest.raises(IndexError):
                records[index]
            with pytest.raises(IndexError):
                records.__getitems__([index])
    assert found.__getitems__([]) == found[2:].__getitems__([]) == []


def test_records_without_pictures_have_all_else(found: Records, tmp_path: Path) -> None:
    wanted = [4, 1, -1]
    some = found.without_pictures(wanted)
    for one, index in zip(some, wanted, strict=True):
        assert replace(one, image=b"") == replace(RECORDS[index], image=b"")
    pictures = [replace(record, image=PIXELS, size=(5, 3)) for record in RECORDS]
    write_table(tmp_path / "t.lance", pictures, Problems())
    table = read_table(tmp_path / "t.lance", Problems())
    expected = sorted((replace(record, image=b"") for record in pictures), key=lambda r: r.id)
    assert table.without_pictures(range(6)) == expected  # their pictures would have to be read
    assert [record for record, _ in table.known()] == expected
    assert all(record.image != b"" for record in table)


def test_known_is_every_record_and_no_digest_where_none_is_stored(
    found: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PACKED_AT_ONCE", 4)  # which is how many are told at once
    records, digests = zip(*found.known(), strict=True)
    assert all_same(records, RECORDS) and set(digests) == {None}


def test_pixels_that_are_none_are_told_when_they_are_looked_at() -> None:
    records = Records.of([Record("a", PIXELS / 255, ("x",)), Record("b", PIXELS, ("y",))])
    with pytest.raises(DataError, match="picture array is float64"):
        load_image(records[0].image)


def test_records_of_records_are_the_same() -> None:
    records = Records.of(RECORDS)
    assert Records.of(records) is records


def test_no_records_at_all() -> None:
    empty = Records.of(iter([]))
    for records in (empty, empty[:], empty.at([])):
        assert len(records) == len(list(records)) == len(list(records.known())) == 0
        assert records.ids == records.captions == [] and records.picture_keys() == []
        assert records.num_captions.tolist() == []
        assert records.captions_at(np.zeros(0, np.int64)) == []


# ---- what a picture is known by ---------------------------------------------------------------


def key_of(image: ImageSource) -> bytes:
    (key,) = Records.of([Record("a", image, ())]).picture_keys()
    assert len(key) == KEY_BYTES
    return key


def test_bytes_and_pixels_go_by_their_content() -> None:
    assert key_of(b"one") == hashlib.sha256(b"one").digest()[:KEY_BYTES]
    assert key_of(PIXELS) == key_of(PIXELS.copy()) == key_of(np.asfortranarray(PIXELS))
    other = PIXELS.copy()
    other[2, 4, 2] ^= 1
    others: list[ImageSource] = [
        b"one",
        b"two",
        b"",
        PIXELS,
        PIXELS.tobytes(),
        other,
        PIXELS.reshape(5, 3, 3),
    ]
    assert len(set(map(key_of, others))) == len(others)


@pytest.mark.parametrize(
    "source", [lambda path: path, lambda path: FilePart(path, 2, 4)], ids=["file", "part"]
)
def test_files_go_by_name_size_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Callable[[Path], ImageSource]
) -> None:
    path = tmp_path / "a.jpg"
    seen = [key_of(source(path))]  # there is none yet
    path.write_bytes(b"0123456789")
    os.utime(path, ns=(5, 5))
    seen.append(key_of(source(path)))
    monkeypatch.chdir(tmp_path)
    assert key_of(source(Path("a.jpg"))) == seen[-1]  # however it is named
    path.write_bytes(b"9876543210")
    os.utime(path, ns=(5, 6))
    seen.append(key_of(source(path)))
    path.write_bytes(b"98765432100")
    os.utime(path, ns=(5, 6))
    seen.append(key_of(source(path)))
    path.rename(tmp_path / "b.jpg")
    seen.append(key_of(source(tmp_path / "b.jpg")))
    assert len(set(seen)) == len(seen)


def test_parts_of_one_file_go_by_their_places(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(bytes(10))
    parts: list[ImageSource] = [path]
    parts += [FilePart(path, *place) for place in ((0, 10), (0, 5), (5, 5), (5, 0))]
    assert len(set(map(key_of, parts))) == len(parts)


def test_retold_records_have_the_same_pictures_and_other_words() -> None:
    """Their pictures stay where they are: nothing is packed a second time."""
    first = Records.of(RECORDS)
    told = [replace(one, captions=("new",), image=b"not this") for one in RECORDS]
    again = first[1:].retold(told[1:])
    for one, before in zip(again, RECORDS[1:], strict=True):
        assert one.captions == ("new",) and same(replace(one, captions=before.captions), before)
    assert again.captions == ["new"] * (len(RECORDS) - 1)
    assert again.picture_keys() == first[1:].picture_keys()
