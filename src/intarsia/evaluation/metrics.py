"""Means of per-query outcomes, their bootstrap intervals, and paired differences.

A metric is the mean of one outcome a query: hits are 0 or 100, so means read in percent; real
outcomes stay in their own unit. Queries that hang together (the captions of one picture) form a
cluster and are resampled as one. With strata the metric is a macro average: the mean over strata
of the mean inside each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intarsia.errors import DataError
from intarsia.runtime import progress

Array = NDArray[Any]
CHUNK = 2_000_000  # numbers held at once: bounds the memory of a bootstrap
IN_CACHE = 200_000  # numbers drawn at once: 2.5 times as fast as those that leave the cache


@dataclass(frozen=True, slots=True)
class Metric:
    """A mean over ``n`` queries and its bootstrap 95% interval."""

    value: float
    ci95: tuple[float, float]
    n: int


@dataclass(frozen=True, slots=True)
class Difference:
    """How much higher the first of two paired metrics is, with its 95% interval.

    ``p`` is two-sided, of a randomisation test that swaps the two models within a cluster.
    """

    value: float
    ci95: tuple[float, float]
    p: float


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """One outcome a query, (n,), with the queries' cluster and stratum labels where they matter."""

    values: Array
    clusters: Array | None = None
    strata: Array | None = None

    @classmethod
    def of_hits(cls, hits: Array, clusters: Array | None = None) -> Outcomes:
        """Bool hits (n,) as 0 and 100."""
        return cls(hits.astype(np.int64) * 100, clusters)

    def metric(self) -> Metric:
        """The (macro) mean with its interval.

        >>> Outcomes.of_hits(np.array([True, True, False, True])).metric().value
        75.0
        """
        interval = bootstrap_ci(self.values, self.clusters, self.strata)
        return Metric(macro_mean(self.values, self.strata), interval, len(self.values))


def summarise(outcomes: Mapping[str, Outcomes]) -> dict[str, Metric]:
    """The metric of every named set of outcomes.

    Raises:
        DataError: A set is empty, or holds NaN.
    """
    for name, item in outcomes.items():
        if len(item.values) == 0:
            raise DataError(f"metric {name!r} has no queries")
        require_no_nan(item.values, f"the outcomes of {name!r}")
    return {name: item.metric() for name, item in progress(outcomes.items(), "intervals")}


def require_no_nan(values: Array, what: str) -> None:
    """Raise DataError naming the first NaN of ``values``."""
    if np.isnan(values).any():
        place = ", ".join(str(i) for i in np.argwhere(np.isnan(values))[0])
        raise DataError(f"{what} hold NaN, first at [{place}]")


def macro_mean(values: Array, strata: Array | None = None) -> float:
    """The mean, or with ``strata`` (n,) the mean of the strata's means.

    >>> macro_mean(np.array([100, 100, 100, 0]))
    75.0
    >>> macro_mean(np.array([100, 100, 100, 0]), np.array(["verb", "verb", "verb", "noun"]))
    50.0
    """
    return float(_macro(_unit_rows(values, None, strata).sum(0, keepdims=True))[0])


def bootstrap_ci(
    values: Array,
    clusters: Array | None = None,
    strata: Array | None = None,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap 95% interval of :func:`macro_mean`.

    Whole clusters are drawn with replacement, (sum, count) each, so a resample may hold more or
    fewer queries than ``values``. A stratum missing from a resample is left out of its mean.
    Outcomes that are all equal give an interval of no width: the bootstrap sees no variation.

    Args:
        values: (n,) outcomes.
        clusters: (n,) labels of what is drawn together; None = each query alone.
        strata: (n,) labels of what is averaged over last; None = one stratum.

    >>> bootstrap_ci(np.array([7.0, 7.0, 7.0]))
    (7.0, 7.0)
    """
    rows = _unit_rows(values, clusters, strata)
    means = _macro(_resampled_totals(rows, resamples, np.random.default_rng(seed)))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def median_metric(values: Array, clusters: Array | None = None) -> Metric:
    """The median; its interval inverts the bootstrap interval of the share of values below it.

    (Woodruff 1952: if the share at or below the median is known to +-h, the median lies between
    the quantiles 0.5 - h and 0.5 + h.)

    >>> median_metric(np.array([1, 1, 2, 9, 40]))
    Metric(value=2.0, ci95=(1.0, 40.0), n=5)
    """
    median = np.median(values)
    low, high = bootstrap_ci(values <= median, clusters)
    half = (high - low) / 2
    interval = np.quantile(values, [max(0.5 - half, 0), min(0.5 + half, 1)], method="inverted_cdf")
    return Metric(float(median), (float(interval[0]), float(interval[1])), len(values))


def paired_difference(
    a: Array,
    b: Array,
    clusters: Array | None = None,
    strata: Array | None = None,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """The metric of ``a`` less that of ``b``, outcomes (n,) of the same queries in the same order.

    The interval is the bootstrap's of the per-query differences; ``p`` is the share of random
    swaps of the two models, one coin a cluster, that differ at least as much as observed.

    >>> a, b = np.array([100, 100, 0, 100]), np.array([0, 100, 0, 0])
    >>> difference = paired_difference(a, b)
    >>> difference.value
    50.0
    >>> 0.47 < difference.p < 0.53  # 2 queries differ, both in favour of a: 2 of 4 swaps
    True
    """
    gaps = np.asarray(a, dtype=np.float64) - b
    interval = bootstrap_ci(gaps, clusters, strata, resamples=resamples, seed=seed)
    p = _swap_p(_unit_shares(gaps, clusters, strata), resamples, np.random.default_rng(seed))
    return Difference(macro_mean(gaps, strata), interval, p)


def seeds_difference(
    a: Array,
    b: Array,
    clusters: Array | None = None,
    strata: Array | None = None,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """Like :func:`paired_difference` for S seeds of each model, outcomes (S,n): row s of ``a``
    pairs with row s of ``b``.

    Each resample draws seeds with replacement and then clusters of queries, the same for all seeds,
    since all have answered them (the pigeonhole bootstrap, Owen 2007). The mean over S seeds that
    are drawn from S varies too little, by (S - 1) / S, which is made good. ``p`` is read off the
    same resamples: twice the share on the other side of zero.

    With S seeds a side can be no surer than their S differences let it: where seeds differ more
    than queries, three seeds cover about 84 and not 95%.

    >>> a, b = np.array([[100.0, 0.0], [100.0, 100.0]]), np.array([[0.0, 0.0], [100.0, 0.0]])
    >>> seeds_difference(a, b).value  # 50 with either seed
    50.0
    >>> seeds_difference(a, a)
    Difference(value=0.0, ci95=(0.0, 0.0), p=1.0)
    """
    gaps = np.asarray(a, dtype=np.float64) - b
    sums = [np.hsplit(_unit_rows(row, clusters, strata), 2)[0] for row in gaps]
    counts = np.hsplit(_unit_rows(gaps[0], clusters, strata), 2)[1]
    rows, rng = np.hstack([*sums, counts]), np.random.default_rng(seed)
    sizes = _chunks(resamples, rows.shape[1])
    resampled = np.concatenate([_resampled_seeds(rows, len(gaps), size, rng) for size in sizes])
    low, high = np.percentile(resampled, [2.5, 97.5])
    side = min((resampled <= 0).sum(), (resampled >= 0).sum())
    p = min(1.0, 2 * (1 + int(side)) / (1 + resamples))
    return Difference(macro_mean(gaps.mean(0), strata), (float(low), float(high)), p)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p values of several comparisons made at once (Holm 1979).

    Rejecting those at most 0.05 keeps the chance of any false claim among them at 0.05, however the
    comparisons depend on one another.

    >>> holm({"aro": 0.01, "svo": 0.04, "sugarcrepe": 0.03})
    {'aro': 0.03, 'svo': 0.06, 'sugarcrepe': 0.06}
    """
    adjusted: dict[str, float] = {}
    least = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        least = max(least, min(1.0, p * (len(p_values) - rank)))
        adjusted[name] = least
    return {name: adjusted[name] for name in p_values}


def _unit_rows(values: Array, clusters: Array | None, strata: Array | None) -> Array:
    """What one draw adds: each cluster's sum per stratum, then its count per stratum."""
    n = len(values)
    unit = np.arange(n) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    stratum = np.zeros(n, int) if strata is None else np.unique(strata, return_inverse=True)[1]
    num_units, num_strata = unit.max() + 1, stratum.max() + 1
    cell = unit * num_strata + stratum
    sums, counts = (
        np.bincount(cell, weights, num_units * num_strata).reshape(num_units, num_strata)
        for weights in (values, np.ones(n))
    )
    return np.hstack([sums, counts])


def _macro(totals: Array) -> Array:
    """Rows of strata sums and counts -> the mean over the strata that are present, (rows,)."""
    sums, counts = np.hsplit(totals, 2)
    means = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
    return np.asarray(means.sum(1) / (counts > 0).sum(1))


def _resampled_totals(rows: Array, resamples: int, rng: np.random.Generator) -> Array:
    """Column sums of ``resamples`` bootstrap samples of the rows.

    Only how often each distinct row is drawn matters: few distinct rows (hits and misses) need
    one small multinomial a sample instead of one draw a row.
    """
    n = len(rows)
    distinct, label, frequency = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    num = len(distinct)
    totals = []
    for size in _chunks(resamples, n, IN_CACHE):
        if 8 * num < n:
            drawn = rng.multinomial(n, frequency / n, size=size)
        else:
            picks = (
                label.reshape(-1)[rng.integers(0, n, (size, n))] + num * np.arange(size)[:, None]
            )
            drawn = np.bincount(picks.ravel(), minlength=size * num).reshape(size, num)
        totals.append(drawn @ distinct)
    return np.concatenate(totals)


def _resampled_seeds(
    rows: Array, num_seeds: int, resamples: int, rng: np.random.Generator
) -> Array:
    """Macro means of resamples of seeds and rows, which hold the sums of each seed, then counts."""
    totals = _resampled_totals(rows, resamples, rng)
    by_seed = totals.reshape(resamples, num_seeds + 1, -1)
    even = 1 / num_seeds
    shares = rng.multinomial(num_seeds, np.full(num_seeds, even), size=resamples) / num_seeds
    shares = even + (shares - even) * np.sqrt(num_seeds / max(num_seeds - 1, 1))
    means = np.einsum("rs,rsk->rk", shares, by_seed[:, :-1])
    return _macro(np.hstack([means, by_seed[:, -1]]))


def _unit_shares(gaps: Array, clusters: Array | None, strata: Array | None) -> Array:
    """What each cluster adds to the macro mean of ``gaps``; they sum to it."""
    sums, counts = np.hsplit(_unit_rows(gaps, clusters, strata), 2)
    return np.asarray((sums / counts.sum(0)).mean(1))


def _swap_p(shares: Array, resamples: int, rng: np.random.Generator) -> float:
    """Two-sided p of the sum of ``shares`` under random signs (equal magnitudes drawn at once)."""
    size, frequency = np.unique(np.abs(shares[shares != 0]), return_counts=True)
    observed = np.abs(shares.sum()) * (1 - 1e-9)
    extreme = 0
    for chunk in _chunks(resamples, max(len(size), 1)):
        positive = rng.binomial(frequency, 0.5, size=(chunk, len(size)))
        extreme += int((np.abs((2 * positive - frequency) @ size) >= observed).sum())
    return (1 + extreme) / (1 + resamples)


def _chunks(total: int, width: int, most: int = CHUNK) -> Iterator[int]:
    step = max(1, most // width)
    for start in range(0, total, step):
        yield min(step, total - start)
