"""`load_llm`, and the one contract that every kind of language model keeps."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableLambda

from persona.errors import (
    GenerationError,
    InvalidOptionError,
    ModelLoadError,
    UnsupportedChannelError,
)
from persona.llm import load as models
from persona.llm.endpoint import EndpointOptions
from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM
from persona.protocols import SOFT_PROMPT, TEXT, WAYS, GenerationOptions, LanguageModel, Request


def echo(prompt: str) -> str:
    return f"{len(prompt)} {prompt}"


class EchoChat(BaseChatModel):
    """A chat model that answers in content blocks, as some providers do."""

    @property
    def _llm_type(self) -> str:
        return "echo"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        blocks: list[str | dict[Any, Any]] = [{"type": "text", "text": echo(str(messages[-1].text))}]
        return ChatResult(generations=[ChatGeneration(message=AIMessage(content=blocks))])


@pytest.fixture(scope="module")
def loaded() -> dict[Path, LanguageModel]:
    """Models that were loaded for an earlier test."""
    return {}


@pytest.fixture(
    params=[
        "folder",
        pytest.param("stories260K", marks=pytest.mark.shared),
        pytest.param("frozen_llm", marks=pytest.mark.shared),
        "function",
        "runnable",
        "chat model",
        "openai",
        "completions",
    ]
)
def llm(request: pytest.FixtureRequest, loaded: dict[Path, LanguageModel]) -> LanguageModel:
    kind = request.param
    if kind in ("folder", "stories260K", "frozen_llm"):
        fixture = request.getfixturevalue
        folder: Path = fixture("llama_folder") if kind == "folder" else fixture("shared") / "models" / kind
        if folder not in loaded:
            loaded[folder] = load_llm(folder)
        return loaded[folder]
    if kind in ("openai", "completions"):
        endpoint = "chat" if kind == "openai" else "completions"
        return load_llm(f"openai:echo@{request.getfixturevalue('chat_server').url}", api_key="-", endpoint=endpoint)
    makers: dict[str, object] = {"function": echo, "runnable": RunnableLambda(echo), "chat model": EchoChat()}
    return load_llm(makers[kind])


PROMPTS = [
    "Once upon a time",
    "A",
    "The king and the queen of a far country had one daughter, and she had a red ball. One day",
    "Café, 東京 and 🎈",
    "Once upon a time",
    "two\nlines ",
]
SHORT = GenerationOptions(max_new_tokens=12)


def answers(llm: LanguageModel, prompts: list[str], options: GenerationOptions = SHORT) -> list[str]:
    return llm.generate([Request(prompt) for prompt in prompts], options)


class TestContract:
    def test_it_has_the_members_of_a_language_model(self, llm: LanguageModel) -> None:
        assert isinstance(llm, LanguageModel)
        assert TEXT in llm.channels
        assert llm.channels <= set(WAYS)
        assert llm.fingerprint
        assert llm.fingerprint == llm.fingerprint.strip()
        assert "\n" not in llm.fingerprint

    def test_the_tokenizer_measures_and_cuts(self, llm: LanguageModel) -> None:
        text = PROMPTS[2]
        whole = llm.tokenizer.count(text)
        assert whole > llm.tokenizer.count("A") > 0
        assert llm.tokenizer.count(llm.tokenizer.truncate(text, whole // 2)) <= whole // 2

    def test_every_request_is_answered_in_its_place(self, llm: LanguageModel) -> None:
        together = answers(llm, PROMPTS)
        assert together == [answers(llm, [prompt])[0] for prompt in PROMPTS]
        assert len(set(together)) >= 3, "answers that hardly depend on the prompt prove nothing about their order"

    def test_the_same_request_gets_the_same_answer(self, llm: LanguageModel) -> None:
        assert answers(llm, PROMPTS) == answers(llm, PROMPTS)

    def test_no_requests_no_answers(self, llm: LanguageModel) -> None:
        assert llm.generate([], SHORT) == []

    def test_load_llm_returns_it_as_it_is(self, llm: LanguageModel) -> None:
        assert load_llm(llm) is llm

    def test_an_adapter_is_refused(self, llm: LanguageModel) -> None:
        with pytest.raises(UnsupportedChannelError, match="but request 1 needs: adapter"):
            llm.generate([Request("A"), Request("A", adapter="critic-7")], SHORT)

    def test_a_soft_prompt_is_taken_or_refused(self, llm: LanguageModel) -> None:
        if SOFT_PROMPT in llm.channels:
            assert isinstance(llm, TransformersLM)
            (answer,) = llm.generate([Request("A", torch.zeros(2, llm.hidden_size))], SHORT)
            assert isinstance(answer, str)
        else:
            with pytest.raises(
                UnsupportedChannelError, match="request 0 needs: soft_prompt, which is taken by transformers models"
            ):
                llm.generate([Request("A", torch.zeros(2, 8))], SHORT)

    def test_beams_are_searched_or_refused(self, llm: LanguageModel) -> None:
        beams = GenerationOptions(max_new_tokens=12, num_beams=3)
        if isinstance(llm, TransformersLM):
            assert len(answers(llm, PROMPTS, beams)) == len(PROMPTS)
        else:
            with pytest.raises(InvalidOptionError, match="beam search needs a transformers model"):
                answers(llm, PROMPTS, beams)

    @pytest.mark.parametrize("options", [GenerationOptions(0), GenerationOptions(8, 0), GenerationOptions(True)])
    def test_options_out_of_range_are_refused(self, llm: LanguageModel, options: GenerationOptions) -> None:
        with pytest.raises(InvalidOptionError, match="must be a whole number of at least 1, was:"):
            answers(llm, ["A"], options)

    def test_a_prompt_must_be_a_string(self, llm: LanguageModel) -> None:
        with pytest.raises(InvalidOptionError, match=r"UTF-8 text, and holds '\\udcff' at character 1 \(request 0\)"):
            llm.generate([Request("a\udcff")], SHORT)
        with pytest.raises(InvalidOptionError, match="a prompt must be a string, was: int"):
            llm.generate([Request(7)], SHORT)  # type: ignore[arg-type]

    def test_it_can_be_asked_from_several_threads(self, llm: LanguageModel) -> None:
        expected = answers(llm, PROMPTS)
        found: list[list[str]] = []
        threads = [threading.Thread(target=lambda: found.append(answers(llm, PROMPTS))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [expected] * 3


def parts(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer of `folder`."""
    llm: Any = load_llm(folder)
    return llm.model, llm._tokenizer


class TestDoor:
    def test_a_folder_as_string_and_as_path_is_one_model(self, llama_folder: Path) -> None:
        llm = load_llm(str(llama_folder))
        assert load_llm(llama_folder).fingerprint == llm.fingerprint
        assert re.fullmatch(r"small-llama@[0-9a-f]{12}:float32", llm.fingerprint)

    def test_a_pair_answers_as_its_folder(self, llama_folder: Path) -> None:
        whole = load_llm(llama_folder)
        assert isinstance(whole, TransformersLM)
        pair = load_llm((whole.model, whole._tokenizer), name="mine")
        assert answers(pair, PROMPTS) == answers(whole, PROMPTS)
        assert pair.fingerprint.startswith("mine@")

    def test_a_pipeline_is_unwrapped(self, llama_folder: Path) -> None:
        from transformers import pipeline

        llm = load_llm(pipeline("text-generation", model=str(llama_folder), device="cpu"))
        assert isinstance(llm, TransformersLM)
        assert answers(llm, PROMPTS) == answers(load_llm(llama_folder), PROMPTS)

    def test_options_reach_the_kind(self, llama_folder: Path) -> None:
        llm = load_llm(llama_folder, dtype="float64", name="other", max_prompt_tokens=4)
        assert llm.fingerprint.endswith(":float64")
        assert llm.fingerprint.startswith("other@")
        with pytest.raises(InvalidOptionError, match="may have 4 tokens"):
            answers(llm, ["more than four"])

    def test_overlong_is_taken_by_every_kind(self, llama_folder: Path) -> None:
        for llm in (llama_folder, echo, RunnableLambda(echo), load_llm(echo)):
            assert answers(load_llm(llm, overlong="truncate"), ["A"])
        assert load_llm("vllm:m", overlong="truncate").fingerprint

    @pytest.mark.parametrize(
        ("llm", "options", "said"),
        [
            (echo, {"device": "cpu"}, "a function as an LLM takes name, tokenizer; was given: device"),
            (RunnableLambda(echo), {"seed": 1}, "a LangChain runnable as an LLM takes max_concurrency, name"),
            ("openai:m", {"dtype": "float32"}, "an endpoint as an LLM takes adapter_name, api_key, base_url, client"),
            ("no/folder", {"temperature": 1}, "a folder or hub id as an LLM takes batch_tokens, chat_template"),
        ],
    )
    def test_unknown_options_are_named(self, llm: object, options: dict[str, Any], said: str) -> None:
        with pytest.raises(InvalidOptionError, match=said):
            load_llm(llm, **options)

    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (lambda folder: 7, "was: int"),
            (lambda folder: None, "was: NoneType"),
            (lambda folder: dict, "the class dict, not an object"),
            (lambda folder: parts(folder)[0], r"a model without its tokenizer \(LlamaForCausalLM\)"),
            (lambda folder: parts(folder)[1], "was: .*Tokenizer"),
            (lambda folder: parts(folder)[::-1], "in that order"),
            (lambda folder: (echo, echo), "must be a transformers model and its tokenizer, was: "),
            (lambda folder: ("a", "b", "c"), "was: tuple"),
        ],
    )
    def test_anything_else_is_refused_in_one_line(
        self, llama_folder: Path, make: Callable[[Any], object], said: str
    ) -> None:
        with pytest.raises(InvalidOptionError, match=said) as caught:
            load_llm(make(llama_folder))
        assert "\n" not in str(caught.value)

    def test_an_async_function_is_refused(self) -> None:
        async def answer(prompt: str) -> str:
            return prompt

        with pytest.raises(InvalidOptionError, match="was: the async function"):
            load_llm(answer)

    def test_what_is_no_folder_and_no_hub_model(self, tmp_path: Path) -> None:
        for llm in (str(tmp_path / "nothing"), tmp_path / "nothing", "./nothing", "~/no such folder"):
            with pytest.raises(ModelLoadError, match="there is no folder"):
                load_llm(llm)
        with pytest.raises(ModelLoadError, match="it can be no hub id"):
            load_llm("vlm:model")
        with pytest.raises(ModelLoadError, match="the hub model nobody/has-this-model cannot be loaded") as caught:
            load_llm("nobody/has-this-model")
        assert "\n" not in str(caught.value)

    def test_a_missing_embedded_default_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(models, "TINY", "no-such-default")
        with pytest.raises(ModelLoadError, match="lacks the embedded default model"):
            load_llm("no-such-default")

    def test_the_door_itself_imports_nothing_heavy(self) -> None:
        code = (
            "import sys; from persona.llm.load import load_llm; load_llm(str.upper);"
            "print([m for m in ('torch', 'transformers', 'openai', 'langchain_core', 'numpy') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


class TestFunctionsAndRunnables:
    def test_what_a_function_raises_is_a_generation_error(self) -> None:
        def fail(prompt: str) -> str:
            raise ZeroDivisionError("no answer\nand a second line")

        with pytest.raises(GenerationError, match=r"did not answer request 0: ZeroDivisionError: no answer$") as caught:
            answers(load_llm(fail), ["A"])
        assert isinstance(caught.value.__cause__, ZeroDivisionError)

    def test_a_function_must_return_a_string(self) -> None:
        with pytest.raises(GenerationError, match="must return a string, returned: int"):
            answers(load_llm(len), ["A"])

    def test_what_a_runnable_raises_is_a_generation_error(self) -> None:
        def fail_on_b(prompt: str) -> str:
            if prompt == "B":
                raise TimeoutError("too late")
            return prompt

        with pytest.raises(GenerationError, match="did not answer request 1: TimeoutError: too late") as caught:
            answers(load_llm(RunnableLambda(fail_on_b)), ["A", "B"])
        assert isinstance(caught.value.__cause__, TimeoutError)

    def test_a_runnable_must_answer_with_text(self) -> None:
        with pytest.raises(GenerationError, match=r"a string or a message, answered: int .*StrOutputParser"):
            answers(load_llm(RunnableLambda(len)), ["A"])

    def test_names(self) -> None:
        assert load_llm(echo).fingerprint.endswith("test_load.echo")
        assert load_llm(lambda prompt: prompt, name="upper").fingerprint == "callable:upper"
        assert load_llm(EchoChat()).fingerprint == "langchain:EchoChat"

    def test_at_most_so_many_at_a_time(self) -> None:
        now, most, lock = 0, 0, threading.Lock()
        met = threading.Barrier(2, timeout=10)

        def count(prompt: str) -> str:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            met.wait()  # Two at a time must come, or this breaks.
            with lock:
                now -= 1
            return prompt

        assert answers(load_llm(RunnableLambda(count), max_concurrency=2), list("ABCDEF")) == list("ABCDEF")
        assert most == 2

    def test_max_concurrency_must_be_positive(self) -> None:
        with pytest.raises(InvalidOptionError, match="`max_concurrency` must be at least 1, was: 0"):
            load_llm(RunnableLambda(echo), max_concurrency=0)


def test_the_example_in_the_docs_runs() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/models.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    assert [type(answer) for answer in names["answers"]] == [str]


def test_the_docs_name_every_option() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/models.md").read_text(encoding="utf-8")
    options = {*models._keywords(TransformersLM), *models._FOLDER_OPTIONS, *models._CLIENT_OPTIONS}
    options |= {field.name for field in dataclasses.fields(EndpointOptions)}
    assert [option for option in sorted(options) if f"`{option}`" not in page] == []
