"""A sweep of two rows and two seeds on generated scenes, through the command line."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from intarsia.cli import main
from intarsia.cli.about import ABOUT
from intarsia.cli.evaluating import _entries, protocol_parser
from intarsia.cli.options import parsed
from intarsia.errors import ConfigError
from intarsia.evaluation.compositional import COMPOSITIONAL
from intarsia.evaluation.compositional_sugarcrepe import KINDS
from intarsia.evaluation.result import read_result
from intarsia.model import WEIGHTS
from intarsia.sweep import Sweep, metrics_of
from intarsia.sweep.checks import ON_RECORDS, SWAPS
from intarsia.sweep.file import folder_name

CONFIG = """
data: {name: scenes, split: "train[:24]"}
backbone: scenes-clip
method: {class_path: Clip}
trainer: {steps: 2, batch_size: 8, precision: 32-true}
"""
SWEEP = """
name: rates
config: CONFIG
grid: {trainer.lr: [0.001, 0.01]}
seeds: [0, 1]
evaluate: {protocol: retrieval, data: scenes, split: "test[:6]"}
metrics: [i2t_r1, t2i_r1]
published: {"lr 0.01": [1.5, 2.5]}
"""


def written(tmp_path, text: str):
    (tmp_path / "config.yaml").write_text(CONFIG)
    path = tmp_path / "sweep.yaml"
    path.write_text(text.replace("CONFIG", str(tmp_path / "config.yaml")))
    return path


def test_a_sweep_makes_a_table_and_repeats_nothing(tmp_path):
    path, out = written(tmp_path, SWEEP), tmp_path / "out"
    main(["sweep", str(path), "--out", str(out)])
    rows = json.loads((out / "table.json").read_text())
    assert [row["row"] for row in rows] == ["lr 0.001", "lr 0.01"]
    results = [
        json.loads((out / "lr-0.01" / f"seed-{s}-retrieval.json").read_text()) for s in (0, 1)
    ]
    mean = sum(r["metrics"]["i2t_r1"]["value"] for r in results) / 2
    assert rows[1]["values"]["i2t_r1"] == pytest.approx(mean)
    assert results[1]["config"]["trainer"]["lr"] == 0.01 and results[1]["seed"] == 1
    low, high = rows[1]["gaps"]["i2t_r1"][1:]
    assert low <= rows[1]["gaps"]["i2t_r1"][0] <= high and not rows[0]["gaps"]
    assert "| 2.50 |" in (out / "table.md").read_text()
    assert (out / "table.png").stat().st_size > 1000
    trained = (out / "lr-0.01" / "seed-1" / "model.safetensors").stat().st_mtime_ns
    main(["sweep", str(path), "--out", str(out)])
    assert (out / "lr-0.01" / "seed-1" / "model.safetensors").stat().st_mtime_ns == trained


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("t2i_r1]", "t2i_r2]", "unknown metric of a sweep 't2i_r2': choose from i2t_median_rank, "),
        ("t2i_r1]", "attribute_swap]", "unknown metric of a sweep 'attribute_swap'"),
        (
            "data: scenes, split",
            "data: scens, split",
            "evaluate retrieval: unknown data set 'scens'",
        ),
        ('"test[:6]"', '"tset[:6]"', "evaluate retrieval: unknown split of scenes 'tset'"),
        ('"test[:6]"', '"test[:0]"', "evaluate retrieval: scenes test[:0]: no records"),
        (
            'data: scenes, split: "test[:6]"',
            "data: file, root: OUT/gone.csv",
            "evaluate retrieval: OUT/gone.csv: cannot be read: No such file",
        ),
        (
            'protocol: retrieval, data: scenes, split: "test[:6]"',
            "protocol: aro, root: OUT, images: OUT",
            "evaluate aro: OUT: neither visual_genome_relation.json",
        ),
        ("protocol: retrieval", "protocol: zero-shot", "zero-shot needs pictures sorted by class"),
        ("protocol: retrieval", "protocol: probe", "probe needs pictures sorted by class"),
        (
            "protocol: retrieval",
            "protocol: boxes --protocol clipself",
            "--protocol clipself reads coco, not 'scenes'",
        ),
        (
            "protocol: retrieval",
            "protocol: negatives --blind scenes:trian",
            "evaluate negatives: unknown split of scenes 'trian'",
        ),
        (
            "seeds:",
            'tune: {data: scenes, split: "trian[:6]"}\nseeds:',
            "tune: unknown split of scenes 'trian'",
        ),
        (
            "grid: {trainer.lr: [0.001, 0.01]}",
            "rows: {a: {}, b: {data.split: trian}}",
            "row 'b': unknown split of scenes 'trian'",
        ),
        (
            "grid: {trainer.lr: [0.001, 0.01]}",
            "rows: {a: {}, b: {validation.name: scenes, validation.split: vall}}",
            "row 'b': unknown split of scenes 'vall'",
        ),
        ("grid: {", 'options: {data.split: "tr{seed}"}\ngrid: {', "unknown split of scenes 'tr0'"),
    ],
)
def test_data_and_metrics_are_looked_at_before_anything_is_trained(
    tmp_path, capsys, old, new, message
):
    assert old in SWEEP
    text = SWEEP.replace(old, new).replace("OUT", str(tmp_path))
    path, out = written(tmp_path, text), tmp_path / "out"
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", str(path), "--out", str(out)])
    told = capsys.readouterr().err
    assert f"{path}: " in told and message.replace("OUT", str(tmp_path)) in told
    assert not out.exists()


def test_every_protocol_has_metrics_that_a_sweep_knows():
    assert {*ON_RECORDS, *COMPOSITIONAL} == set(_entries())
    assert all(kind in ABOUT["swaps"].metrics for kind in SWAPS)


@pytest.mark.parametrize(
    "asked",
    [
        "retrieval",
        "negatives",
        "pointing",
        "boxes",
        "grounding",
        "grounding --source proposals",
        "region-retrieval",
    ],
)
def test_the_metrics_that_a_sweep_knows_are_those_that_a_protocol_gives(tmp_path, asked):
    data = "--data scenes --split test[:12]"
    assert known(asked, data) == given(asked, data, tmp_path)


@pytest.mark.parametrize("asked", ["zero-shot", "probe"])
@pytest.mark.parametrize("num_classes", [3, 6])
def test_the_metrics_of_classes_depend_on_their_number(tmp_path, asked, num_classes):
    for split in ("train", "val"):
        for shade in range(num_classes):
            folder = tmp_path / "pictures" / split / f"shade {shade}"
            folder.mkdir(parents=True)
            for number in range(2):
                Image.new("L", (9 + number, 9), 40 * shade).save(folder / f"{number}.png")
    data = f"--data image_folder --root {tmp_path / 'pictures'}"
    found = known(asked, data)
    assert found == given(asked, data, tmp_path) and ("top5" in found) == (num_classes > 5)


def test_the_metrics_of_a_benchmark_are_those_of_its_files(tmp_path):
    entry = {"filename": "0.png", "caption": "red", "negative_caption": "blue"}
    for kind in KINDS:
        (tmp_path / f"{kind}.json").write_text(json.dumps({"0": entry}))
    Image.new("L", (9, 9)).save(tmp_path / "0.png")
    data = f"--root {tmp_path} --images {tmp_path}"
    found = known("sugarcrepe", data)
    assert found == given("sugarcrepe", data, tmp_path) == {*KINDS, "macro", "micro"}


def known(asked, data):
    protocol, *options = f"{asked} {data} --model scenes-clip".split()
    found = parsed(protocol_parser(protocol), options)
    return metrics_of(protocol, found.as_dict(), lambda spec: spec.read(spec.problems()))


def given(asked, data, folder):
    file = folder / "result.json"
    main(f"evaluate {asked} {data} --model scenes-clip --json {file}".split())
    return set(read_result(file)["metrics"])


def test_a_run_may_be_evaluated_twice(tmp_path, capsys):
    text = SWEEP.replace(
        "grid: {trainer.lr: [0.001, 0.01]}", 'rows: {"0": {}, "1": {trainer.lr: 0.01}}'
    )
    text = text.replace(
        'evaluate: {protocol: retrieval, data: scenes, split: "test[:6]"}',
        'evaluate:\n- {protocol: retrieval, data: scenes, split: "test[:6]"}\n'
        '- {protocol: negatives, data: scenes, split: "test[:12]"}',
    ).replace("t2i_r1]", "attribute_swap]")
    path, out = written(tmp_path, text), tmp_path / "out"
    main(["sweep", str(path), "--out", str(out)])
    second = json.loads((out / "1" / "seed-0-1-negatives.json").read_text())
    assert second["protocol"].startswith("negatives")
    rows = json.loads((out / "table.json").read_text())
    assert list(rows[1]["values"]) == ["i2t_r1", "attribute_swap"] == list(rows[1]["gaps"])
    path.write_text(path.read_text().replace("attribute_swap]", "r1]"))
    with pytest.raises(SystemExit):
        main(["sweep", str(path), "--out", str(out)])
    assert "unknown metric of a sweep 'r1'" in capsys.readouterr().err


def test_a_row_may_lie_between_the_start_and_another(tmp_path):
    train = f"train --config {tmp_path / 'config.yaml'} --out {tmp_path / 'start'} --seed 0"
    rows = f"""rows:
  fine-tuned: {{init: {tmp_path / "start"}, trainer.lr: 0.01}}
  between: {{init: {tmp_path / "start"}, trainer.lr: 0.01, interpolate: 0.25}}"""
    text = SWEEP.replace("grid: {trainer.lr: [0.001, 0.01]}", rows).replace("[0, 1]", "[0]")
    path, out = written(tmp_path, text), tmp_path / "out"
    main(train.split())
    main(["sweep", str(path), "--out", str(out)])
    folders = tmp_path / "start", out / "fine-tuned-269ab4" / "seed-0", out / "between" / "seed-0"
    start, end, between = (load_file(folder / WEIGHTS) for folder in folders)
    for key, found in between.items():
        torch.testing.assert_close(found, 0.75 * start[key] + 0.25 * end[key])
    assert (out / "between" / "seed-0-retrieval.json").exists()
    assert not (out / "between" / "seed-0" / "metrics.jsonl").exists()


def test_a_sample_of_a_grid_is_the_same_every_time():
    grid = {"a": [1, 2, 3], "b": [1, 2, 3]}
    sweep = Sweep("name", "c.yaml", {}, [], grid=grid, sample=4)
    assert len(sweep.all_rows()) == 4 and sweep.all_rows() == sweep.all_rows()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SWEEP.replace("seeds", "seed"), "unknown key 'seed'"),
        (SWEEP.replace("grid: {trainer.lr: [0.001, 0.01]}", ""), "rows or grid"),
        (SWEEP.replace("metrics: [i2t_r1, t2i_r1]", ""), "metrics"),
        (SWEEP.replace("grid: {", "grid: {interpolate: [0.5], "), "needs an init"),
        (
            SWEEP.replace("grid:", "options: {init: start}\ngrid:").replace(
                "grid: {", "grid: {interpolate: [0.5], "
            ),
            "needs a row of the same options without it",
        ),
        (
            SWEEP.replace("grid: {trainer.lr: [0.001, 0.01]}", "rows: {a: {}, a: {}}"),
            "'a' is used twice",
        ),
        (SWEEP.replace("[0.001, 0.01]", "[0.01, 0.01]"), "the same name"),
        ("just words", "unknown key 'just words'"),
        (SWEEP.replace("grid: {", "rows: [{").replace("0.01]}", "0.01]}]"), "rows: must be a mapp"),
        (SWEEP.replace("grid: {trainer.lr:", "rows: {a:"), "rows: a: must be a mapping, is a list"),
        (SWEEP.replace("[0.001, 0.01]", "0.001"), "grid: trainer.lr: must be a list, is a number"),
        (SWEEP.replace("grid: {trainer.lr: [0.001, 0.01]}", "rows: {1: {}}"), "1 must be text"),
        (SWEEP.replace("[0, 1]", "[]"), r"seeds are \[\]: give at least one"),
        (SWEEP.replace("[0, 1]", "[0, 0]"), r"seeds are \[0, 0\]: .* each once"),
        (SWEEP.replace("[0, 1]", "[one]"), "seeds: 1: must be a whole number, is text"),
        (SWEEP.replace("[i2t_r1, t2i_r1]", "i2t_r1"), "metrics: must be a list, is text"),
        (SWEEP.replace("protocol: retrieval, ", ""), "evaluate: lacks a protocol"),
        (SWEEP.replace("[1.5, 2.5]", "1.5"), "published: lr 0.01: must be a list, is a number"),
        (SWEEP + "tune:\nsample: few\n", "sample: must be a whole number, is text"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        Sweep.read(written(tmp_path, text))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("trainer.lr", "trainer.rl", "row 'rl 0.001': unknown option --trainer.rl: did you mean"),
        ("0.01]", "fast]", "row 'lr fast': --trainer.lr fast: must be float"),
        ("protocol: retrieval", "protocol: retrievl", "evaluate retrievl: unknown protocol"),
        (
            "seeds:",
            "tune: {dta: scenes}\nseeds:",
            "tune: unknown option --dta: did you mean --data",
        ),
        ("data: scenes, split", "data: scenes, splt", "evaluate retrieval: unknown option --splt"),
    ],
)
def test_every_row_and_evaluation_is_looked_at_before_anything_is_trained(
    tmp_path, capsys, old, new, message
):
    path, out = written(tmp_path, SWEEP.replace(old, new)), tmp_path / "out"
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", str(path), "--out", str(out)])
    told = capsys.readouterr().err
    assert f"{path}: " in told and message in told and not out.exists()


def test_rows_whose_names_look_alike_have_folders_of_their_own(tmp_path):
    names = ["weight 1", "weight -1", "weight-1", "A", "a", "0.5", ".5", "lr 0.5", "é", "è", "-"]
    folders = [folder_name(name) for name in names]
    assert len({folder.lower() for folder in folders}) == len(names) and all(folders)
    assert folders[0] == "weight-1" and folders[4] == "a" and folders[7] == "lr-0.5"
    rows = 'rows: {"weight 1": {trainer.lr: 0.01}, "weight -1": {trainer.lr: 0.1}}'
    text = SWEEP.replace("grid: {trainer.lr: [0.001, 0.01]}", rows).replace("[0, 1]", "[0]")
    out = tmp_path / "out"
    main(["sweep", str(written(tmp_path, text)), "--out", str(out)])
    for row, rate in (("weight 1", 0.01), ("weight -1", 0.1)):
        result = json.loads((out / folder_name(row) / "seed-0-retrieval.json").read_text())
        assert result["config"]["trainer"]["lr"] == rate


def changes(out) -> dict[str, int]:
    files = [*out.rglob(WEIGHTS), *out.rglob("seed-*.json")]
    return {str(p.relative_to(out)): p.stat().st_mtime_ns for p in files}


@pytest.fixture
def swept(tmp_path):
    """Runs a sweep of one seed, with changes of its file; what it made is in ``out``."""

    def run(*pairs):
        text = SWEEP.replace("[0, 1]", "[0]")
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new)
        main(["sweep", str(written(tmp_path, text)), "--out", str(tmp_path / "out")])
        return changes(tmp_path / "out")

    return run


def test_a_changed_option_retrains_its_row_and_sets_the_old_run_aside(swept, tmp_path, caplog):
    rows = "rows: {one: {trainer.lr: 0.001}, two: {trainer.lr: 0.01}}"
    as_rows = ("grid: {trainer.lr: [0.001, 0.01]}", rows)
    before = swept(as_rows)
    caplog.clear()
    caplog.set_level("INFO")
    after = swept(as_rows, ("0.01}", "0.5}"))
    assert after["one/seed-0/model.safetensors"] == before["one/seed-0/model.safetensors"]
    assert after["one/seed-0-retrieval.json"] == before["one/seed-0-retrieval.json"]
    assert after["two/seed-0/model.safetensors"] != before["two/seed-0/model.safetensors"]
    assert after["two/seed-0-old-0/model.safetensors"] == before["two/seed-0/model.safetensors"]
    result = json.loads((tmp_path / "out/two/seed-0-retrieval.json").read_text())
    assert result["config"]["trainer"]["lr"] == 0.5
    said = [record.getMessage() for record in caplog.records]
    assert any("row 'one', seed 0: stands" in line for line in said)
    assert any("row 'two', seed 0: made anew: what is there has other config" in s for s in said)
    assert any("seed-0-retrieval.json is made anew: other model and config" in s for s in said)


def test_other_data_of_an_evaluation_evaluate_anew_and_train_nothing(swept, tmp_path):
    import shutil

    main(f"import --data.name scenes --data.split test[:6] --out {tmp_path / 'a.lance'}".split())
    main(f"import --data.name scenes --data.split val[:6] --out {tmp_path / 'b.lance'}".split())
    shutil.copytree(tmp_path / "a.lance", tmp_path / "copy.lance")
    old = 'data: scenes, split: "test[:6]"'

    def at(name):
        return swept((old, f"data: table, root: {tmp_path / name}"))

    first, copy, other = at("a.lance"), at("copy.lance"), at("b.lance")
    weights = "lr-0.01/seed-0/model.safetensors"
    assert first == copy and first[weights] == other[weights]
    assert first["lr-0.01/seed-0-retrieval.json"] != other["lr-0.01/seed-0-retrieval.json"]


def test_other_protocol_code_evaluates_anew_and_trains_nothing(swept, monkeypatch):
    before = swept()
    monkeypatch.setattr("intarsia.identity.code_key", lambda: "changed")
    after = swept()
    weights = "lr-0.01/seed-0/model.safetensors"
    assert before[weights] == after[weights]
    assert before["lr-0.01/seed-0-retrieval.json"] != after["lr-0.01/seed-0-retrieval.json"]
