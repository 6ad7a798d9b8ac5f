import time

import numpy as np
import pytest

from intarsia.errors import DataError
from intarsia.evaluation import metrics
from intarsia.evaluation.metrics import (
    Outcomes,
    bootstrap_ci,
    macro_mean,
    median_metric,
    paired_difference,
    seeds_difference,
    summarise,
)


def test_interval_of_hits_is_the_binomial_one():
    hits = np.repeat([100, 0], [300, 700])
    half = 1.96 * 100 * np.sqrt(0.3 * 0.7 / 1000)
    assert bootstrap_ci(hits) == pytest.approx((30 - half, 30 + half), abs=0.25)


def test_interval_of_real_values_is_the_normal_one():
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    half = 1.96 * values.std() / 20
    expected = (values.mean() - half, values.mean() + half)
    assert bootstrap_ci(values) == pytest.approx(expected, abs=0.04)


def test_both_ways_of_drawing_agree():
    """Copies of few distinct values go through the multinomial, a touch of noise prevents it."""
    values = np.random.default_rng(2).integers(0, 4, 500).astype(float)
    noisy = values + np.random.default_rng(3).normal(0, 1e-9, 500)
    assert bootstrap_ci(values) == pytest.approx(bootstrap_ci(noisy), abs=0.02)


def test_interval_is_a_function_of_the_seed():
    values = np.random.default_rng(4).random(50)
    assert bootstrap_ci(values, seed=1) == bootstrap_ci(values, seed=1)
    assert bootstrap_ci(values, seed=1) != bootstrap_ci(values, seed=2)


def test_cluster_interval_is_that_of_the_cluster_means_when_sizes_are_equal():
    values = np.random.default_rng(5).random((40, 5))
    clusters = np.repeat(np.arange(40), 5)
    assert bootstrap_ci(values.ravel(), clusters) == pytest.approx(
        bootstrap_ci(values.mean(1)), abs=1e-12
    )


def test_order_and_names_of_clusters_do_not_matter():
    rng = np.random.default_rng(6)
    values, clusters = rng.integers(0, 2, 60), rng.integers(0, 9, 60)
    order = rng.permutation(60)
    names = np.array([f"picture {c}" for c in clusters])
    assert bootstrap_ci(values, clusters) == bootstrap_ci(values[order], names[order])


def test_only_the_cluster_interval_covers_when_captions_hang_together():
    rng = np.random.default_rng(7)
    clusters = np.repeat(np.arange(60), 5)
    trials, covered, covered_alone = 150, 0, 0
    for _ in range(trials):
        difficulty = rng.beta(0.2, 0.2, 60)
        hits = rng.random(300) < np.repeat(difficulty, 5)
        low, high = bootstrap_ci(hits, clusters, resamples=400)
        covered += low <= 0.5 <= high
        low, high = bootstrap_ci(hits, resamples=400)
        covered_alone += low <= 0.5 <= high
    assert 0.89 <= covered / trials <= 0.99
    assert covered_alone / trials < 0.8


def test_macro_interval_adds_the_variances_of_the_strata():
    values = np.repeat([100, 0, 100, 0], [60, 40, 300, 600])
    strata = np.repeat(["verb", "noun"], [100, 900])
    assert macro_mean(values, strata) == pytest.approx((60 + 100 / 3) / 2)
    error = 100 * np.sqrt(0.6 * 0.4 / 100 + (1 / 3) * (2 / 3) / 900) / 2
    low, high = bootstrap_ci(values, strata=strata)
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.05)


def test_a_stratum_of_one_query_does_not_break_the_macro_interval():
    low, high = bootstrap_ci(np.array([0, 100, 100, 0]), strata=np.array(["a", "b", "b", "b"]))
    assert 0 <= low < high <= 100


def test_5000_values_take_well_under_two_seconds():
    values = np.random.default_rng(8).random(5000)
    start = time.process_time()
    bootstrap_ci(values)
    assert time.process_time() - start < 2


def test_draws_do_not_depend_on_how_many_are_made_at_once(monkeypatch):
    values = np.random.default_rng(8).random(301)
    intervals = []
    for at_once in (301, 200_000, 10**7):
        monkeypatch.setattr(metrics, "IN_CACHE", at_once)
        intervals.append(bootstrap_ci(values))
    np.testing.assert_allclose(intervals[1:], [intervals[0]] * 2, rtol=1e-12)


def test_median_interval_covers():
    rng = np.random.default_rng(9)
    inside = 0
    for _ in range(100):
        metric = median_metric(rng.geometric(0.02, 200))  # true median 35
        inside += metric.ci95[0] <= 35 <= metric.ci95[1]
    assert 88 <= inside <= 100


def test_paired_difference_is_symmetric():
    rng = np.random.default_rng(10)
    a, b = rng.random(200) + 0.03, rng.random(200)
    one, other = paired_difference(a, b), paired_difference(b, a)
    assert one.value == -other.value == pytest.approx(a.mean() - b.mean())
    assert one.p == other.p
    assert one.ci95 == pytest.approx((-other.ci95[1], -other.ci95[0]), abs=0.005)


def test_paired_difference_of_a_model_with_itself_is_nothing():
    hits = np.random.default_rng(11).integers(0, 2, 100)
    difference = paired_difference(hits, hits)
    assert (difference.value, difference.ci95, difference.p) == (0.0, (0.0, 0.0), 1.0)


def test_p_is_that_of_the_sign_test():
    """9 of 10 queries that differ favour a: p = 2 (1 + 10) / 2**10."""
    a, b = np.repeat([1, 0, 1], [9, 1, 50]), np.repeat([0, 1, 1], [9, 1, 50])
    assert paired_difference(a, b, resamples=100_000).p == pytest.approx(22 / 1024, abs=0.002)


def test_pairing_finds_what_two_intervals_hide():
    hits = np.random.default_rng(12).integers(0, 2, 1000) * 100
    better = hits.copy()
    better[np.flatnonzero(hits == 0)[:15]] = 100
    difference = paired_difference(better, hits)
    assert difference.value == 1.5
    assert difference.ci95[0] > 0
    assert difference.p < 0.001
    assert bootstrap_ci(hits)[1] > bootstrap_ci(better)[0]


def test_p_is_uniform_when_there_is_no_difference():
    rng = np.random.default_rng(13)
    clusters = np.repeat(np.arange(40), 5)
    ps = []
    for _ in range(100):
        a, b = (rng.random(200) < np.repeat(rng.beta(0.5, 0.5, 40), 5) for _ in range(2))
        ps.append(paired_difference(a.astype(int), b.astype(int), clusters, resamples=200).p)
    assert np.mean(np.array(ps) <= 0.05) <= 0.12
    assert 0.35 < np.mean(ps) < 0.65


def test_empty_and_nan_outcomes_are_named():
    with pytest.raises(DataError, match="'verb' has no queries"):
        summarise({"verb": Outcomes(np.array([]))})
    with pytest.raises(DataError, match=r"'noun' hold NaN, first at \[1\]"):
        summarise({"noun": Outcomes(np.array([1.0, np.nan]))})


def seeds_gaps(rng, seeds, seed_error):
    """(S,300) differences of truth 0: of seeds, of 100 pictures that all seeds see, of captions."""
    pictures = np.repeat(rng.normal(0, 20, 100), 3)
    noise = rng.normal(0, 30, (seeds, 300))
    return rng.normal(0, seed_error, (seeds, 1)) + pictures + noise


@pytest.mark.parametrize(("seeds", "seed_error", "at_least"), [(3, 2, 0.93), (6, 10, 0.87)])
def test_interval_over_seeds_and_queries_covers(seeds, seed_error, at_least):
    rng, clusters = np.random.default_rng(14), np.repeat(np.arange(100), 3)
    covered = averaged = 0
    for _ in range(150):
        gaps = seeds_gaps(rng, seeds, seed_error)
        low, high = seeds_difference(gaps, 0 * gaps, clusters, resamples=500).ci95
        covered += low <= 0 <= high
        low, high = paired_difference(gaps.mean(0), 0 * gaps[0], clusters, resamples=500).ci95
        averaged += low <= 0 <= high
    assert at_least <= covered / 150 <= 1
    assert averaged < covered


def test_interval_of_seeds_alone_has_their_spread():
    """Queries that all say the same: what is left is the mean of eight seeds."""
    gaps = np.repeat(np.random.default_rng(15).normal(3, 2, (8, 1)), 40, axis=1)
    found = seeds_difference(gaps, 0 * gaps)
    error = gaps[:, 0].std(ddof=1) / np.sqrt(8)
    assert found.value == pytest.approx(gaps[:, 0].mean())
    assert np.ptp(found.ci95) == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_equal_seeds_leave_the_interval_of_the_queries():
    rng = np.random.default_rng(16)
    values, clusters = rng.normal(1, 2, 300), np.repeat(np.arange(100), 3)
    strata = np.tile(np.array(["a", "b", "b"]), 100)
    same = np.stack([values] * 3)
    found = seeds_difference(same, 0 * same, clusters, strata)
    one = paired_difference(values, 0 * values, clusters, strata)
    assert found.value == pytest.approx(one.value)
    assert found.ci95 == pytest.approx(one.ci95, abs=0.02)
