"""No verb begins what it could not keep: outputs are looked at before models and data."""

import pytest

from intarsia.cli import main
from intarsia.runtime import atomic

DATA = "--data nothing"  # which is told of when it is read


@pytest.fixture
def places(tmp_path):
    """A file, in which nothing can be written, and a folder that holds a file."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "mine.json").write_text('{"images": []}', encoding="utf-8")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "model.safetensors").write_text("", encoding="utf-8")
    (tmp_path / "sweep.yaml").write_text(
        "name: a\nconfig: c.yaml\nrows: {a: {}}\nmetrics: [r1]\nevaluate: {protocol: retrieval}\n",
        encoding="utf-8",
    )
    return tmp_path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"train {DATA} --backbone nowhere --trainer.steps 1 --out {{file}}/run", "cannot write"),
        (f"train {DATA} --backbone nowhere --trainer.steps 1 --out {{file}}", "it is a file"),
        (f"train {DATA} --backbone x --trainer.steps 1 --out {{full}}", "already holds a run"),
        (
            f"train {DATA} --backbone nowhere --trainer.steps 1 --freeze towers --out {{full}}/new "
            "--cache {file}",
            "cannot write into {file}: it is a file",
        ),
        (f"evaluate retrieval {DATA} --model nowhere --json {{full}}", "it is a folder"),
        (f"evaluate retrieval {DATA} --model nowhere --json {{file}}/r.json", "cannot write"),
        (f"evaluate suite {DATA} --models nowhere --out {{file}}", "it is a file"),
        (f"extract {DATA} --model nowhere --cache {{file}}/cache", "cannot write"),
        (f"import {DATA} --out {{full}}", "{full} exists: remove it or choose another path"),
        (f"import {DATA} --out {{file}}/new.lance", "cannot write"),
        (f"tune {DATA} --model {{file}}/run", "cannot write"),
        ("export --model nowhere --to open_clip --out {file}/out", "cannot write"),
        ("export --model nowhere --to open_clip --out {full}", "is not empty"),
        ("export --model nowhere --to open_clip --out {full}/n --results no.json", "no.json"),
        ("interpolate --start nowhere --model nowhere --out {full}", "already holds a model"),
        ("interpolate --start nowhere --model nowhere --out {file}/run", "cannot write"),
        ("align no.jpg words --model nowhere --out {full}", "it is a folder"),
        ("compare --a no.json --b no.json --json {full}", "it is a folder"),
        ("data check --json {full}", "it is a folder"),
        (f"evaluate retrieval {DATA} --model nowhere --json {{mine}}", "exists and is no result"),
        ("compare --a no.json --b b.json --json {mine}", "it exists and is no result"),
        ("compare --a a.json b.json --b c.json --json b.json", "b.json is one of the results"),
        ("sweep {sweep} --out {file}/out", "cannot write"),
        ("demo --fast --out {file}/demo", "cannot write"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_work(line, message, places, capsys):
    names = {name: places / name for name in ("file", "full")}
    names |= {"sweep": places / "sweep.yaml", "mine": places / "mine.json"}
    with pytest.raises(SystemExit) as stop:
        main(line.format(**names).split())
    told = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(told) == 1
    assert message.format(**names) in told[0]
    assert "nothing" not in told[0] and "nowhere" not in told[0]


def test_a_device_is_written_as_it_is(tmp_path):
    import os

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with atomic(pipe) as draft:
        draft.write_text("all", encoding="utf-8")
    assert os.read(reader, 9) == b"all" and pipe.is_fifo()
    os.close(reader)
