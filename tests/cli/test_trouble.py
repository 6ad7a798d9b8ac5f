"""What goes wrong is one line with the path and what to do; the exit code says whose fault."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from intarsia.cli import VERBS, main
from intarsia.cli.trouble import DAMAGED, OURS, explained, reading
from intarsia.errors import DataError

MODEL = "--model scenes-clip --data scenes --device cpu"


def failed(line, capsys):
    """The exit code and what is told; a line and no traceback."""
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return stop.value.code, told.strip().splitlines()[-1]


@pytest.fixture
def raising(monkeypatch):
    """A verb that raises what it is given."""

    def verb(error):
        def run(_):
            raise error

        monkeypatch.setitem(VERBS, "break", (run, ""))

    return verb


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "a.json"), "a.json: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device", "r.json"), "r.json: No space left on"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "runs"), "runs: Is a directory; name a"),
        (OSError("LanceError(IO): write: (os error 28)"), "No space left on device; free some"),
        (
            OSError("Can't load the model.\nCheck its name."),
            "Can't load the model. Check its name.",
        ),
        (DataError("x.csv: line 3: caption"), "x.csv: line 3: caption"),
        (MemoryError(), "out of memory: no more can be had; close other programs"),
        (RuntimeError("[enforce fail] can't allocate memory: you tried"), "--trainer.batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory."), "set --trainer.grad_cache_chunk"),
        (RuntimeError("PytorchStreamReader failed reading zip archive"), DAMAGED),
        (AssertionError("Torch not compiled with CUDA enabled"), "choose another --device"),
        (ModuleNotFoundError("No module named 'x'", name="x"), "the package 'x' is not installed"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_that_is_no_bug_is_told_with_what_to_do(error, line, raising, capsys):
    raising(error)
    code, told = failed("break", capsys)
    assert code == 2 and told.startswith("error: ") and line in told and OURS not in told


def test_a_bug_is_told_apart_and_debug_shows_where(raising, capsys, monkeypatch):
    raising(KeyError("global"))
    code, told = failed("break", capsys)
    assert (code, told) == (1, f"error: KeyError: 'global'; {OURS}")
    for arguments, variable in ((["--debug", "break"], "0"), (["break"], "1")):
        monkeypatch.setenv("INTARSIA_DEBUG", variable)
        with pytest.raises(SystemExit, match="1"):
            main(arguments)
        shown = capsys.readouterr().err
        assert "Traceback" in shown and shown.strip().endswith(OURS)


def test_ctrl_c_is_130_and_a_closed_pipe_is_silent(raising, capsys, monkeypatch):
    raising(KeyboardInterrupt())
    assert failed("break", capsys) == (130, "error: stopped")
    monkeypatch.setattr("os.dup2", lambda *_: None)  # capsys's stdout is another test's, too
    raising(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    with pytest.raises(SystemExit, match="1"):
        main(["break"])
    assert not capsys.readouterr().err


def test_a_pipe_that_is_closed_early_leaves_no_traceback():
    command = [sys.executable, "-m", "intarsia", "data", "check", "--root", "nowhere"]
    reader = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    reader.wait()
    found = subprocess.run(command, stdout=reader.stdin, stderr=subprocess.PIPE, text=True)
    assert found.returncode == 1 and not found.stderr


def test_what_a_worker_raised_is_its_message_alone():
    text = (
        'Caught DataError in worker 0.\nOriginal Traceback (most\n  File "x"\nDataError: a.png: bad'
    )
    assert explained(DataError(text)) == ("a.png: bad", 2)


def test_what_was_being_read_is_named():
    with pytest.raises(json.JSONDecodeError) as caught, reading("runs/mine/tune.json"):
        json.loads("{")
    line, code = explained(caught.value)
    assert line.startswith("runs/mine/tune.json: not JSON: ") and code == 2


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "clip"
    main(
        "train --data scenes --split train[:8] --backbone scenes-clip --method Clip "
        f"--trainer.steps 1 --trainer.batch_size 8 --out {folder}".split()
    )
    return folder


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("model.safetensors", b"", "model.safetensors: not safetensors"),
        ("config.yaml", b"backbone: {spec: [\n", "config.yaml: not YAML: line 2: "),
    ],
)
def test_a_broken_file_of_a_model_is_named(run, name, content, told, capsys):
    kept = (run / name).read_bytes()
    (run / name).write_bytes(content or kept[: len(kept) // 2])
    code, line = failed(f"evaluate retrieval --model {run} --data scenes --split test[:2]", capsys)
    (run / name).write_bytes(kept)
    assert code == 2 and f"{run}/{told}" in line


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_line_with_the_path(capsys):
    code, line = failed(f"evaluate retrieval {MODEL} --split test[:2] --json /dev/full", capsys)
    assert code == 2 and line.endswith(
        "No space left on device; free some space, or choose another place"
    )
    assert os.stat("/dev/full").st_rdev


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_told_before_the_data_are_read(device, capsys):
    line = f"evaluate retrieval --model nowhere --data nothing --device {device}"
    code, told = failed(line, capsys)
    assert code == 2 and f"unknown device '{device}': choose from cpu" in told


def test_what_fabric_does_not_find_is_the_settings_fault(tmp_path, capsys):
    line = "train --data scenes --backbone scenes-clip --trainer.steps 1 --trainer.accelerator warp"
    code, told = failed(f"{line} --out {tmp_path / 'run'}", capsys)
    assert code == 2 and "trainer.accelerator warp, trainer.devices 1" in told
