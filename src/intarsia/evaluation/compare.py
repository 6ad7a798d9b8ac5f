"""Two models on the same queries: paired differences, from their result files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from intarsia.errors import DataError
from intarsia.evaluation.metrics import Difference, Outcomes, macro_mean, paired_difference

Result = Mapping[str, Any]
SAME = ("protocol", "data", "split", "n")


@dataclass(frozen=True, slots=True)
class SeedDifference:
    """The difference of two models that were trained with several seeds each.

    ``difference`` pairs the queries, each outcome averaged over the seeds: its interval says what
    other queries would do. ``by_seed`` are the differences seed by seed and ``std`` their sample
    standard deviation: what other seeds would do.
    """

    difference: Difference
    by_seed: dict[int, float]
    std: float


def compare(result_a: Result, result_b: Result) -> dict[str, Difference]:
    """Each metric of ``result_a`` less the same of ``result_b``, query by query.

    Metrics without per-query outcomes in both (medians) are left out.

    Raises:
        DataError: The two are not results of one protocol on the same queries.
    """
    _require_same_test([result_a, result_b])
    differences = {}
    for name in _shared_metrics([result_a, result_b]):
        a, b = (_outcomes(result, name) for result in (result_a, result_b))
        differences[name] = paired_difference(a.values, b.values, a.clusters, a.strata)
    return differences


def compare_seeds(list_a: Sequence[Result], list_b: Sequence[Result]) -> dict[str, SeedDifference]:
    """Like :func:`compare` for several seeds of each model; a seed of one pairs with its like.

    Raises:
        DataError: The tests or the seeds of the two lists differ, or there are fewer than two.
    """
    pairs = _by_seed(list_a, list_b)
    results = [result for pair in pairs for result in pair]
    _require_same_test(results)
    differences = {}
    for name in _shared_metrics(results):
        first = _outcomes(results[0], name)
        a, b = (np.stack([_outcomes(pair[side], name).values for pair in pairs]) for side in (0, 1))
        gaps = [macro_mean(gap, first.strata) for gap in a - b]
        differences[name] = SeedDifference(
            paired_difference(a.mean(0), b.mean(0), first.clusters, first.strata),
            {pair[0]["seed"]: gap for pair, gap in zip(pairs, gaps, strict=True)},
            float(np.std(gaps, ddof=1)),
        )
    return differences


def comparison_table(list_a: Sequence[Result], list_b: Sequence[Result]) -> Table:
    """One row a metric: what ``list_a`` has more than ``list_b``, for one seed or several."""
    view = Table("metric", "difference", "95% interval", "p", "seed by seed (std)")
    if len(list_a) == len(list_b) == 1:
        rows = {name: (gap, "") for name, gap in compare(list_a[0], list_b[0]).items()}
    else:
        rows = {
            name: (gap.difference, f"{_signed(gap.by_seed.values())} ({gap.std:.2f})")
            for name, gap in compare_seeds(list_a, list_b).items()
        }
    for name, (gap, seeds) in rows.items():
        low, high = gap.ci95
        view.add_row(name, f"{gap.value:+.2f}", f"{low:+.2f} to {high:+.2f}", f"{gap.p:.4f}", seeds)
    return view


def _signed(values: Iterable[float]) -> str:
    return " ".join(f"{value:+.2f}" for value in values)


def _by_seed(list_a: Sequence[Result], list_b: Sequence[Result]) -> list[tuple[Result, Result]]:
    seeds_a, seeds_b = (
        sorted((result["seed"] for result in side), key=str) for side in (list_a, list_b)
    )
    if seeds_a != seeds_b or len(set(seeds_a)) != len(seeds_a) or len(seeds_a) < 2:
        raise DataError(
            f"seeds {seeds_a} and {seeds_b} cannot be paired: "
            "both sides need the same two or more seeds, each once"
        )
    twins = {result["seed"]: result for result in list_b}
    return [(result, twins[result["seed"]]) for result in list_a]


def _require_same_test(results: Sequence[Result]) -> None:
    for key in SAME:
        found = [result[key] for result in results]
        for other in found[1:]:
            if other != found[0]:
                raise DataError(
                    f"results with {key} {found[0]!r} and {other!r} cannot be compared: "
                    f"{', '.join(SAME)} must be the same"
                )


def _shared_metrics(results: Sequence[Result]) -> list[str]:
    """Metrics with per-query outcomes in all results, which must be of the same queries."""
    names = [n for n in results[0]["per_query"] if all(n in r["per_query"] for r in results)]
    for name in names:
        first, *others = (_outcomes(result, name) for result in results)
        for other in others:
            if not _same_queries(first, other):
                raise DataError(
                    f"the queries of metric {name!r} differ between the results: their number, "
                    "clusters and strata must be the same, in the same order"
                )
    return names


def _same_queries(a: Outcomes, b: Outcomes) -> bool:
    return len(a.values) == len(b.values) and all(
        np.array_equal(np.asarray(x), np.asarray(y))
        for x, y in ((a.clusters, b.clusters), (a.strata, b.strata))
    )


def _outcomes(result: Result, name: str) -> Outcomes:
    return Outcomes(**{key: np.asarray(v) for key, v in result["per_query"][name].items()})
