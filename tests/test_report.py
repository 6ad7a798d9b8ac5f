import re
from html.parser import HTMLParser
from io import BytesIO
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from intarsia.data.scenes import SceneSet
from intarsia.errors import ConfigError, DataError
from intarsia.evaluation.metrics import Metric
from intarsia.report import Column, Curve, PhraseMap, Picture, write_report

NASTY = '<script>alert("1")</script> & <b>'
RESULTS = {
    "clip": {"r1": Metric(25.1, (22.4, 27.8), 1000), "swap": Metric(50.25, (49.0, 51.5), 4000)},
    "registers": {"r1": Metric(31.0, (28.0, 34.0), 1000)},
    "filip": {"r1": Metric(31.0, (28.5, 33.0), 900), "swap": Metric(49.0, (47.0, 51.0), 4000)},
}
COLUMNS = {
    "r1": Column("R@1", "hits among 1,000"),
    "swap": Column("Swap", f"true over {NASTY}", 50.0),
}
CURVES = {
    "Loss": [Curve("clip", list(range(90)), list(np.linspace(3, 1, 90)))],
    "Local $1 & $2": [Curve("_registers", [0, 5], [4.0, 2.0]), Curve("clip", [0, 5], [3.0, 2.0])],
}


class Page(HTMLParser):
    """What a reader of the page meets: elements, their attributes and their own text."""

    VOID = ("meta", "image", "use", "rect", "path", "br")

    def __init__(self, text):
        super().__init__()
        self.source = text
        self.elements = []  # (tag, attributes, texts, ancestors' tags)
        self.stack = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        element = (tag, dict(attrs), [], [parent[0] for parent in self.stack])
        self.elements.append(element)
        if tag not in self.VOID:
            self.stack.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), [], [parent[0] for parent in self.stack]))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.stack.pop()[0] == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        for element in self.stack:
            element[2].append(data)

    def find(self, tag, **wanted):
        return [
            (attrs, " ".join("".join(texts).split()))
            for name, attrs, texts, _ in self.elements
            if name == tag and all(attrs.get(k.strip("_")) == v for k, v in wanted.items())
        ]

    def texts(self, tag, **wanted):
        return [text for _, text in self.find(tag, **wanted)]


def report(folder, **changes):
    settings = {
        "title": f"Run {NASTY}",
        "lead": "One.\n\nTwo.",
        "results": RESULTS,
        "columns": COLUMNS,
        "curves": CURVES,
        "pictures": [],
        "facts": {"command": "intarsia demo --out 'a&b'"},
    }
    write_report(folder / "new" / "report.html", **{**settings, **changes})
    return Page((folder / "new" / "report.html").read_text(encoding="utf-8"))


def scene(index, models=("clip", "registers")):
    record = SceneSet("test", 3)[index]
    maps = {m: np.random.default_rng(i).normal(size=(7, 7)) for i, m in enumerate(models)}
    phrases = [
        PhraseMap(record.phrase_text(p), maps, [record.regions[i].box for i in p.regions])
        for p in record.phrases
    ]
    return Picture(record.id, Image.fromarray(record.image), record.captions, phrases)


def one_map(heat, boxes, size=(80, 40), phrase="red circle"):
    image = Image.new("RGB", size, "grey")
    return [Picture("photo/1", image, (), [PhraseMap(phrase, {"clip": heat}, boxes)])]


def heat_of(page):
    ((attrs, _),) = page.find("image", class_="heat")
    with urlopen(attrs["href"]) as data:
        return np.asarray(Image.open(BytesIO(data.read())).convert("L"), dtype=float)


def test_nothing_comes_from_elsewhere(tmp_path):
    page = report(tmp_path, pictures=[scene(0)])
    assert not re.search(r"https?:|@import|url\((?!#)", page.source)
    sources = [
        value
        for _, attrs, _, _ in page.elements
        for name, value in attrs.items()
        if name in ("src", "href", "xlink:href")
    ]
    assert sources and all(s.startswith(("data:image/webp;base64,", "#")) for s in sources)
    assert not {"script", "link", "iframe"} & {tag for tag, *_ in page.elements}


def test_every_reference_inside_the_page_has_one_target(tmp_path):
    page = report(tmp_path, pictures=[scene(0), scene(1)])
    ids = [attrs["id"] for _, attrs, _, _ in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    used = {
        attrs.get("href", attrs.get("xlink:href"))[1:]
        for tag, attrs, _, _ in page.elements
        if tag == "use"
    }
    assert used | set(re.findall(r"url\(#(.*?)\)", page.source)) <= set(ids)
    assert {"picture-0", "picture-1"} <= used


def test_the_best_of_each_column_is_marked_ties_and_all(tmp_path):
    page = report(tmp_path)
    best = page.texts("td", class_="best")
    assert [text.split()[:2] for text in best] == [[v, "best"] for v in ("50.2", "31.0", "31.0")]
    assert page.texts("td", class_="none") == ["–"]
    assert "22.4 to 27.8" in page.texts("small")


def test_the_table_says_chance_and_n(tmp_path):
    page = report(tmp_path)
    assert page.texts("tfoot") == ["chance – 50.0"]
    assert len(page.find("i", class_="chance")) == 2
    assert page.texts("span", class_="n") == ["(n = 900 to 1,000)", "(n = 4,000)"]
    assert report(tmp_path, columns={"r1": COLUMNS["r1"]}).find("tfoot") == []


def test_bars_lie_on_their_columns_scale(tmp_path):
    results = {
        "a": {"gain": Metric(-1.0, (-2.0, 0.0), 9)},
        "b": {"gain": Metric(4.0, (2.0, 6.0), 9)},
    }
    page = report(tmp_path, results=results, columns={"gain": Column("Gain", "points")})
    bars = [attrs["style"] for attrs, _ in page.find("i", class_="interval")]
    assert bars == ["left: 0.00%; width: 25.00%", "left: 50.00%; width: 50.00%"]
    points = [attrs["style"] for attrs, _ in page.find("i", class_="point")]
    assert points == ["left: 12.50%", "left: 75.00%"]
    from_zero = {"a": {"r1": Metric(30.0, (20.0, 40.0), 9)}}
    page = report(tmp_path, results=from_zero, columns={"r1": Column("R@1", "hits", 10.0)})
    assert page.find("i", class_="interval")[0][0]["style"] == "left: 50.00%; width: 50.00%"


def test_a_column_that_no_row_has_is_named(tmp_path):
    with pytest.raises(ConfigError, match="unknown metric 'r5': choose from r1, swap"):
        report(tmp_path, columns={"r5": Column("R@5", "hits")})
    assert list(tmp_path.iterdir()) == []


def test_text_is_escaped_everywhere(tmp_path):
    heat = np.eye(2)
    picture = Picture(
        NASTY, Image.new("RGB", (8, 8)), (NASTY,), [PhraseMap(NASTY, {NASTY: heat}, [])]
    )
    page = report(
        tmp_path,
        lead=NASTY,
        results={NASTY: RESULTS["clip"]},
        curves={NASTY: [Curve(NASTY, [0, 1], [1.0, 2.0])]},
        pictures=[picture],
        facts={NASTY: NASTY},
    )
    assert "<script" not in page.source and "& <b>" not in page.source
    assert page.texts("h1") == [f"Run {NASTY}"]
    assert page.texts("p", class_="lead") == [NASTY]
    assert page.texts("dt") == page.texts("dd") == [NASTY]
    assert page.texts("h3") == [NASTY, NASTY]  # the panel, the phrase
    assert page.texts("span", class_="model") == [NASTY]


def test_a_curve_keeps_its_name_and_colour_in_every_panel(tmp_path):
    page = report(tmp_path)
    assert page.texts("ul", class_="keys") == ["clip", "_registers clip"]
    swatches = [a["style"] for tag, a, _, up in page.elements if tag == "i" and "figure" in up]
    assert swatches == [f"background: var(--series-{i})" for i in (0, 1, 0)]
    strokes = [
        [f"stroke: var(--series-{i})" in drawing for i in (0, 1, 2)]
        for drawing in page.source.split('<figure class="panel">')[1:]
    ]
    assert strokes == [[True, False, False], [True, True, False]]
    assert "currentColor" in page.source and "#0101" not in page.source


def test_long_curves_are_drawn_raw_and_smoothed(tmp_path):
    noise = np.random.default_rng(0).normal(size=90).tolist()
    long = report(tmp_path, curves={"Loss": [Curve("clip", list(range(90)), noise)]})
    short = report(tmp_path, curves={"Loss": [Curve("clip", list(range(9)), noise[:9])]})
    assert long.source.count("stroke: var(--series-0)") == 2
    assert short.source.count("stroke: var(--series-0)") == 1


def test_each_picture_is_embedded_once_and_each_map_once(tmp_path):
    pictures = [scene(0), scene(1)]
    num_phrases = sum(len(picture.phrases) for picture in pictures)
    page = report(tmp_path, pictures=pictures)
    assert len(page.find("image", class_="heat")) == 2 * num_phrases
    assert len(page.find("image")) == 2 * num_phrases + 2
    drawn = [up for tag, attrs, _, up in page.elements if attrs.get("class") == "under"]
    assert len(drawn) == 2 * num_phrases
    phrases = [item.phrase for picture in pictures for item in picture.phrases]
    assert page.texts("h3")[len(CURVES) :] == phrases
    captions = [caption for picture in pictures for caption in picture.captions]
    assert [t for t in page.texts("li") if t in captions] == captions


def test_a_report_stays_small_enough_to_send(tmp_path):
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (480, 640, 3), dtype=np.uint8))  # the worst case
    phrases = [
        PhraseMap(f"phrase {i}", {f"model {j}": rng.normal(size=(7, 7)) for j in range(3)}, [])
        for i in range(8)
    ]
    pictures = [Picture(f"photo/{i}", photo, (), phrases) for i in range(8)]
    assert len(report(tmp_path, pictures=pictures).source) < 4_000_000


def test_the_peak_is_marked_and_judged_where_it_is(tmp_path):
    heat = np.zeros((2, 4))
    heat[1, 2] = 1.0  # of 80 x 40 pixels: (40, 20) to (60, 40), centre (50, 30)
    page = report(tmp_path, pictures=one_map(heat, [(45, 25, 55, 35)]), curves={})
    peak = page.find("rect", class_="peak")[-1][0]
    assert [float(peak[k]) for k in ("x", "y", "width", "height")] == [40, 20, 20, 20]
    box = page.find("rect", class_="box")[-1][0]
    assert [float(box[k]) for k in ("x", "y", "width", "height")] == [45, 25, 10, 10]
    assert page.find("path", class_="dot")[-1][0]["d"] == "M50.00 30.00h0"
    assert page.texts("figcaption") == ["clip ✓ hit"]
    page = report(tmp_path, pictures=one_map(heat, [(0, 0, 49, 40)]), curves={})
    assert page.texts("figcaption") == ["clip ✗ miss"]
    page = report(tmp_path, pictures=one_map(heat, []), curves={})
    assert page.texts("figcaption") == ["clip"]


def test_the_heat_lies_over_the_picture_as_the_map_does(tmp_path):
    heat = np.zeros((2, 4), dtype=np.float16)
    heat[0, 3] = 1.0
    shown = heat_of(report(tmp_path, pictures=one_map(heat, [])))
    assert shown.shape == (64, 128)
    top, bottom = np.vsplit(shown, 2)
    cells = [half[:, i : i + 32].mean() for half in (top, bottom) for i in range(0, 128, 32)]
    assert int(np.argmax(cells)) == 3
    steps = np.abs(np.diff(shown[10]))
    assert steps.max() < 20, "a step between cells: not bilinear"


def test_a_map_is_shown_from_its_own_lowest_to_its_highest(tmp_path):
    heat = np.random.default_rng(0).normal(size=(3, 3))
    plain, scaled = (
        heat_of(report(tmp_path, pictures=one_map(h, []))) for h in (heat, 0.01 * heat + 5)
    )
    assert np.abs(plain - scaled).max() < 4
    flat = heat_of(report(tmp_path, pictures=one_map(np.ones((3, 3)), [])))
    assert flat.max() < 8


def test_a_map_with_nan_is_named(tmp_path):
    heat = np.array([[0.0, np.nan]])
    with pytest.raises(
        DataError, match=r"photo/1: the cells of clip's map of 'red circle'.*\[0, 1"
    ):
        report(tmp_path, pictures=one_map(heat, []))


def test_empty_parts_are_left_out(tmp_path):
    page = report(tmp_path, results={}, columns={}, curves={}, pictures=[], facts={})
    assert page.find("section") == [] and page.find("table") == []
    assert page.texts("p") == ["One.", "Two."]


def test_a_failed_report_leaves_the_old_one_alone(tmp_path):
    report(tmp_path)
    before = (tmp_path / "new" / "report.html").read_bytes()
    with pytest.raises(DataError):
        report(tmp_path, pictures=one_map(np.full((2, 2), np.nan), []))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]
    assert (tmp_path / "new" / "report.html").read_bytes() == before
