"""Protocols look at the pictures of a table as they need them: never all at once."""

import pytest

from intarsia.data.problems import Problems
from intarsia.data.records import READ_AT_ONCE
from intarsia.data.scenes import SceneSet
from intarsia.data.table import TableRows, read_table, write_table
from intarsia.evaluation.grounding import evaluate_grounding
from intarsia.evaluation.harness import PROTOCOLS
from intarsia.evaluation.region_matching import evaluate_region_negatives
from intarsia.evaluation.region_retrieval import evaluate_region_retrieval

RUN = PROTOCOLS | {"grounding": evaluate_grounding, "region-retrieval": evaluate_region_retrieval}


@pytest.fixture(scope="module")
def many_records():
    scenes = SceneSet("test", 2 * READ_AT_ONCE + 5)
    return [scenes[i] for i in range(len(scenes))]


@pytest.fixture(scope="module")
def table(tmp_path_factory, many_records):
    path = tmp_path_factory.mktemp("table") / "scenes.lance"
    write_table(path, many_records, Problems())
    return path


@pytest.fixture
def pictures_read(monkeypatch):
    """How many pictures each read of a table brings."""
    counts, take = [], TableRows.take

    def counted(self, places, *, pictures=True):
        counts.append(len(places) if pictures else 0)
        return take(self, places, pictures=pictures)

    monkeypatch.setattr(TableRows, "take", counted)
    return counts


@pytest.mark.parametrize("protocol", [*RUN, "region negatives"])
def test_pictures_are_read_once_and_a_few_at_a_time(table, model, pictures_read, protocol):
    if protocol == "region negatives":
        pytest.importorskip("spacy", reason="needs the extra 'text'")
    records = read_table(table, Problems())
    evaluate = RUN.get(protocol, evaluate_region_negatives)
    found = evaluate(model, records, Problems())
    assert found.metrics and sum(pictures_read) == len(records) > 2 * READ_AT_ONCE
    assert max(pictures_read) <= READ_AT_ONCE


def test_a_table_answers_as_its_records_do(table, model, many_records):
    for evaluate in (RUN["retrieval"], RUN["pointing"]):
        of_table = evaluate(model, read_table(table, Problems()), Problems())
        of_list = evaluate(model, sorted(many_records, key=lambda r: r.id), Problems())
        assert of_table.metrics == of_list.metrics
