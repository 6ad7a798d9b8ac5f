import json

import pytest

from intarsia.encode.lines import JsonLines


def test_entries_come_back(tmp_path):
    path = tmp_path / "new" / "entries.jsonl"
    lines = JsonLines(path)
    lines.add({"aa": [1, "naïve 🐶\n\u2028"], "bb": []})
    lines.add({"bb": "not again", "cc": None})
    assert JsonLines(path).entries == {"aa": [1, "naïve 🐶\n\u2028"], "bb": [], "cc": None}
    assert len(path.read_text().splitlines()) == 3


def test_without_a_file_entries_are_kept_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = JsonLines(None)
    lines.add({"aa": 1})
    assert lines.entries == {"aa": 1} and not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep", [1, 7, 12])
def test_half_a_line_is_dropped_and_the_next_one_is_whole(tmp_path, keep):
    path = tmp_path / "entries.jsonl"
    JsonLines(path).add({"aa": "first", "bb": "second"})
    first, second = path.read_text().splitlines(keepends=True)
    path.write_text(first + second[:keep])
    lines = JsonLines(path)
    assert lines.entries == {"aa": "first"}
    lines.add({"cc": "third", "bb": "second"})
    assert [json.loads(line)[0] for line in path.read_text().splitlines()] == ["aa", "cc", "bb"]


def test_half_a_line_alone_is_nothing(tmp_path):
    path = tmp_path / "entries.jsonl"
    path.write_text('["aa", "fir')
    lines = JsonLines(path)
    assert lines.entries == {}
    lines.add({"aa": "first"})
    assert JsonLines(path).entries == {"aa": "first"}


def test_two_writers_share_a_file(tmp_path):
    path = tmp_path / "entries.jsonl"
    one, other = JsonLines(path), JsonLines(path)
    for i in range(5):
        one.add({f"a{i}": i})
        other.add({f"b{i}": i})
    assert len(JsonLines(path).entries) == 10
