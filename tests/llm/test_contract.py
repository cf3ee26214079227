"""The one contract that every kind of language model keeps."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from langchain_core.runnables import RunnableLambda

from persona.errors import InvalidOptionError, UnsupportedChannelError
from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM
from persona.protocols import SOFT_PROMPT, TEXT, WAYS, GenerationOptions, LanguageModel, Request
from tests.llm.test_plain import EchoChat, echo

PROMPTS = [
    "Once upon a time",
    "A",
    "The king and the queen of a far country had one daughter, and she had a red ball. One day",
    "Café, 東京 and 🎈",
    "Once upon a time",
    "two\nlines ",
]
SHORT = GenerationOptions(max_new_tokens=12)
TEXT_ONLY = {"function": echo, "runnable": RunnableLambda(echo), "chat model": EchoChat()}


@pytest.fixture(scope="module")
def loaded() -> dict[Path, LanguageModel]:
    """Models that were loaded for an earlier test."""
    return {}


@pytest.fixture(
    params=[
        "folder",
        pytest.param("stories260K", marks=pytest.mark.shared),
        pytest.param("frozen_llm", marks=pytest.mark.shared),
        *TEXT_ONLY,
        "chat",
        "completions",
    ]
)
def llm(request: pytest.FixtureRequest, loaded: dict[Path, LanguageModel]) -> LanguageModel:
    kind = request.param
    if kind in TEXT_ONLY:
        return load_llm(TEXT_ONLY[kind])
    if kind in ("chat", "completions"):
        return load_llm(f"openai:echo@{request.getfixturevalue('chat_server').url}", api_key="-", endpoint=kind)
    fixture = request.getfixturevalue
    folder: Path = fixture("llama_folder") if kind == "folder" else fixture("shared") / "models" / kind
    if folder not in loaded:
        loaded[folder] = load_llm(folder)
    return loaded[folder]


def answers(llm: LanguageModel, prompts: list[str], options: GenerationOptions = SHORT) -> list[str]:
    return llm.generate([Request(prompt) for prompt in prompts], options)


def test_it_has_the_members_of_a_language_model(llm: LanguageModel) -> None:
    assert isinstance(llm, LanguageModel)
    assert {TEXT} <= llm.channels <= set(WAYS)
    assert llm.fingerprint == llm.fingerprint.strip() != ""
    assert "\n" not in llm.fingerprint
    assert load_llm(llm) is llm


def test_the_tokenizer_measures_and_cuts(llm: LanguageModel) -> None:
    text = PROMPTS[2]
    whole = llm.tokenizer.count(text)
    assert whole > llm.tokenizer.count("A") > 0
    assert llm.tokenizer.count(llm.tokenizer.truncate(text, whole // 2)) <= whole // 2


def test_every_request_is_answered_in_its_place(llm: LanguageModel) -> None:
    together = answers(llm, PROMPTS)
    assert together == [answers(llm, [prompt])[0] for prompt in PROMPTS]
    assert len(set(together)) >= 3, "answers that hardly depend on the prompt prove nothing about their order"
    assert llm.generate([], SHORT) == []


def test_an_adapter_is_refused(llm: LanguageModel) -> None:
    with pytest.raises(UnsupportedChannelError, match="but request 1 needs: adapter"):
        llm.generate([Request("A"), Request("A", adapter="critic-7")], SHORT)


def test_a_soft_prompt_is_taken_or_refused(llm: LanguageModel) -> None:
    if SOFT_PROMPT in llm.channels:
        assert isinstance(llm, TransformersLM)
        (answer,) = llm.generate([Request("A", torch.zeros(2, llm.hidden_size))], SHORT)
        assert isinstance(answer, str)
    else:
        with pytest.raises(UnsupportedChannelError, match="needs: soft_prompt, which is taken by transformers models"):
            llm.generate([Request("A", torch.zeros(2, 8))], SHORT)


def test_beams_are_searched_or_refused(llm: LanguageModel) -> None:
    options = GenerationOptions(12, num_beams=3)
    if isinstance(llm, TransformersLM):
        assert len(answers(llm, PROMPTS, options)) == len(PROMPTS)
    else:
        with pytest.raises(InvalidOptionError, match="beam search needs a transformers model"):
            answers(llm, PROMPTS, options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (GenerationOptions(0), "`max_new_tokens` must be a whole number of at least 1, was: 0"),
        (GenerationOptions(8, 0), "`num_beams` must be a whole number of at least 1, was: 0"),
        (GenerationOptions(True), "`max_new_tokens` must be a whole number of at least 1, was: True"),
        (GenerationOptions(answers="guess"), "`answers` must be one of auto, generate, likelihood, constrained, was"),
    ],
)
def test_options_out_of_range_are_refused(llm: LanguageModel, options: GenerationOptions, said: str) -> None:
    with pytest.raises(InvalidOptionError, match=said):
        answers(llm, ["A"], options)


def test_a_prompt_must_be_text(llm: LanguageModel) -> None:
    with pytest.raises(InvalidOptionError, match=r"UTF-8 text, and holds '\\udcff' at character 1 \(request 0\)"):
        answers(llm, ["a\udcff"])
    with pytest.raises(InvalidOptionError, match="a prompt must be a string, was: int"):
        llm.generate([Request(7)], SHORT)  # type: ignore[arg-type]


def test_it_can_be_asked_from_several_threads(llm: LanguageModel) -> None:
    expected = answers(llm, PROMPTS)
    results: list[list[str]] = []
    threads = [threading.Thread(target=lambda: results.append(answers(llm, PROMPTS))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 3
