"""Fixtures of the tests of user embedders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from persona.encoders.load import load_encoder
from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM


@pytest.fixture(scope="session")
def tiny() -> Any:
    """The LLM that persona brings."""
    return load_llm("tiny", overlong="truncate")


@pytest.fixture(scope="session")
def llama(llama_folder: Path) -> TransformersLM:
    """An LLM with a byte tokenizer: a token is a letter."""
    loaded = load_llm(llama_folder)
    assert isinstance(loaded, TransformersLM)
    return loaded


@pytest.fixture(scope="session")
def encoder() -> Any:
    """A record encoder without weights."""
    return load_encoder("hashing")
