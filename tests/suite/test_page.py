import re
from html.parser import HTMLParser

import pytest

from intarsia.suite.page import write_page
from intarsia.suite.plan import Skip
from intarsia.suite.run import Failed
from intarsia.suite.tables import benchmarks

NASTY = '<script>alert("1")</script> & <b>'


class Page(HTMLParser):
    VOID = ("meta", "image", "use", "rect", "path", "circle", "polygon", "wbr")

    def __init__(self, text):
        super().__init__()
        self.source, self.elements, self.stack = text, [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), []))
        if tag not in self.VOID:
            self.stack.append(self.elements[-1])

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.stack.pop()[0] == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        for element in self.stack:
            element[2].append(data)

    def find(self, tag, kind=None):
        return [
            (attrs, " ".join("".join(texts).split()))
            for name, attrs, texts in self.elements
            if name == tag and (kind is None or kind in attrs.get("class", "").split())
        ]


@pytest.fixture(scope="module")
def page(suite, tmp_path_factory):
    suite.plan.skipped.append(Skip("aro", "aro", NASTY))
    suite.failed.append(Failed("svo on svo test", "clip", NASTY))
    path = tmp_path_factory.mktemp("page") / "suite.html"
    write_page(suite, benchmarks(suite), path)
    suite.plan.skipped.clear()
    suite.failed.clear()
    return Page(path.read_text())


def test_nothing_comes_from_elsewhere(page):
    assert not re.search(r"https?:|@import|url\((?!#)|[\"'(]//", page.source)
    for _, attrs, _ in page.elements:
        for name in ("src", "href", "xlink:href", "action"):
            assert attrs.get(name, "#").startswith(("#", "data:image/"))
    assert not {"link", "iframe"} & {tag for tag, *_ in page.elements}
    assert not page.stack


def test_every_reference_has_one_target(page):
    ids = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
    used = {attrs["href"][1:] for tag, attrs, _ in page.elements if tag in ("use", "a")}
    assert len(ids) == len(set(ids)) and used and used <= set(ids)


def test_cells_hold_the_figures_to_sort_by(page, suite):
    values = sorted(
        float(attrs["data-value"]) for attrs, _ in page.find("td") if "data-value" in attrs
    )
    expected = [
        metric["value"]
        for results in suite.results.values()
        for result in results.values()
        for metric in result["metrics"].values()
    ]
    for value in expected:
        assert value in values
    assert len(page.find("table", "sortable")) == 1 + len(suite.results)
    orders = {attrs.get("data-order") for attrs, _ in page.find("th") if "data-order" in attrs}
    assert orders == {"ascending", "descending"}


def test_every_failure_shows_both_models(page, suite):
    cases = [case for cases in suite.failures.values() for case in cases]
    shown = page.find("details", "case")
    assert len(shown) == len(cases) > 10
    for case, (attrs, text) in zip(cases, shown, strict=True):
        assert case["true"] in text and case["false"] in text
        assert "clip" in text and "registers" in text
        first = case["models"][0]
        assert attrs["data-first"] == ("right" if first["is_right"] else "wrong")
        assert f"{first['true']:.3f}" in text
    heats = [attrs for attrs, _ in page.find("image", "heat")]
    assert len(heats) == sum(len(m["views"]) for case in cases for m in case["models"])


def test_plots_have_every_model(page, suite):
    differences = [text for _, text in page.find("span", "amount")]
    assert len(differences) == 2 * len(page.find("p", "row-name")) > 10
    outlines = page.find("polygon", "outline")
    assert len(outlines) == len(suite.models)
    top = max(float(y) for attrs, _ in outlines for y in re.findall(r",([\d.]+)", attrs["points"]))
    assert top <= 330


def test_what_was_not_done_is_told_and_escaped(page):
    texts = [text for _, text in page.find("dd")]
    assert texts.count(" ".join(NASTY.split())) == 2
    assert len(page.find("script")) == 1


def test_small_pages(suite, tmp_path):
    """One model, no data: nothing to compare, nothing to plot."""
    from dataclasses import replace

    alone = replace(
        suite, models={"clip": "runs/clip"}, keys={"clip": {"model": "0"}}, results={}, failures={}
    )
    write_page(alone, benchmarks(alone), tmp_path / "a" / "page.html")
    page = Page((tmp_path / "a" / "page.html").read_text())
    assert not page.find("svg") and not page.find("table")


def test_text_only_is_a_row_that_no_plot_shows(blind_suite, tmp_path):
    write_page(blind_suite, benchmarks(blind_suite), tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert page.find("h1")[0][1] == "3 models on 2 benchmarks"
    rows = [text for _, text in page.find("span", "name")]
    assert rows.count("text only") == len(page.find("table", "sortable")) == 3
    assert len(page.find("polygon", "outline")) == 3  # its empty retrieval leaves no axis out
    assert not any(
        "text only" in attrs["title"]
        for attrs, _ in page.find("div", "whisker")
        if "title" in attrs
    )
    (told,) = (text for _, text in page.find("p", "note") if text.startswith("text only"))
    assert "taught on captions of scenes train[:300]" in told
    assert any(text.startswith("Text only: a language model") for _, text in page.find("p", "note"))
