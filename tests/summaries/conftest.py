"""Histories, and an LLM that remembers its prompts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from persona.llm.load import load_llm
from persona.protocols import LanguageModel
from persona.records import Record
from persona.store.profile_store import ProfileStore


class Asked:
    """Prompts that were asked, and an LLM that answers with the number of quotations in each."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.llm: LanguageModel = load_llm(self.answer, name="asked")

    def answer(self, prompt: str) -> str:
        self.prompts.append(prompt)
        return f"saw {prompt.count(chr(10) + '- ')} quotations"


def records(n: int, start: int = 0, words: int = 3) -> tuple[Record, ...]:
    return tuple(
        Record(" ".join([f"text{i}"] * words), target="4", time=f"20{10 + i // 12}-{1 + i % 12:02}")
        for i in range(start, start + n)
    )


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ProfileStore]:
    opened = ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}")
    opened.upsert([(user, record) for user, n in (("ana", 3), ("bo", 2)) for record in records(n)])
    yield opened
    opened.close()
