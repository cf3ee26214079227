"""Progress where there is no terminal: a line every half minute. Facts as people read them."""

from __future__ import annotations

import time

import pytest

from persona.cli import terminal


def test_without_a_terminal_progress_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert terminal.LINE_SECONDS == 30
    monkeypatch.setattr(terminal, "LINE_SECONDS", 0.02)
    with terminal.progress_bars("steps") as bars:
        advance = terminal.stage_bars(bars)
        advance("embed users", 5, 5)
        advance("answers", 1, 40)
        time.sleep(0.05)
        advance("answers", 3, 40)
        time.sleep(0.05)
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert lines[0].startswith("answers: 1 of 40")
    assert lines[-1].startswith("answers: 3 of 40, ")
    assert "steps/s, about 0:00:" in lines[-1]
    assert not any("embed users" in line for line in lines)  # that is done


def test_a_quick_command_prints_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.progress_bars("steps") as bars:
        terminal.stage_bars(bars)("answers", 1, 2)
    assert capsys.readouterr().err == ""


def test_facts_are_read_by_people(capsys: pytest.CaptureFixture[str]) -> None:
    token = terminal.EVERYWHERE.set(terminal.Everywhere())
    terminal.report_facts({"loss": 1.23456, "seconds": 12345.6, "none": None, "lent": {"users": 3, "share": 0.25}})
    terminal.EVERYWHERE.reset(token)
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert lines == [["loss", "1.235"], ["seconds", "12346"], ["lent", "users 3, share 0.25"]]
