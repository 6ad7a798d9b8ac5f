import numpy as np
import pytest

from intarsia.errors import DataError
from intarsia.evaluation.compare import compare, compare_seeds, comparison, comparison_table
from intarsia.evaluation.metrics import (
    Outcomes,
    holm,
    paired_difference,
    seeds_difference,
    summarise,
)
from intarsia.evaluation.result import make_result, read_result, write_result

CLUSTERS = np.repeat(np.arange(50), 4)
STRATA = np.array(["swap", "add", "add", "add"] * 50)


@pytest.fixture
def result(tmp_path):
    """Writes and reads back the result of a model that hits with a probability."""

    def make(rate, seed=0, **changes):
        hits = np.random.default_rng(seed).random(200) < rate
        values = hits.astype(int) * 100
        per_query = {
            "t2i_r1": Outcomes(values, CLUSTERS),
            "macro": Outcomes(values, CLUSTERS, STRATA),
        }
        settings = {"protocol": "p", "split": "dev", "model": "m", "data": "d", "config": {}}
        settings["keys"] = {}
        path = tmp_path / "result.json"
        metrics = summarise(per_query)
        result = make_result(**settings, metrics=metrics, per_query=per_query, seed=seed)
        write_result(path, result)
        return {**read_result(path), **changes}

    return make


def test_differences_are_those_of_the_metrics(result):
    a, b = result(0.7, seed=1), result(0.4, seed=2)
    differences = compare(a, b)
    assert set(differences) == {"t2i_r1", "macro"}
    for name, difference in differences.items():
        gap = a["metrics"][name]["value"] - b["metrics"][name]["value"]
        assert difference.value == pytest.approx(gap)
        assert 0 < difference.ci95[0] < gap < difference.ci95[1]
        assert difference.p < 0.01


def test_clusters_of_the_file_are_used(result):
    a, b = result(0.7, seed=1), result(0.4, seed=2)
    values = [r["per_query"]["t2i_r1"].values for r in (a, b)]
    assert compare(a, b)["t2i_r1"] == paired_difference(*values, CLUSTERS)
    assert compare(a, b)["t2i_r1"] != paired_difference(*values)


def test_only_the_metrics_that_are_named_are_compared(result):
    a, b = result(0.7, seed=1), result(0.4, seed=2)
    assert compare(a, b, ["macro"]) == {"macro": compare(a, b)["macro"]}
    assert list(compare_seeds([a, b], [b, a], ["t2i_r1"])) == ["t2i_r1"]


def test_a_result_does_not_differ_from_itself(result):
    a = result(0.5)
    assert all((d.value, d.ci95, d.p) == (0, (0, 0), 1) for d in compare(a, a).values())


@pytest.mark.parametrize(
    ("key", "other"), [("protocol", "aro"), ("split", "test"), ("n", 199), ("data", "coco")]
)
def test_different_tests_are_refused(result, key, other):
    with pytest.raises(DataError, match=f"results with {key} .*{other}"):
        compare(result(0.5), result(0.5, **{key: other}))


def test_different_queries_are_refused(result):
    a, b = result(0.5), result(0.5)
    b["per_query"]["t2i_r1"].clusters[0] = 1
    with pytest.raises(DataError, match="queries of metric 't2i_r1' differ"):
        compare(a, b)


def test_seeds_are_resampled_with_the_queries_and_shown_one_by_one(result):
    list_a = [result(0.7, seed=s) for s in (1, 2, 3)]
    list_b = [result(0.5, seed=s) for s in (3, 1, 2)]
    got = compare_seeds(list_a, list_b)["macro"]
    singles = {
        a["seed"]: a["metrics"]["macro"]["value"] - b["metrics"]["macro"]["value"]
        for a in list_a
        for b in list_b
        if a["seed"] == b["seed"]
    }
    assert got.by_seed == pytest.approx(singles)
    assert got.std == pytest.approx(np.std(list(singles.values()), ddof=1))
    assert got.difference.value == pytest.approx(np.mean(list(singles.values())))
    one = compare(list_a[0], list_b[1])["macro"]
    assert np.ptp(got.difference.ci95) < np.ptp(one.ci95)
    pairs = zip(list_a, [list_b[1], list_b[2], list_b[0]], strict=True)
    a, b = zip(*([r["per_query"]["macro"].values for r in pair] for pair in pairs), strict=True)
    assert got.difference == seeds_difference(np.array(a), np.array(b), CLUSTERS, STRATA)


@pytest.mark.parametrize(
    ("seeds_a", "seeds_b"), [((1, 2), (1, 3)), ((1, 2), (1,)), ((1,), (1,)), ((1, 1), (1, 1))]
)
def test_seeds_that_cannot_be_paired_are_refused(result, seeds_a, seeds_b):
    with pytest.raises(DataError, match="cannot be paired"):
        compare_seeds([result(0.5, s) for s in seeds_a], [result(0.5, s) for s in seeds_b])


def keyed(result, key, **changes):
    return {**result, "keys": {"data": key}, **changes}


def test_the_same_data_are_known_by_their_key_not_by_their_name(result):
    a, b = result(0.7, seed=1), result(0.4, seed=2)
    assert compare(keyed(a, "x"), keyed(b, "x", data="another name")) == compare(a, b)
    with pytest.raises(DataError, match="data of key 'x' and 'y'"):
        compare(keyed(a, "x"), keyed(b, "y"))


def test_files_without_keys_are_paired_by_name_with_a_warning(result, caplog):
    a, b = result(0.7, seed=1), result(0.4, seed=2)
    compare(keyed(a, "x"), keyed(b, "x"))
    assert not caplog.records
    compare(keyed(a, "x"), b)
    assert "1 of 2 result files hold no key of their data" in caplog.text


def test_a_comparison_names_the_models_and_corrects_for_its_metrics(result):
    list_a = [result(0.7, seed=s, model=f"runs/a-{s}") for s in (1, 2, 3)]
    list_b = [result(0.66, seed=s, model=f"runs/b-{s}") for s in (3, 1, 2)]
    found = comparison(list_a, list_b)
    assert found["a"] == ["runs/a-1", "runs/a-2", "runs/a-3"] and "runs/b-3" in found["b"]
    rows = found["metrics"]
    assert {name: row["p_holm"] for name, row in rows.items()} == holm(
        {name: row["p"] for name, row in rows.items()}
    )
    assert list(rows["macro"]["by_seed"]) == [1, 2, 3]
    rows["t2i_r1"]["p_holm"], rows["macro"]["p_holm"] = 0.04, 0.06
    view = comparison_table(found)
    assert "runs/a-1" in view.title and "runs/b-1" in view.title
    assert [row.style for row in view.rows] == ["bold", ""]
