"""Two models on the same queries: paired differences, from their result files."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from intarsia.errors import DataError
from intarsia.evaluation.metrics import (
    Difference,
    Outcomes,
    holm,
    macro_mean,
    paired_difference,
    seeds_difference,
)
from intarsia.runtime import progress

logger = logging.getLogger(__name__)

Result = Mapping[str, Any]
SAME = ("protocol", "n")
NAMED = ("data", "split")  # what the data are called, where a file has no key of them
LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class SeedDifference:
    """The difference of two models that were trained with several seeds each.

    The interval of ``difference`` is of other seeds and other queries
    (:func:`intarsia.evaluation.metrics.seeds_difference`). ``by_seed`` are the differences seed by
    seed and ``std`` their sample standard deviation.
    """

    difference: Difference
    by_seed: dict[int, float]
    std: float


def compare(
    result_a: Result, result_b: Result, metrics: Collection[str] | None = None
) -> dict[str, Difference]:
    """Each metric of ``result_a`` less the same of ``result_b``, query by query.

    Metrics without per-query outcomes in both (medians) are left out, and those that are not among
    ``metrics`` where these are named.

    Raises:
        DataError: The two are not results of one protocol on the same queries.
    """
    _require_same_test([result_a, result_b])
    differences = {}
    for name in progress(_shared_metrics([result_a, result_b], metrics), "differences"):
        a, b = result_a["per_query"][name], result_b["per_query"][name]
        differences[name] = paired_difference(a.values, b.values, a.clusters, a.strata)
    return differences


def compare_seeds(
    list_a: Sequence[Result], list_b: Sequence[Result], metrics: Collection[str] | None = None
) -> dict[str, SeedDifference]:
    """Like :func:`compare` for several seeds of each model; a seed of one pairs with its like.

    Raises:
        DataError: The tests or the seeds of the two lists differ, or there are fewer than two.
    """
    pairs = _by_seed(list_a, list_b)
    results = [result for pair in pairs for result in pair]
    _require_same_test(results)
    differences = {}
    for name in progress(_shared_metrics(results, metrics), "differences"):
        first = results[0]["per_query"][name]
        a, b = (
            np.stack([result["per_query"][name].values for result in side])
            for side in zip(*pairs, strict=True)
        )
        gaps = [macro_mean(gap, first.strata) for gap in a - b]
        differences[name] = SeedDifference(
            seeds_difference(a, b, first.clusters, first.strata),
            {pair[0]["seed"]: gap for pair, gap in zip(pairs, gaps, strict=True)},
            float(np.std(gaps, ddof=1)),
        )
    return differences


def comparison(list_a: Sequence[Result], list_b: Sequence[Result]) -> dict[str, Any]:
    """What ``list_a`` has more than ``list_b``, for one seed or several, as plain data.

    ``p_holm`` of each metric is corrected for all that are listed.

    Raises:
        DataError: The tests or the seeds of the two lists differ.
    """
    if len(list_a) == len(list_b) == 1:
        gaps, by_seed = compare(list_a[0], list_b[0]), {}
    else:
        found = compare_seeds(list_a, list_b)
        gaps = {name: gap.difference for name, gap in found.items()}
        by_seed = {name: gap.by_seed for name, gap in found.items()}
    adjusted = holm({name: gap.p for name, gap in gaps.items()})
    first = list_a[0]
    return {
        **{key: first[key] for key in ("protocol", "data", "split", "n")},
        "a": [result["model"] for result in list_a],
        "b": [result["model"] for result in list_b],
        "keys": {"data": first.get("keys", {}).get("data")},
        "metrics": {
            name: {"value": gap.value, "ci95": list(gap.ci95), "p": gap.p}
            | {"p_holm": adjusted[name], "by_seed": by_seed.get(name, {})}
            for name, gap in gaps.items()
        },
    }


def comparison_table(found: Mapping[str, Any]) -> Table:
    """One row a metric of a :func:`comparison`; bold is what Holm's correction leaves."""
    title = "{protocol} on {data} {split}, n = {n}".format_map(found)
    models = " less ".join(", ".join(found[side]) for side in ("a", "b"))
    view = Table("metric", "difference", "95% interval", "seed by seed", "p", "p (Holm)")
    view.title = f"{title}\n{models}"
    for name, gap in found["metrics"].items():
        low, high = gap["ci95"]
        view.add_row(
            name,
            f"{gap['value']:+.2f}",
            f"{low:+.2f} to {high:+.2f}",
            signed(gap["by_seed"].values()),
            f"{gap['p']:.4f}",
            f"{gap['p_holm']:.4f}",
            style="bold" if gap["p_holm"] <= LEVEL else "",
        )
    return view


def signed(values: Iterable[float]) -> str:
    """
    >>> signed([1.234, -2.0])
    '+1.23 -2.00'
    """
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
    """Of the same content, or, where a file is older than keys, under the same name."""
    keys = [result.get("keys", {}).get("data") for result in results]
    names = SAME if all(keys) else (*NAMED, *SAME)
    for name in names:
        _require_equal(name, [result[name] for result in results])
    _require_equal("data of key", list(filter(None, keys)))
    if not all(keys):
        logger.warning(
            "%d of %d result files hold no key of their data: that they are the same is known by "
            "their names and numbers only",
            keys.count(None),
            len(keys),
        )


def _require_equal(name: str, found: Sequence[Any]) -> None:
    for other in found:
        if other != found[0]:
            raise DataError(
                f"results with {name} {found[0]!r} and {other!r} cannot be compared: protocol, "
                "data and n must be the same"
            )


def _shared_metrics(results: Sequence[Result], wanted: Collection[str] | None) -> list[str]:
    """Metrics with per-query outcomes in all results, which must be of the same queries."""
    names = [n for n in results[0]["per_query"] if all(n in r["per_query"] for r in results)]
    names = names if wanted is None else [name for name in names if name in wanted]
    for name in names:
        first, *others = (result["per_query"][name] for result in results)
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
