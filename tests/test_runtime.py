"""Progress bars: on terminals, of long work, one at a time."""

import pytest

from intarsia import runtime
from intarsia.runtime import bar, progress, quietly


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
