"""Every example runs as it stands and shows what it is meant to show."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.started import Starter

ROOT = Path(__file__).resolve().parents[2]

Run: TypeAlias = Callable[[str], str]


@pytest.fixture
def run(starter: Starter) -> Run:
    """What the example of a name prints, warnings being errors."""

    def run(name: str) -> str:
        done = starter.run(["python", "-m", f"examples.{name.removesuffix('.py')}"])
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.real
@pytest.mark.usefixtures("smollm2")  # converted before it is asked
def test_the_quickstart_answers_in_each_editors_style(run: Run) -> None:
    shown = run("01_quickstart.py")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    answers = dict(line.split(":", 1) for line in shown.splitlines())
    assert list(answers) == ["nobody", "ana", "ben"]
    for answer in answers.values():
        assert answer.strip() in readme


@pytest.mark.slow
def test_a_user_embedder_knows_the_user_and_no_other(run: Run) -> None:
    shown = run("03_user_embedder.py")
    errors = {whose: float(error) for whose, error in re.findall(r"^(.+) history: +.* ([\d.]+)$", shown, re.MULTILINE)}
    assert list(errors) == ["own", "another user's", "no"]
    assert errors["own"] < errors["no"] - 0.4
    assert errors["another user's"] > errors["own"] + 0.8


@pytest.mark.slow
def test_an_own_channel_and_retriever_are_evaluated_and_served(run: Run) -> None:
    assert len((ROOT / "examples" / "02_own_channel.py").read_text(encoding="utf-8").splitlines()) <= 30
    shown = run("02_own_channel.py")
    for row in ("none", "mine", "mine, other user"):
        assert f"| {row} |" in shown
    assert shown.splitlines()[-1] in {"1", "2", "3", "4", "5"}


@pytest.mark.slow
def test_users_adapters_help_their_own_users(run: Run) -> None:
    errors = re.findall(r"^(.+?): +mean absolute error ([\d.]+)$", run("04_lora_per_user.py"), re.MULTILINE)
    own, other, plain = (float(error) for _, error in errors)
    assert own < plain - 0.3
    assert own < other


@pytest.mark.slow
def test_the_evaluation_shows_methods_and_controls(run: Run) -> None:
    shown = run("05_evaluate.py")
    for row in ("none", "bm25 k=4", "bm25 k=4, other user", "stats", "user-embedder", "user-embedder, other user"):
        assert f"| {row} |" in shown
