"""A method of a user's own - the channel of the first example - on three benchmarks, without a change to persona."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from persona.channels import Ask, Channel, Contribution
from persona.eval import EvaluationOptions, evaluate, load_benchmark
from persona.llm.load import load_llm
from persona.personalizer import Personalizer
from persona.store.profile_store import ProfileStore
from tests.eval.benchmarks.conversations.dialogues import LOCOMO, PERSONAMEM_1, PREFEVAL
from tests.eval.benchmarks.conversations.test_personamem import written


class FirstWords(Channel):
    """What a user writes: the user's first record as a note."""

    name = "first words"

    def contribute(self, asks: Sequence[Ask]) -> list[Contribution]:
        return [Contribution(notes=tuple(record.text for record in ask.profile.records[:1])) for ask in asks]


@pytest.mark.parametrize(
    ("name", "files", "path", "known"),
    [
        ("locomo", {"locomo.json": LOCOMO}, "locomo.json", "Cork"),
        ("personamem", PERSONAMEM_1, ".", "I walked in a fen."),
        ("prefeval", PREFEVAL, ".", "ground floor"),
    ],
)
def test_a_method_of_ones_own(name: str, files: dict[str, Any], path: str, known: str, tmp_path: Path) -> None:
    if name == "personamem":  # another user, for the control
        head, first, second = files["questions_32k.csv"]
        files = {**files, "questions_32k.csv": [head, first, ["8", *second[1:]]]}
    benchmark = load_benchmark(name, written(tmp_path / "data", files) / path)
    prompts: list[str] = []

    def ask(prompt: str) -> str:
        prompts.append(prompt)
        return "(A)"

    llm = load_llm(ask)
    with ProfileStore(f"sqlite:///{tmp_path / 'none.db'}") as store:
        methods = {"none": Personalizer(llm, store, ()), "mine": Personalizer(llm, store, [FirstWords()])}
        report = evaluate(benchmark, methods, options=EvaluationOptions(resamples=20), out=tmp_path / "out")
    assert {"none", "mine", "mine, other user"} <= {row.name for row in report.rows}
    assert report["mine"].to_other_user is not None
    assert any("About this user:" in prompt and known in prompt for prompt in prompts)
    assert json.loads((tmp_path / "out/results.json").read_text())["benchmark"] == name
