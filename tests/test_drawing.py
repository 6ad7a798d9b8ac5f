"""Whatever users write is drawn as they wrote it, and nothing of it stops a drawing."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from intarsia import drawing
from intarsia.apps import maps
from intarsia.apps.align import Alignment, draw, write
from intarsia.apps.maps import Maps
from intarsia.drawing import printable
from intarsia.encode.components import ImageParts, TextParts
from intarsia.sweep.table import LONGEST, plot
from intarsia.types import Region

NASTY = [
    "a sign beside a tag of $10",
    "a sign of $5 beside a tag of $10",
    r"a $1 \frac bill next to a $2 bill",
    "a $ _ $ sign on a wall",
    r"100% of {x}_i & \alpha ^ ~ #1",
    "一隻紅色的狗 🐕 on \N{ARABIC LETTER ALEF}",
    "a nul \x00 a bell \x07 and half a pair \ud83d",
    "word " * 2000,
    "x" * 5000,
    "",
]
REPLACED = "\N{REPLACEMENT CHARACTER}"


@pytest.fixture(autouse=True)
def _strict():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def alignment(caption: str) -> Alignment:
    regions = [Region((0, 0, 9, 9), caption), Region((3, 3, 19, 19), "$2 bill")]
    said = TextParts(" ".join(caption.split()), [caption, "tag"], [caption], [("a", "b", "c")])
    matrices = {
        "entity": {"base": torch.eye(2), "ComAlign": torch.eye(2)},
        "relation": {"base": torch.ones(1, 1), "ComAlign": torch.ones(1, 1)},
    }
    seen = ImageParts(b"", regions, [(0, 1)], (20, 20))
    return Alignment(Image.new("RGB", (20, 20)), said.text, seen, said, matrices)


def of_maps(caption: str) -> Maps:
    return Maps(Image.new("RGB", (30, 20)), caption, [caption, "$2 bill"] * 3, torch.rand(6, 7, 7))


def of_user(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.findobj(Text) if not t.get_parse_math()]


@pytest.mark.parametrize("caption", NASTY, ids=range(len(NASTY)))
def test_an_alignment_shows_its_texts_as_they_are(caption, tmp_path):
    figure = draw(alignment(caption))
    write(alignment(caption), tmp_path / "a.png")
    shown = of_user(figure)
    title = "".join(printable(caption).split())
    assert title in {"".join(text.split()) for text in shown}  # whatever its line breaks
    assert {printable(text, 48) for text in (caption, f"1 {caption}", "2 $2 bill")} <= set(shown)
    assert not any(t._preprocess_math(t.get_text())[1] for t in figure.findobj(Text))
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 1000


@pytest.mark.parametrize("caption", NASTY, ids=range(len(NASTY)))
def test_maps_show_their_texts_as_they_are(caption, tmp_path):
    found = of_maps(caption)
    figure = maps.draw(found)
    maps.write(found, tmp_path / "a.png")
    shown = ["".join(text.split()) for text in of_user(figure)]
    assert shown.count("".join(printable(caption).split())) == 4  # the picture's, three maps'
    assert not any(t._preprocess_math(t.get_text())[1] for t in figure.findobj(Text))
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 1000


def test_a_style_of_tex_does_not_read_the_texts_of_users():
    with rc_context({"text.usetex": True, "text.parse_math": True}):
        figure = draw(alignment("100% of $5"))
    texts = [t for t in figure.findobj(Text) if "100%" in t.get_text()]
    assert len(texts) >= 6 and not any(t.get_usetex() for t in texts)


def row(name: str) -> dict[str, object]:
    return {"row": name, "values": {"$r_1$": 3.0}, "gaps": {}}


def test_a_sweep_shows_the_names_of_its_rows_as_they_are(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(
        "intarsia.sweep.table.save",
        lambda figure, *a, **o: figures.append(figure) or drawing.save(figure, *a, **o),
    )
    sweep = SimpleNamespace(name=NASTY[2], metrics=["$r_1$"])
    plot(sweep, [row(name) for name in NASTY], tmp_path / "bars.png")
    plot(sweep, [row(name) for name in ("0.1", "1", "10")], tmp_path / "curve.png")
    bars, curve = map(of_user, figures)
    assert {printable(name, LONGEST) for name in NASTY} <= set(bars) and "$r_1$ (%)" in bars
    assert {NASTY[2], "$r_1$ (%)"} <= set(curve)


def test_one_line_that_any_file_can_take():
    assert printable("a  dog\n\tand\u2028a cat ") == "a dog and a cat"
    assert printable("\x00\x1b[31m\udcff") == f"{REPLACED}{REPLACED}[31m{REPLACED}"
    assert printable("$5 and $10") == "$5 and $10"
    assert len(printable("word " * 100, 50)) == 50 and printable("x" * 60, 50).endswith("x…")
