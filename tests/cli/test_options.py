"""Options have one name in every verb, and a mistake in them is one line that names the choices."""

import re

import pytest
import yaml

from intarsia.cli import main, train_parser
from intarsia.cli.evaluating import protocol_parser
from intarsia.cli.options import parsed
from intarsia.data.readers import READERS
from intarsia.evaluation.compositional import COMPOSITIONAL
from intarsia.evaluation.result import read_result

TRAIN = "train --data scenes --backbone scenes-clip --trainer.steps 1 --out {out}"
EVALUATE = "evaluate retrieval --model scenes-clip --data scenes"


def told(line, capsys):
    with pytest.raises(SystemExit) as stop:
        main(line.split(" ") if isinstance(line, str) else line)
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(lines) == 1
    return lines[0].removeprefix("error: ")


def help_of(verb, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([*verb.split(), "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "verb", ["train", "import", "extract", "tune", "evaluate retrieval", "evaluate probe"]
)
def test_the_data_are_named_alike_in_every_verb(verb, capsys):
    text = help_of(verb, capsys)
    for option in ("--data NAME", "--data DATA"):
        text = text.replace(option, "--data X")
    assert "--data X" in text and "--data." not in text and "--data CONFIG" not in text
    assert all(f"  {option} " in text for option in ("--root", "--split"))
    names = " ".join(text.split()).partition("name of the data set: ")[2].partition(" (required")[0]
    assert names.split(", ") == list(READERS)


@pytest.mark.parametrize(
    "style",
    [
        "--data {} --split {} --max-bad-fraction 0.5",
        "--data.name {} --data.split={} --data.max_bad_fraction 0.5",
        "--data {} --data.split {} --max_bad_fraction=0.5",
    ],
)
def test_every_spelling_is_understood(style):
    data = style.format("scenes", "test[:2]").split()
    given = ["--backbone", "scenes-clip", "--trainer.steps", "1", "--out", "out", *data]
    found = parsed(train_parser(), given).data
    assert (found.name, found.split, found.max_bad_fraction) == ("scenes", "test[:2]", 0.5)
    options = parsed(protocol_parser("boxes"), ["--model", "m", "--input_size", "64", *data])
    assert (options.data, options.split, options.max_bad_fraction) == ("scenes", "test[:2]", 0.5)
    assert options.input_size == 64


def test_configs_nest_the_data_and_the_command_line_comes_last(tmp_path):
    config = tmp_path / "c.yaml"
    content = {"data": {"name": "coco", "split": "a"}, "backbone": "x", "trainer": {"steps": 1}}
    config.write_text(yaml.safe_dump(content), encoding="utf-8")
    found = parsed(train_parser(), ["--config", str(config), "--out", "o", "--split", "b"])
    assert (found.data.name, found.data.split) == ("coco", "b")


def test_an_imported_table_is_evaluated_by_the_same_options(tmp_path):
    table, file = tmp_path / "scenes.lance", tmp_path / "r.json"
    main(f"import --data scenes --split test[:2] --out {table}".split())
    main(
        f"evaluate retrieval --model scenes-clip --data table --root {table} --json {file}".split()
    )
    assert read_result(file)["metrics"]["i2t_r1"]["n"] == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            f"{TRAIN} --method Clp",
            "unknown method 'Clp': choose from Clip, ComAlign, Filip, Flair, HarmoClip, "
            "Registers (did you mean Clip?)",
        ),
        (f"{TRAIN} --method Registers --method.layrs 3", "(did you mean layers?)"),
        (f"{TRAIN} --method Clip --method.layers 3", "option of --method Clip 'layers': there is"),
        (f"{TRAIN} --method nowhere.Clip", "--method nowhere.Clip: No module named 'nowhere'"),
        (f"{TRAIN} --method Registers --method.layers x", "--method.layers x: must be int"),
        (f"{TRAIN} --method Registers --method.layers=3.5", "--method.layers 3.5: must be int"),
        (
            f"{TRAIN} --method Registers --method.negatives bach",
            "unknown --method.negatives 'bach': choose from batch, both, patches (did you mean "
            "batch?)",
        ),
        (
            f"{TRAIN} --method Filip --method.local_weight nan",
            "--method.local_weight nan: must be finite float",
        ),
        (f"{TRAIN} --lora.rank x", "--lora.rank x: must be int"),
        (
            f"{TRAIN} --validation scenes",
            "--validation scenes: must be settings of validation, as --validation.name scenes",
        ),
        (f"{TRAIN} --trainer.schedule cosine", "as --trainer.schedule.kind cosine"),
        (f"{TRAIN} --trainer.stesp 3", "unknown option --trainer.stesp: did you mean --trainer.s"),
        (f"{TRAIN} --trainer {{{{stesp: 3}}}}", "unknown option of trainer 'stesp': choose from"),
        (f"{TRAIN} --trainer.batch_size x", "--trainer.batch_size x: must be int"),
        (f"{TRAIN} --trainer.epochs x", "--trainer.epochs x: must be float or null"),
        (f"{TRAIN} --freeze vision", "unknown --freeze 'vision': choose from backbone, image,"),
        (f"{TRAIN} --validation.nam x", "choose from max_bad_fraction, name, root, split"),
        (
            f"{TRAIN} --trainer.steps 1 --trainer.validate_every 1",
            "trainer.validate_every: nothing to validate on; give --validation too",
        ),
        ("demo --out {out} --pictures -3", "--pictures is -3: give 0 or more"),
        (f"{TRAIN} --seed", "argument --seed: expected one argument"),
        ("train --out {out}", "missing --data, --backbone: `intarsia train --help`"),
        ("import --data file --out {out}", "the data set 'file' needs the path of its files"),
        (
            "import --data fil --out {out}",
            "unknown data set 'fil': choose from coco, coco-karpathy, file, ",
        ),
        (f"{EVALUATE} --splt test", "unknown option --splt: did you mean --split?"),
        ("evaluate retrieval --data scenes", "missing --model: "),
        ("evaluate zeroshot", "(did you mean zero-shot?)"),
        ("trian", "(did you mean train?)"),
    ],
)
def test_a_mistake_is_one_line(line, message, tmp_path, capsys):
    arguments = line.format(out=tmp_path / "out")
    arguments = re.split(r" (?![^{]*\})", arguments)
    assert message in told(arguments, capsys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1", "not YAML: line 1: "),
        ("- 1", "must be a mapping of options, is list"),
        ("nothing: 3", "unknown option of intarsia train 'nothing': choose from backbone, cache"),
        ("trainer: {stesp: 3}", "unknown option of trainer 'stesp'"),
        ("method: {class_path: Clp}", "unknown method 'Clp'"),
        ("method: 3", "c.yaml: unknown method '3': choose from Clip"),
        (
            "method: {class_path: Registers, init_args: {layers: x}}",
            "c.yaml: --method.layers x: must be int",
        ),
        ("method: {class_path: Registers, init_args: 3}", "--method.init_args: must be a mapping"),
        ("trainer: {batch_size: x}", "c.yaml: --trainer.batch_size x: must be int"),
        ("lora: {rank: x}", "c.yaml: --lora.rank x: must be int"),
        (
            "validation: scenes",
            "c.yaml: validation: scenes: must be a mapping of settings, as validation: {name: scen",
        ),
        (
            "trainer: {schedule: cosine}",
            "c.yaml: trainer.schedule: cosine: must be a mapping of settings, as schedule: {kind: ",
        ),
        (
            "lora: 3",
            "c.yaml: lora: 3: must be a mapping of settings, as lora: {alpha: ...} (there are alpha"
            ", rank, targets)",
        ),
        (None, "No such file or directory"),
    ],
)
def test_a_mistake_in_a_config_is_one_line(content, message, tmp_path, capsys):
    config = tmp_path / "c.yaml"
    if content is not None:
        config.write_text(content, encoding="utf-8")
    line = told(f"{TRAIN} --config {config}".format(out=tmp_path / "out"), capsys)
    assert message in line and ("c.yaml" in line or "method" in line)


@pytest.mark.parametrize(
    ("content", "cure"),
    [("scenes", "scenes"), ("[scenes]", "..."), ("3", "...")],
)
def test_a_config_that_names_the_data_alone_is_told_the_cure(content, cure, tmp_path, capsys):
    config = tmp_path / "c.yaml"
    config.write_text(f"data: {content}", encoding="utf-8")
    line = f"train --backbone scenes-clip --out {tmp_path / 'out'} --config {config}"
    assert f"{config}: data: " in (found := told(line, capsys))
    assert found.endswith(f"must be a mapping of settings, as data: {{name: {cure}}}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{EVALUATE} --split test[:0]", "no records in 'test[:0]': is the slice beyond the last?"),
        (f"{EVALUATE} --split tset", "unknown split of scenes 'tset': choose from compositional"),
        ("evaluate suite --models scenes-clip --root {out} --out {out}/o", "holds nothing to"),
        (
            "evaluate suite --models scenes-clip --root {out} --out {out}/o --data flickr8k",
            "nothing can be asked of flickr8k: there is no folder {out}/flickr8k",
        ),
        (
            "evaluate boxes --model scenes-clip --data scenes --split test[:2] --input-size 100",
            "input size 100 does not hold whole patches",
        ),
    ],
)
def test_data_that_do_not_exist_are_an_error(line, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("intarsia.identity._picture", lambda _: pytest.fail("a picture is read"))
    if "test[:0]" in line:
        monkeypatch.undo()
    with pytest.raises(SystemExit) as stop:
        main(line.format(out=tmp_path).split())
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and message.format(out=tmp_path) in told


def test_every_benchmark_has_the_same_options():
    common = {"--root", "--images", "--max-bad-fraction", "--blind", "--json", "--device"}
    for name in COMPOSITIONAL:
        assert common <= protocol_parser(name)._option_string_actions.keys()
