"""The command line as a user types it, on generated scenes."""

import json
from pathlib import Path

import pytest

from intarsia.cli import main, train_parser
from intarsia.encode.store import VectorStore
from intarsia.evaluation.result import KEYS
from intarsia.identity import weights_key
from intarsia.model import ModelSpec, load_model
from intarsia.sweep import Sweep, run_arguments
from intarsia.training.loop import Trainer
from intarsia.training.run import DataSpec, train
from intarsia.types import Record

CHECKOUT = Path(__file__).parents[1]
SWEEPS = sorted((CHECKOUT / "configs" / "ablations").glob("*.yaml"))
CONFIGS = sorted(set((CHECKOUT / "configs").rglob("*.yaml")) - set(SWEEPS))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_config_parses(path):
    options = train_parser().parse_args(["--config", str(path), "--out", "nowhere"])
    assert options.data.name and options.method.class_path


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.name)
def test_every_row_of_every_sweep_parses(path):
    sweep = Sweep.read(path)
    assert set(sweep.published) <= set(sweep.all_rows())
    for name, row in sweep.all_rows().items():
        if sweep.trained_row(name) != name:
            continue
        given = run_arguments(sweep, row, 0)
        options = train_parser().parse_args(
            ["--config", str(CHECKOUT / sweep.config), "--out", "nowhere", *given]
        )
        for key, value in row.items():
            if key == "method":
                assert options.method.class_path.rpartition(".")[2] == value
            elif key.startswith("backbone."):
                assert options.backbone[key.removeprefix("backbone.")] == value
            elif isinstance(value, dict):
                assert value.items() <= vars(options[key]).items()
            else:
                assert options[key] == value


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.name)
def test_every_evaluation_of_every_sweep_has_its_options(path, capsys):
    for options in Sweep.read(path).evaluate:
        with pytest.raises(SystemExit, match="0"):
            main(["evaluate", *options.pop("protocol").split(), "--help"])
        text = capsys.readouterr().out
        assert all(f"[--{key} " in text or f" --{key} " in text for key in options), options


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name, seed in (("a", 0), ("b", 1), ("c", 0), ("d", 1)):
        method = "Clip" if name in "ab" else "Registers"
        main(
            f"train --data.name scenes --data.split train[:32] --backbone scenes-clip "
            f"--method {method} --trainer.steps 2 --trainer.batch_size 8 "
            f"--out {folder / name} --seed {seed}".split()
        )
    return folder


@pytest.mark.parametrize("protocol", ["retrieval", "negatives", "pointing"])
def test_evaluate_prints_a_table_and_writes_a_result(run, protocol, capsys, tmp_path):
    file = tmp_path / "result.json"
    main(
        f"evaluate {protocol} --model {run / 'c'} --data scenes --split test[:12] "
        f"--json {file}".split()
    )
    result = json.loads(file.read_text())
    assert tuple(result) == KEYS
    counting = {"retrieval": " (5 captions)", "pointing": " (mentions)"}.get(protocol, "")
    assert result["protocol"] == protocol + counting and result["seed"] == 0
    assert result["config"]["method"]["class_path"].endswith("Registers")
    for metric in result["metrics"].values():
        assert metric["ci95"][0] <= metric["value"] <= metric["ci95"][1]
    if protocol == "retrieval":
        assert result["n"] == 48 and result["metrics"]["i2t_r1"]["n"] == 12
    assert next(iter(result["metrics"])) in capsys.readouterr().out


def test_compare_pairs_the_seeds(run, capsys, tmp_path):
    files = {}
    for name in "abcd":
        files[name] = tmp_path / f"{name}.json"
        main(
            f"evaluate retrieval --model {run / name} --data scenes --split test[:12] "
            f"--json {files[name]}".split()
        )
    capsys.readouterr()
    main(f"compare --a {files['c']} {files['d']} --b {files['a']} {files['b']}".split())
    out = capsys.readouterr().out
    assert "i2t_r1" in out and "t2i_r10" in out


def test_a_backbone_alone_can_be_evaluated(capsys):
    main("evaluate retrieval --model scenes-clip --data scenes --split test[:6]".split())
    assert "scenes-clip" in capsys.readouterr().out


def test_import_makes_a_table_that_trains(tmp_path, records):
    from PIL import Image

    rows = []
    for index, record in enumerate(records[:8]):
        assert isinstance(record, Record)
        Image.fromarray(record.image).save(tmp_path / f"{index}.png")
        rows += [{"image": f"{index}.png", "caption": c} for c in record.captions]
    source = tmp_path / "captions.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = tmp_path / "scenes.lance"
    main(f"import --data.name file --data.root {source} --out {table}".split())
    main(
        f"train --data.name table --data.root {table} --backbone scenes-clip "
        f"--trainer.steps 1 --trainer.batch_size 8 --out {tmp_path / 'run'}".split()
    )
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_comalign_from_extract_to_evaluation(tmp_path, capsys, monkeypatch):
    """Components of the records' own regions; every crop and phrase is embedded once."""
    pytest.importorskip("spacy", reason="needs the extra 'text'")
    embedded = []
    add = VectorStore.add
    monkeypatch.setattr(
        VectorStore, "add", lambda store, keys, x: embedded.extend(keys) or add(store, keys, x)
    )
    cache, run = f"--cache {tmp_path / 'cache'}", tmp_path / "run"
    main(
        f"train --data.name scenes --data.split train[:16] --backbone scenes-clip --method Clip "
        f"--freeze towers --trainer.steps 1 --trainer.batch_size 8 --out {tmp_path}/base".split()
    )
    embedded.clear()
    extract = f"extract --model {tmp_path / 'base'} --data scenes --split train[:16] {cache}"
    for part in ("1/2", "2/2"):
        main(f"{extract} --part {part}".split())
    assert "8 pictures with" in capsys.readouterr().out
    done = len(embedded)
    assert 16 * 3 < done == len(set(embedded))
    main(extract.split())
    assert "16 pictures with" in capsys.readouterr().out
    main(
        f"train --data.name scenes --data.split train[:12] --backbone scenes-clip --method "
        f"ComAlign --method.layers 1 --freeze backbone --trainer.steps 2 --trainer.batch_size 8 "
        f"--init {tmp_path / 'base'} --out {run} {cache}".split()
    )
    main(f"tune --model {run} --data scenes --split train[12:16] {cache} --device cpu".split())
    assert len(embedded) == done
    tuned = json.loads((run / "tune.json").read_text())
    assert tuned["n"] == 4 and (run / "tune.png").stat().st_size
    mixture = load_model(run).method.mixture.tolist()
    assert mixture == pytest.approx([tuned[name] for name in ("alpha1", "alpha2", "beta1")])
    file = tmp_path / "result.json"
    main(
        f"evaluate retrieval --model {run} --data scenes --split test[:6] --json {file} "
        f"{cache}".split()
    )
    assert json.loads(file.read_text())["n"] == 24 and len(embedded) > done


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("extract --model scenes-clip --data scenes --part 3/2", "--part 3/2: write k/n"),
        ("tune --model nowhere --data scenes", "unknown backbone 'nowhere'"),
        ("trian", "unknown verb 'trian'"),
        ("evaluate boxing", "unknown protocol 'boxing'"),
        ("evaluate retrieval --model nowhere --data scenes", "unknown backbone 'nowhere'"),
        ("evaluate retrieval --model scenes-clip --data scans", "unknown data set 'scans'"),
        ("evaluate retrieval --model scenes-clip --data scenes --split no", "unknown split"),
        (
            "train --data.name flickr8k --data.root nowhere --backbone scenes-clip "
            "--trainer.steps 1 --out {out}",
            "nowhere",
        ),
        ("train --data.name scenes --backbone scenes-clip --out {out}", "trainer.steps"),
    ],
)
def test_mistakes_are_one_clear_line(arguments, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(arguments.format(out=tmp_path / "out").split())
    assert stop.value.code == 2
    error = " ".join(capsys.readouterr().err.split())
    assert message in error and "Traceback" not in error


def test_unknown_options_are_refused(capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(
            f"train --data.name scenes --backbone scenes-clip --trainer.stesp 3 "
            f"--out {tmp_path}".split()
        )
    assert "stesp" in capsys.readouterr().err


def test_help_teaches(capsys):
    main([])
    assert "intarsia train" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert "peak learning rate" in text and "--resume" in text


def test_the_config_that_a_run_keeps_repeats_it(tmp_path, capsys):
    """Of a run from Python, too."""
    given = [
        "--data",
        "scenes",
        "--split",
        "train[:16]",
        "--trainer.steps",
        "2",
        "--trainer.batch_size",
        "8",
    ]
    main(["train", "--backbone", "scenes-resnet", *given, "--out", str(tmp_path / "a")])
    again = ["train", "--config", str(tmp_path / "a" / "config.yaml"), "--out"]
    main([*again, str(tmp_path / "b")])
    spec = ModelSpec({"spec": "scenes-resnet"})
    trainer = Trainer(steps=2, batch_size=8)
    train(spec, DataSpec("scenes", split="train[:16]"), trainer, tmp_path / "c")
    again[2] = str(tmp_path / "c" / "config.yaml")
    main([*again, str(tmp_path / "d")])
    keys = {run: json.loads((tmp_path / run / "keys.json").read_text()) for run in "abcd"}
    assert keys["a"] == keys["b"] and keys["c"] == keys["d"]
    assert weights_key(tmp_path / "a") == weights_key(tmp_path / "d")
