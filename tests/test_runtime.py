"""Progress bars: on terminals, of long work, one at a time. Threads: ahead, but not far."""

import json
import os
import threading
import time
from itertools import count, islice

import pytest
import torch

from intarsia import runtime
from intarsia.runtime import atomic, bar, in_threads, loading, num_workers, progress, quietly
from intarsia.training.loop import Trainer


@pytest.fixture
def terminal(monkeypatch):
    """Stderr is a terminal, and all work is long."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(runtime, "PATIENCE", 0.0)


def test_no_bar_without_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(runtime, "PATIENCE", 0.0)
    assert list(progress(range(3), "counting")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_long_work_has_a_bar_on_a_terminal(terminal, capsys):
    assert list(progress((i for i in range(3)), "counting")) == [0, 1, 2]
    assert "counting" in capsys.readouterr().err
    with bar(None, "something") as advance:
        advance(2)
    assert "something" in capsys.readouterr().err


def test_short_work_has_none(terminal, capsys, monkeypatch):
    monkeypatch.setattr(runtime, "PATIENCE", 60.0)
    assert list(progress(range(3), "counting")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_one_bar_at_a_time_and_none_where_it_is_quiet(terminal, capsys):
    outer = progress(range(3), "outer")
    next(outer), next(outer)
    list(progress(range(2), "inner"))
    list(outer)
    shown = capsys.readouterr().err
    assert "outer" in shown and "inner" not in shown
    list(progress(range(2), "next"))
    assert "next" in capsys.readouterr().err
    with quietly():
        list(progress(range(2), "outer"))
    assert capsys.readouterr().err == ""


def test_a_bar_that_was_left_by_an_error_is_gone(terminal, capsys):
    with pytest.raises(KeyError), bar(5, "broken") as advance:
        advance(1)
        raise KeyError
    with pytest.raises(KeyError), quietly():
        raise KeyError
    list(progress(range(2), "next"))
    shown = capsys.readouterr().err
    assert "broken" in shown and "next" in shown


def test_quiet_is_as_long_as_the_outermost(terminal, capsys):
    with quietly():
        with quietly():
            pass
        list(progress(range(2), "hushed"))
    list(progress(range(2), "told"))
    shown = capsys.readouterr().err
    assert "hushed" not in shown and "told" in shown


def test_what_lasts_inside_short_work_has_the_bar(terminal, capsys, monkeypatch):
    """The outer one has not shown its own; it may once the inner is done."""
    outer = progress(range(4), "outer")
    monkeypatch.setattr(runtime, "PATIENCE", 60.0)
    next(outer), next(outer)
    monkeypatch.setattr(runtime, "PATIENCE", 0.0)
    inner = progress(range(4), "inner")
    next(inner), next(inner)
    monkeypatch.setattr(runtime, "PATIENCE", 60.0)
    next(outer)
    list(inner)
    shown = capsys.readouterr().err
    assert "inner" in shown and "outer" not in shown
    monkeypatch.setattr(runtime, "PATIENCE", 0.0)
    list(outer)
    assert "outer" in capsys.readouterr().err


def test_nothing_to_do_has_no_bar(terminal, capsys):
    with bar(0, "nothing") as advance:
        advance(0)
    assert capsys.readouterr().err == ""


# ---- threads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_answers_come_in_order_however_long_each_takes(workers):
    def slowly(number: int) -> tuple[int, int]:
        time.sleep(0.002 * (number * 7 % 5))
        return number, threading.get_ident()

    found = list(in_threads(slowly, iter(range(40)), workers))
    assert [number for number, _ in found] == list(range(40))
    assert len({thread for _, thread in found}) <= workers
    assert threading.get_ident() not in {thread for _, thread in found}
    assert list(in_threads(slowly, [])) == []


def test_as_many_work_at_once_as_there_are_threads():
    meeting = threading.Barrier(3, timeout=30)
    assert len(list(in_threads(lambda _: meeting.wait(), range(9), workers=3))) == 9
    torch.set_num_threads(2)
    pair = threading.Barrier(2, timeout=30)
    assert len(list(in_threads(lambda _: pair.wait(), range(8)))) == 8  # as many as torch has


def test_an_error_comes_where_its_item_is():
    def inverse(number: int) -> float:
        return 1 / (number - 5)

    found = []
    with pytest.raises(ZeroDivisionError):
        for number, answer in enumerate(in_threads(inverse, range(10), workers=2)):
            found.append((number, answer))
    assert found == [(number, 1 / (number - 5)) for number in range(5)]


def test_no_more_is_read_ahead_than_is_under_way():
    taken: list[int] = []

    def items():
        for number in count():
            taken.append(number)
            yield number

    answers = in_threads(abs, items(), workers=2)
    assert taken == []  # nothing before somebody asks
    for number in range(10):
        assert next(answers) == number
        assert len(taken) == number + 1 + 2 * 2
    answers.close()
    assert len(taken) == 14


def test_what_nobody_waits_for_is_not_begun():
    begun: list[int] = []
    may_go = threading.Event()

    def work(number: int) -> int:
        begun.append(number)
        assert number == 0 or may_go.wait(30)
        return number

    answers = in_threads(work, range(100), workers=1)
    assert next(answers) == 0
    threading.Timer(0.5, may_go.set).start()
    answers.close()  # waits for what is at work
    assert begun in ([0], [0, 1])
    assert list(islice(in_threads(abs, count(), workers=2), 3)) == [0, 1, 2]


# ---- worker processes -------------------------------------------------------------------------


def test_workers_are_for_accelerators_one_a_core_but_not_too_many(monkeypatch):
    assert num_workers(torch.device("cpu")) == 0
    for device in ("cuda", "cuda:1"):
        assert num_workers(torch.device(device)) == min(len(os.sched_getaffinity(0)), 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert num_workers(torch.device("cuda")) == 16


def test_without_workers_a_loader_needs_no_context():
    assert loading(0, torch.device("cpu")) == {"num_workers": 0, "pin_memory": False}
    found = loading(3, torch.device("cuda"))
    assert (found["num_workers"], found["pin_memory"]) == (3, True)
    assert found["multiprocessing_context"].get_start_method() == "forkserver"


def test_workers_are_counted_where_the_system_tells_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert 1 <= num_workers(torch.device("mps")) <= 16


@pytest.mark.parametrize(
    ("instructions", "device", "precision"),
    [
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, "auto", "32-true"),
        ({"avx512_bf16": True}, "auto", "bf16-mixed"),
        ({"amx_bf16": True}, "cpu", "bf16-mixed"),
        ({"neon": True, "bf16": True}, "cpu", "bf16-mixed"),
        ({}, "cpu", "32-true"),
    ],
)
def test_a_processor_that_emulates_bfloat16_trains_in_float32(
    instructions, device, precision, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions, raising=False)
    assert Trainer(steps=1, accelerator=device).precision == precision
    asked = Trainer(steps=1, accelerator=device, precision="bf16-mixed")
    assert asked.precision == "bf16-mixed"


def test_a_file_that_many_threads_write_is_always_whole(tmp_path):
    path = tmp_path / "note.json"

    def write(number: int) -> int:
        with atomic(path) as draft:
            draft.write_text(json.dumps([number] * 2000))
        return len(set(json.loads(path.read_text())))

    assert set(in_threads(write, range(100), workers=4)) == {1}
    assert [file.name for file in tmp_path.iterdir()] == ["note.json"]
