"""Fixtures of the tests of steering vectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from persona.adapters.bank import AdapterBank
from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM
from persona.store.profile_store import ProfileStore


@pytest.fixture(scope="session")
def llm(llama_folder: Path) -> TransformersLM:
    """A very small decoder-only model with random weights: 2 blocks, 32 numbers in a hidden state."""
    loaded = load_llm(llama_folder)
    assert isinstance(loaded, TransformersLM)
    return loaded


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[AdapterBank]:
    """The bank of an empty store."""
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        yield AdapterBank(store)
