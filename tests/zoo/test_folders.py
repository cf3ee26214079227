"""Models that read images are loaded from folders, and asked for text alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from persona.llm.load import load_llm
from persona.protocols import SOFT_PROMPT, GenerationOptions, Request
from tests.zoo.tiny_models import letters, tiny_model


@pytest.mark.parametrize(
    "name",
    [
        "Gemma3ForConditionalGeneration",
        "Gemma4ForConditionalGeneration",
        "Llama4ForConditionalGeneration",
        "Mistral3ForConditionalGeneration",
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen3VLForConditionalGeneration",
    ],
)
def test_a_model_that_reads_images_answers_text(name: str, tmp_path: Path) -> None:
    model, tokenizer = tiny_model(name), letters()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    asked, options = [Request("hello")], GenerationOptions(max_new_tokens=6)
    loaded = load_llm(tmp_path)
    assert loaded.generate(asked, options) == load_llm((model, tokenizer)).generate(asked, options)
    assert SOFT_PROMPT in loaded.channels
