import json

import pytest

from intarsia.data.problems import Problems
from intarsia.errors import DataError
from intarsia.training.log import PROBLEMS, problems_listed


def listed(out):
    rows = [json.loads(line) for line in (out / PROBLEMS).read_text().splitlines()]
    return [(row["source"], row["reason"]) if "source" in row else row["skipped"] for row in rows]


def test_problems_of_all_processes_are_listed_once(tmp_path):
    first, second = Problems(1.0), Problems(1.0)
    with problems_listed(tmp_path, first):
        first.skip("no box")
        first.add("a", "image", "truncated")
    with problems_listed(tmp_path, second):
        second.skip("no box")
        second.add("a", "image", "unreadable when the store was made")
        second.add("b", "image", "empty")
    with problems_listed(tmp_path, first):
        first.add("c", "image", "empty")
    a, b, c = ("a", "truncated"), ("b", "empty"), ("c", "empty")
    assert listed(tmp_path) == [a, "no box", b, c]
    assert [path.name for path in tmp_path.iterdir() if path.name[0] != "."] == [PROBLEMS]


def test_problems_are_listed_also_when_they_are_too_many(tmp_path):
    problems = Problems(0.0)
    with pytest.raises(DataError), problems_listed(tmp_path / "run", problems):
        problems.add("a", "image", "empty")
        problems.check()
    assert listed(tmp_path / "run") == [("a", "empty")]


def test_no_problem_no_file(tmp_path):
    with problems_listed(tmp_path, Problems()):
        pass
    assert not list(tmp_path.iterdir())
