"""Every example runs as it stands and shows what it is meant to show."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(name: str) -> str:
    """What the example called `name` prints, warnings being errors."""
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / name)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_quickstart_answers_in_each_editors_style() -> None:
    shown = run("01_quickstart.py")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    answers = dict(line.split(":", 1) for line in shown.splitlines())
    assert list(answers) == ["nobody", "ana", "ben"]
    for answer in answers.values():
        assert answer.strip() in readme


@pytest.mark.slow
def test_a_user_embedder_knows_the_user_and_no_other() -> None:
    shown = run("03_user_embedder.py")
    errors = {whose: float(error) for whose, error in re.findall(r"^(.+) history: +.* ([\d.]+)$", shown, re.MULTILINE)}
    assert list(errors) == ["own", "another user's", "no"]
    assert errors["own"] < errors["no"] - 0.4
    assert errors["another user's"] > errors["own"] + 0.8
