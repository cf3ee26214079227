"""`load_llm`: what it takes, what it refuses, and what of it the docs say."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda

from persona.errors import InvalidOptionError, ModelLoadError
from persona.llm import load
from persona.llm.endpoint.options import EndpointOptions
from persona.llm.frozen.options import TransformersOptions
from persona.llm.load import load_llm
from tests.llm.test_plain import answers, echo

PAGE = Path(__file__).resolve().parents[2] / "docs/models.md"
PROMPTS = ["Once upon a time", "A", "Café, 東京 and 🎈"]


def model_and_tokenizer(folder: Path) -> tuple[Any, Any]:
    llm: Any = load_llm(folder)
    return llm.model, llm._tokenizer


def test_a_folder_as_string_and_as_path_is_one_model(llama_folder: Path) -> None:
    llm = load_llm(str(llama_folder))
    assert load_llm(llama_folder).fingerprint == llm.fingerprint
    assert re.fullmatch(r"small-llama@[0-9a-f]{12}:float32", llm.fingerprint)


def test_a_pair_and_a_pipeline_answer_as_their_folder(llama_folder: Path) -> None:
    from transformers import pipeline

    expected = answers(llama_folder, PROMPTS)
    pair = load_llm(model_and_tokenizer(llama_folder), name="mine")
    assert pair.fingerprint.startswith("mine@")
    assert answers(pair, PROMPTS) == expected
    assert answers(pipeline("text-generation", model=str(llama_folder), device="cpu"), PROMPTS) == expected


def test_options_reach_the_kind(llama_folder: Path) -> None:
    llm = load_llm(llama_folder, dtype="float64", name="other", max_prompt_tokens=4)
    assert re.fullmatch(r"other@\w+:float64", llm.fingerprint)
    with pytest.raises(InvalidOptionError, match="may have 4 tokens"):
        answers(llm, ["more than four"])


def test_overlong_is_taken_by_every_kind(llama_folder: Path) -> None:
    for llm in (llama_folder, echo, RunnableLambda(echo), load_llm(echo)):
        assert answers(llm, ["A"], overlong="truncate")
    assert load_llm("vllm:m", overlong="truncate").fingerprint


@pytest.mark.parametrize(
    ("llm", "options", "said"),
    [
        (echo, {"device": "cpu"}, "a function as an LLM takes name, tokenizer; was given: device"),
        (RunnableLambda(echo), {"seed": 1}, "a LangChain runnable as an LLM takes max_concurrency, name"),
        ("openai:m", {"dtype": "float32"}, "an endpoint as an LLM takes adapter_name, api_key, base_url, "),
        ("no/folder", {"temperature": 1}, "a folder or hub id as an LLM takes batch_tokens, blend, chat_template"),
    ],
)
def test_unknown_options_are_named(llm: object, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOptionError, match=said):
        load_llm(llm, **options)


async def answer_later(prompt: str) -> str:
    return prompt


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: 7, "was: int"),
        (lambda folder: None, "was: NoneType"),
        (lambda folder: "", "was: an empty string"),
        (lambda folder: dict, "the class dict, not an object"),
        (lambda folder: model_and_tokenizer(folder)[0], r"a model without its tokenizer \(LlamaForCausalLM\)"),
        (lambda folder: model_and_tokenizer(folder)[1], "was: .*Tokenizer"),
        (lambda folder: model_and_tokenizer(folder)[::-1], "in that order"),
        (lambda folder: (echo, echo), "must be a transformers model and its tokenizer, was: "),
        (lambda folder: ("a", "b", "c"), "was: tuple"),
        (lambda folder: answer_later, "was: the async function answer_later"),
    ],
)
def test_anything_else_is_refused_in_one_line(llama_folder: Path, make: Callable[[Any], object], said: str) -> None:
    with pytest.raises(InvalidOptionError, match=said) as caught:
        load_llm(make(llama_folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("llm", "said"),
    [
        (Path("nothing"), "there is no folder"),
        ("./nothing", "there is no folder"),
        ("~/no such folder", "there is no folder"),
        ("vlm:model", "it is no hub id"),
        ("tinny", "no model of that name: did you mean tiny"),
        ("smolm2", "no model of that name: did you mean smollm2"),
        ("nobody/has-this-model", "the hub model nobody/has-this-model cannot be downloaded"),
    ],
)
def test_what_is_no_folder_and_no_hub_model(llm: str | Path, said: str) -> None:
    with pytest.raises(ModelLoadError, match=said) as caught:
        load_llm(llm)
    assert "\n" not in str(caught.value)


def test_a_missing_embedded_default_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "TINY", "no-such-default")
    with pytest.raises(ModelLoadError, match="lacks the embedded LLM"):
        load_llm("no-such-default")


def test_the_door_itself_imports_nothing_heavy() -> None:
    code = (
        "import sys; from persona.llm.load import load_llm; load_llm(str.upper); import persona.llm.checkpoint;"
        "print([m for m in ('torch', 'transformers', 'openai', 'langchain_core', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_example_in_the_docs_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    assert [type(answer) for answer in names["answers"]] == [str]


def test_the_docs_name_every_option() -> None:
    options = {*load._FOLDER_OPTIONS, *load._CLIENT_OPTIONS}
    options |= {field.name for kind in (TransformersOptions, EndpointOptions) for field in dataclasses.fields(kind)}
    page = PAGE.read_text(encoding="utf-8")
    assert [option for option in sorted(options) if f"`{option}`" not in page] == []
