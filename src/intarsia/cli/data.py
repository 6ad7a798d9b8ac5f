"""Verbs about data sets on the disk: data check."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.table import Column, Table
from rich.text import Text

from intarsia.cli.common import screen
from intarsia.cli.options import command, parsed
from intarsia.data.layouts import LAYOUTS, PAPER, Finding, check
from intarsia.errors import ConfigError, unknown


def data(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        screen.print("intarsia data check [NAME ...]: what is there of each data set")
        return
    verb, *rest = arguments
    if verb != "check":
        raise ConfigError(unknown("verb of data", verb, ("check",)))
    _check(rest)


def _check(arguments: list[str]) -> None:
    from intarsia.data.readers import OWN_FILES, folder_of
    from intarsia.runtime import atomic, data_root

    parser = command(
        "data check",
        "Compare folders of data sets with what must be in them. Exit code 1 if anything is "
        f"missing. Data sets: {', '.join(LAYOUTS)}.",
    )
    parser.add_argument("names", nargs="*", default=[], help=f"default: {' '.join(PAPER)}")
    parser.add_argument(
        "--root",
        type=Path,
        default=data_root(),
        help="the folder that holds the data sets' own; an image_folder's own",
    )
    parser.add_argument("--json", type=Path | None, default=None, help="write the findings here")
    options = parsed(parser, arguments, results=["json"])
    names = options.names or list(PAPER)
    places = {
        name: options.root if name in OWN_FILES else options.root / folder_of(name)
        for name in names
    }
    findings = [finding for name in names for finding in check(name, places[name])]
    _show(findings)
    if options.json:
        rows = [asdict(finding) | {"ok": finding.ok} for finding in findings]
        content = json.dumps({"root": str(options.root), "findings": rows}, indent=1)
        with atomic(options.json) as draft:
            draft.write_text(content, encoding="utf-8")
    bad = sum(not finding.ok for finding in findings)
    screen.print(f"{len(findings) - bad} of {len(findings)} in order in {options.root}")
    if bad:
        raise SystemExit(1)


def _show(findings: list[Finding]) -> None:
    """A table, and below it once each source that something is to be had from."""
    numbers: dict[str, int] = {}
    table = Table("data set", Column("file", overflow="fold"), "state", "what to do", box=None)
    for finding in findings:
        todo, style = "", "green"
        if finding.state != "found":
            number = numbers.setdefault(finding.source, len(numbers) + 1)
            style = "yellow" if finding.ok else "red"
            todo = f"get {number}" + (", optional" if finding.ok else "")
        detail = f" ({finding.detail})" if finding.detail else ""
        state = Text.assemble((finding.state, style), detail)
        table.add_row(finding.data, finding.path, state, todo)
    screen.print(table)
    for source, number in numbers.items():
        screen.print(f"{number}. {source}", soft_wrap=True, highlight=False)
