"""A drawing as a PNG, and beside it the same as an HTML page that needs no other file."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure

from intarsia.drawing import save
from intarsia.runtime import atomic


def write_page(figure: Figure, path: Path, *, title: str, shows: str, note: str) -> None:
    """``path`` as PNG, and the page of the same name.

    Args:
        figure: the drawing.
        path: of the PNG.
        title: heading of the page.
        shows: what the drawing shows, for whoever cannot see it.
        note: a line below it.
    """
    drawn = BytesIO()
    save(figure, drawn, format="png", dpi=130)
    with atomic(path) as draft:
        draft.write_bytes(drawn.getvalue())
    data = b64encode(drawn.getvalue()).decode()
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width"><title>intarsia align</title>'
        "<style>body{font-family:system-ui;margin:1rem;background:#fff;color:#111}"
        "img{max-width:100%}</style>"
        f"<h1>{escape(title)}</h1>"
        f'<img alt="{escape(shows)}" src="data:image/png;base64,{data}">'
        f"<p>{escape(note)}</p></html>"
    )
    with atomic(path.with_suffix(".html")) as draft:
        draft.write_text(page, encoding="utf-8", errors="replace")
