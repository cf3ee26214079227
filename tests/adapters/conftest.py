"""Fixtures of the tests of adapters."""

from __future__ import annotations

from pathlib import Path

import pytest

from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM


@pytest.fixture
def llm(llama_folder: Path) -> TransformersLM:
    """A very small decoder-only model with random weights."""
    loaded = load_llm(llama_folder)
    assert isinstance(loaded, TransformersLM)
    return loaded
