"""Tables of the cards of shipped models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from docs_tables.paired import path_of
from intarsia.evaluation.result import read_result
from intarsia.sweep.table import as_markdown


def figures(files: tuple[str, ...], metrics: tuple[str, ...]) -> str:
    """What result files say of one model."""
    lines = [["protocol", "data", "metric", "n", "value", "95% interval"]]
    for file in files:
        result = read_result(path_of(file))
        where = result["protocol"], f"{result['data']} {result['split']}"
        for name in metrics:
            if name in result["metrics"]:
                metric = result["metrics"][name]
                low, high = metric["ci95"]
                numbers = f"{metric['n']:,}", f"{metric['value']:.1f}", f"{low:.1f} to {high:.1f}"
                lines.append([*where, f"`{name}`", *numbers])
    return as_markdown(lines)


RETRIEVAL = ("i2t_r1", "i2t_r10", "t2i_r1", "t2i_r10")
TABLES: dict[str, Callable[[], str]] = {
    "mini": partial(
        figures, ("mini/retrieval", "mini/grounding"), (*RETRIEVAL, "pointing", "pointing_chance")
    ),
}
