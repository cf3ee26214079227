"""`persona mcp`: what it refuses before it serves."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Run


@pytest.mark.parametrize("line", ["", "--any-user --user ana", "--user ana --http 127.0.0.1:0", "--any-user --http :1"])
def test_it_must_be_said_whose_memory_it_is(run: Run, line: str) -> None:
    assert "say whose memory it is: --user USER, --any-user, or --http" in run("mcp", *line.split()).error


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("--user ana --host memory.example", "--host is for --http"),
        ("--http 127.0.0.1", "--http takes HOST:PORT"),
        ("--http http://127.0.0.1:80", "--http takes HOST:PORT"),
        ("--http 0.0.0.0:0", "without API keys a server listens on this machine alone"),
        ("--user ana --retriever nothing", "a retriever must be one of"),
        ("--user ana --encoder hashing", "--encoder is for what compares vectors"),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_line(run: Run, line: str, reason: str) -> None:
    assert reason in run("mcp", *line.split()).error


def test_an_empty_user_is_none(run: Run) -> None:
    assert "a user id must not be empty" in run("mcp", "--user", "").error
