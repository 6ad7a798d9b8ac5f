import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from intarsia.data.problems import Problems, screened
from intarsia.errors import DataError
from intarsia.types import Negative, Phrase, Record, Region


def record(name: str, *captions: str) -> Record:
    return Record(name, b"", captions)


def test_few_bad_records_pass_and_many_raise_naming_the_first_three() -> None:
    problems = Problems(max_fraction=0.05)
    problems.seen(100)
    for index in range(5):
        problems.add(f"{index}.jpg", "image", "no such file")
    problems.check()
    problems.add("5.jpg", "image", "no such file")
    with pytest.raises(DataError) as caught:
        problems.check()
    message = str(caught.value)
    assert "6 of 100" in message and "6.000%" in message and "--max-bad-fraction" in message
    assert "0.jpg: image: no such file; 1.jpg" in message and "2.jpg" in message
    assert "3.jpg" not in message


def test_a_small_start_is_not_judged_before_the_end() -> None:
    problems = Problems()
    problems.seen(99)
    problems.add("a", "image", "bad")
    problems.check(at_least=100)
    with pytest.raises(DataError):
        problems.check()


def test_the_same_problem_in_two_epochs_counts_once() -> None:
    problems = Problems()
    for _ in range(2):
        problems.add(Path("a.jpg"), "image", "truncated")
    assert len(problems) == 1


def test_write_and_summary_hold_problems_and_skips(tmp_path: Path) -> None:
    problems = Problems()
    problems.seen(8)
    problems.add("ä.jpg", "image", "truncated")
    problems.skip("crowd region", 3)
    problems.write(tmp_path / "problems.jsonl")
    lines = (tmp_path / "problems.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"source": "ä.jpg", "field": "image", "reason": "truncated"},
        {"skipped": "crowd region", "count": 3},
    ]
    expected = "1 of 8 records are bad (12.5%): 1 image; 3 skipped: crowd region"
    assert problems.summary() == expected


def test_screened_drops_and_names_what_is_bad(tmp_path: Path) -> None:
    problems = Problems(max_fraction=1)
    candidates = [
        record("a", "  one ", " ", "two"),
        record("a", "again"),
        record("b"),
        record("c", ""),
        Record("d", tmp_path / "d.jpg", ("lost",)),
        record("e", "last"),
    ]
    kept = list(screened(candidates, problems))
    assert [(r.id, r.captions) for r in kept] == [("a", ("one", "two")), ("e", ("last",))]
    assert problems.num_seen == 6
    assert [(p.source, p.field) for p in problems] == [
        ("a", "captions[1]"),
        ("a", "id"),
        ("b", "captions"),
        ("c", "captions[0]"),
        ("c", "captions"),
        (str(tmp_path / "d.jpg"), "image"),
    ]


def test_screened_keeps_records_without_captions_where_none_are_needed() -> None:
    problems = Problems()
    assert len(list(screened([record("a")], problems, need_captions=False))) == 1
    assert len(problems) == 0


def test_blanks_before_a_caption_move_its_phrases() -> None:
    given = Record("a", np.zeros((2, 2, 3), np.uint8), ("  Two men hold  a kite ",))
    given = replace(given, phrases=(Phrase(0, (2, 9)), Phrase(0, (16, 22))))
    (found,) = screened([given], Problems())
    assert [found.phrase_text(phrase) for phrase in found.phrases] == ["Two men", "a kite"]


def test_screened_gives_up_early_on_a_hopeless_data_set() -> None:
    taken = []

    def candidates():  # type: ignore[no-untyped-def]
        for index in range(1000):
            taken.append(index)
            yield record(str(index))

    with pytest.raises(DataError, match="99 of 100"):
        list(screened(candidates(), Problems()))
    assert len(taken) == 100


def test_every_kind_is_a_share_of_its_own() -> None:
    problems = Problems()
    problems.seen(8)
    problems.seen(2_998, "boxes")
    for index in range(2):
        problems.leave_out(f"annotation {index}", "bbox", "empty", "boxes")
    problems.check()
    assert problems.summary() == (
        "0 of 8 records are bad (0%); 2 of 3000 boxes are bad (0.0667%): 2 bbox"
    )
    for index in range(29):
        problems.leave_out(f"file:{index}", "row", "broken", "rows")
    with pytest.raises(DataError, match=r"29 of 29 rows are bad \(100.000%\).*first: file:0: row"):
        problems.check()


def test_entries_of_a_record_count_as_what_they_are() -> None:
    problems = Problems(0.5)
    problems.seen_record(Record("a", b"", ("x", "y"), (Region((0, 0, 1, 1)),) * 20))
    for index in range(10):
        problems.add("a", f"regions[{index}]", "outside")
    problems.check()
    assert "10 of 20 boxes are bad (50%)" in problems.summary()
    problems.add("a", "captions[1]", "empty")
    assert "1 of 2 captions are bad (50%)" in problems.summary()


def test_no_share_is_over_all_of_it() -> None:
    problems = Problems()
    problems.expect(8)
    for index in range(16):
        problems.add(f"picture {index % 8}", "image" if index < 8 else "label", "bad")
        problems.add(f"picture {index % 8}", f"regions[{index}]", "bad")
    text = problems.summary()
    assert text.startswith("8 of 8 records are bad (100%): 8 image, 8 label; 16 of 16 boxes")
    with pytest.raises(DataError, match="8 of 8 records"):
        problems.check()


@pytest.mark.parametrize(
    ("read", "told"),
    [
        (lambda entry: entry["a"]["b"], "x: b: is missing"),
        (lambda entry: int(entry["text"]), "x: entry: is of another format: invalid literal"),
        (lambda entry: entry["text"]["b"], "x: entry: is of another format: string indices"),
        (lambda entry: entry["text"].items(), "x: entry: is of another format: 'str' object"),
    ],
)
def test_an_entry_that_cannot_be_read_is_left_out(read: Any, told: str) -> None:
    problems = Problems()
    with problems.entry("x", "boxes"):
        read({"a": {}, "text": "words"})
    (problem,) = problems
    assert str(problem).startswith(told)
    assert "1 of 1 boxes" in problems.summary()


def test_a_picture_is_found_by_its_name_in_other_code_points(tmp_path: Path) -> None:
    path = tmp_path / normalize("NFD", "caf\u00e9.jpg")
    path.write_bytes(b"jpeg")
    asked = tmp_path / normalize("NFC", path.name)
    (found,) = screened([Record("a", asked, ("x",))], Problems())
    assert isinstance(found.image, Path) and found.image.samefile(path)


def test_half_a_character_is_told(tmp_path: Path) -> None:
    """As JSON may hold; nothing could be written of it afterwards."""
    half = "a dog \ud83d"
    records = [
        Record("1", b"", ("a cat", half)),
        Record("2", b"", ("a cat", half), negatives=(Negative(0, "swap", "x"),)),
        Record("3", b"", ("a cat",), (Region((0, 0, 1, 1), half),)),
        Record("4\ud83d", b"", ("a cat",)),
    ]
    problems = Problems(1.0)
    (found,) = screened(records, problems)
    assert (found.id, found.captions) == ("1", ("a cat",))
    assert [p.field for p in problems] == ["captions[1]", "text", "text", "image"]
    problems.write(tmp_path / "problems.jsonl")
    assert "half a character" in (tmp_path / "problems.jsonl").read_text()


def test_a_file_name_that_is_no_utf8_is_told(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", tmp_path / name)
    problems = Problems(1.0)
    assert list(screened([Record("1", tmp_path / name, ("a cat",))], problems)) == []
    (problem,) = problems
    assert "not UTF-8" in problem.reason and "caf\\udce9.png" in problem.source
