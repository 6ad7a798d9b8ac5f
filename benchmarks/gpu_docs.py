"""The table of docs/performance.md on a GPU, made from the result file.

``python -m benchmarks.gpu_docs`` writes it between its marks; a test compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu import judgement
from benchmarks.harness import RESULTS, Row

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- gpu table -->", "<!-- end of gpu table -->"


def written(page: str, rows: Sequence[Row]) -> str:
    """The page with the table of ``rows`` between its marks."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    machines = sorted({row["machine"] for row in rows if row.get("ours_s")})
    table = "\n".join(["", times(rows), "", judgement(rows).strip(), "", *machines, ""])
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def times(rows: Sequence[Row]) -> str:
    """Milliseconds of ours beside its products and what plain torch takes."""
    lines = [
        "| work | ours | against | its time | ours / products | peak | its peak |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if not row.get("ours_s"):
            continue
        sizes = " ".join(f"{k}={v}" for k, v in row["shape"].items() if k.isupper())
        cells = (
            f"{row['name']}, {sizes}",
            _ms(row["ours_s"]),
            row["baseline"] or row["limit"] or "",
            _ms(row["baseline_s"] if row["baseline"] else row["limit_s"]),
            "" if row["limit_ratio"] is None else f"{row['limit_ratio']:.2f}",
            _gib(row["peak_bytes"]),
            _gib(row["baseline_peak_bytes"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.2f} ms"


def _gib(size: int | None) -> str:
    return "" if size is None else f"{size / 2**30:.2f} GiB"


if __name__ == "__main__":
    measured = json.loads((RESULTS / "gpu.json").read_text())
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), measured), encoding="utf-8")
