"""``--help`` of a protocol says what it measures, its files, metrics and chance: the right ones."""

import json

import pytest
import torch

from intarsia.cli import main
from intarsia.cli.about import ABOUT
from intarsia.data.layouts import LAYOUTS
from intarsia.evaluation.compositional import COMPOSITIONAL
from intarsia.evaluation.compositional_cases import Case
from intarsia.evaluation.compositional_fgovd import FILES

ON_SCENES = {
    "retrieval": "",
    "negatives": "",
    "pointing": "",
    "boxes": "",
    "grounding": "--source proposals",
    "region-retrieval": "",
}
KINDS = {
    "aro": ("relation", "attribution"),
    "svo": ("subject", "verb", "object"),
    "sugarcrepe": tuple(item.path.removesuffix(".json") for item in LAYOUTS["sugarcrepe"]),
    "winoground": ("",),
    "fg-ovd": tuple(FILES),
}
CHANCE = {
    "aro": {"relation_macro": 50, "attribution_micro": 50},
    "svo": {"subject": 50, "verb": 50, "object": 50, "all": 50},
    "sugarcrepe": {"swap_att": 50, "macro": 50, "micro": 50},
    "winoground": {"text": 25, "image": 25, "group": 16.7},
    "fg-ovd": {"hard": 9.1, "hard_rank": 6},
}


@pytest.mark.parametrize("name", ABOUT)
def test_help_says_what_it_measures_its_files_metrics_and_chance(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", name, "--help"])
    lines = capsys.readouterr().out.splitlines()
    for label in ("measures:", "files:", "metrics:", "chance:"):
        assert sum(line.startswith(f"{label} ") for line in lines) == 1
    text = " ".join(" ".join(lines).split())
    assert ABOUT[name].metrics in text and ABOUT[name].chance in text
    for item in LAYOUTS.get(name, ()):
        assert item.path in ABOUT[name].files and item.source in ABOUT[name].files


def test_the_overview_asks_the_question_of_every_protocol(capsys):
    main(["evaluate"])
    lines = capsys.readouterr().out.splitlines()
    for name, about in ABOUT.items():
        assert f"  {name:17}{about.measures}" in lines


@pytest.mark.parametrize("name", ON_SCENES)
def test_the_metrics_are_those_that_the_protocol_gives(name, tmp_path):
    file = tmp_path / "r.json"
    line = f"evaluate {name} {ON_SCENES[name]} --model scenes-clip --data scenes --split test[:6]"
    main(f"{line} --json {file}".split())
    text = f"{ABOUT[name].metrics} {ABOUT[name].chance}"
    given = json.loads(file.read_text(encoding="utf-8"))["metrics"].keys()
    kinds = "_swap", "replace_"  # which the records name
    assert [m for m in given if m not in text and not any(kind in m for kind in kinds)] == []


@pytest.mark.parametrize("name", COMPOSITIONAL)
def test_the_metrics_and_the_chance_of_a_benchmark_are_those_of_guessing(name, tmp_path):
    generator = torch.Generator().manual_seed(0)
    texts = ("true", *(f"false {i}" for i in range(10 if name == "fg-ovd" else 1)))
    cases = [
        Case(f"{i // 2} {kind}", tmp_path / f"{i}.png", texts, kind, "one")
        for kind in KINDS[name]
        for i in range(4000)
    ]
    scores = torch.rand(len(cases), len(texts), generator=generator)
    found = COMPOSITIONAL[name].outcomes(cases, scores)
    about = ABOUT[name]
    told = about.metrics.replace("FILE", "")
    for metric in found:
        assert metric in told or metric.removesuffix("_rank") in told
    for metric, chance in CHANCE[name].items():
        mean = float(found[metric].values.mean())
        assert mean == pytest.approx(chance, abs=0.1 if metric.endswith("rank") else 2.5)
        assert f"{chance:g}" in about.chance
