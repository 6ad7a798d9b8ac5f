"""What is said of the rows of :mod:`benchmarks.gpu`."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness import Row, markdown


def report(rows: Sequence[Row]) -> str:
    """What was measured, then what came of its targets."""
    measured = [row for row in rows if row["ours_s"] is not None]
    return f"{markdown(measured)}\n{judgement(rows)}"


def judgement(rows: Sequence[Row]) -> str:
    """Each row's target and what came of it, a line each, then what else there is to say."""
    lines = ["| case | against | target | is | met |", "|---|---|---|---|---|"]
    for row in rows:
        for key, wanted in row.get("target", {}).items():
            met = {True: "yes", False: "NO", None: "?"}[reached(row[key], wanted)]
            against = row["limit"] if key == "limit_ratio" else row["baseline"]
            cells = (_title(row), against or "", f"{key} {wanted}", _number(row[key]), met)
            lines.append(f"| {' | '.join(cells)} |")
    checks = [row for row in rows if "bound" in row]
    wrong = [row for row in checks if not row["met"]]
    lines += ["", f"Correctness: {len(checks) - len(wrong)} of {len(checks)} errors within bounds."]
    lines += [f"* {_title(r)}: error {r['error']:.2g}, bound {r['bound']:.2g}" for r in wrong]
    lines += [f"* {_title(r)} {r['baseline'] or ''}: {r['note']}" for r in rows if r.get("note")]
    lines += [_speed(row) for row in rows if row.get("pairs_per_s")]
    return "\n".join([*lines, ""])


def _speed(row: Row) -> str:
    theirs, syncs = row["baseline_pairs_per_s"], row["host_syncs"]
    parts = [f"* {row['name']}: {row['pairs_per_s']:,.0f} pairs/s"]
    if theirs:
        parts.append(f"{row['baseline']} {theirs:,.0f}")
    if syncs is not None:
        parts.append(f"{syncs} host synchronisations a step")
    return ", ".join(parts)


def _title(row: Row) -> str:
    sizes = " ".join(f"{key}={size}" for key, size in row["shape"].items() if key.isupper())
    return f"{row['name']} ({sizes})"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def reached(value: float | None, wanted: str) -> bool | None:
    """Whether ``value`` is as in ``">= 2"``."""
    if value is None:
        return None
    sign, bound = wanted.split()
    signs = {"<": value < float(bound), "<=": value <= float(bound), ">=": value >= float(bound)}
    return signs[sign]
