"""Functions and LangChain runnables as language models: what they answer with, and how they fail."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import RunnableLambda

from persona.errors import GenerationError, InvalidOptionError
from persona.llm.load import load_llm
from persona.protocols import GenerationOptions, Message, Request


def echo(prompt: str) -> str:
    return f"{len(prompt)} {prompt}"


def same(prompt: str) -> str:
    return prompt


class EchoChat(BaseChatModel):
    """A chat model that answers in content blocks, as some providers do."""

    @property
    def _llm_type(self) -> str:
        return "echo"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        blocks: list[str | dict[Any, Any]] = [{"type": "text", "text": echo(str(messages[-1].text))}]
        return ChatResult(generations=[ChatGeneration(message=AIMessage(content=blocks))])


def answers(llm: object, prompts: list[str], **options: Any) -> list[str]:
    return load_llm(llm, **options).generate([Request(prompt) for prompt in prompts], GenerationOptions(12))


TURNS = (Message("system", "Be kind."), Message("user", "Hi."), Message("assistant", "Hello!"))


def test_a_function_gets_a_conversation_as_one_text_and_a_chat_model_as_messages() -> None:
    as_text = "Be kind.\n\nUser: Hi.\n\nAssistant: Hello!\n\nUser: Tea?\n\nAssistant:"
    request = Request("Tea?", turns=TURNS)
    for llm in (load_llm(same), load_llm(RunnableLambda(same))):
        assert llm.generate([request], GenerationOptions()) == [as_text]
    seen: list[list[BaseMessage]] = []

    class Watching(EchoChat):
        def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
            seen.append(messages)
            return super()._generate(messages, *args, **kwargs)

    for model in (Watching(), Watching().bind(stop=["x"])):
        assert load_llm(model).generate([request], GenerationOptions()) == ["4 Tea?"]
        sent = seen.pop()
        assert [message.type for message in sent] == ["system", "human", "ai", "human"]
        assert [message.text for message in sent] == ["Be kind.", "Hi.", "Hello!", "Tea?"]


def test_answers_are_cut_and_stripped() -> None:
    for llm in (load_llm(same), load_llm(RunnableLambda(same))):
        thinking = Request("<think>2?</think>**4** END 5")
        assert llm.generate([thinking], GenerationOptions(stop=("END",))) == ["4"]
        assert llm.generate([thinking], GenerationOptions(stop=("END",), raw=True)) == ["<think>2?</think>**4** "]


def fail_on_b(prompt: str) -> str:
    if prompt == "B":
        raise TimeoutError("too late\nand a second line")
    return prompt


@pytest.mark.parametrize("llm", [fail_on_b, RunnableLambda(fail_on_b)])
def test_what_it_raises_is_a_generation_error(llm: object) -> None:
    with pytest.raises(GenerationError, match=r"did not answer request 1: TimeoutError: too late$") as caught:
        answers(llm, ["A", "B"])
    assert isinstance(caught.value.__cause__, TimeoutError)


def test_it_must_answer_with_text() -> None:
    with pytest.raises(GenerationError, match="must answer with a text, answered: int"):
        answers(len, ["A"])
    with pytest.raises(GenerationError, match=r"a string or a message, answered: int; .*StrOutputParser"):
        answers(RunnableLambda(len), ["A"])


def test_names() -> None:
    assert load_llm(echo).fingerprint.endswith("test_plain.echo")
    assert load_llm(lambda prompt: prompt, name="upper").fingerprint == "callable:upper"
    assert load_llm(EchoChat()).fingerprint.startswith("langchain:EchoChat-")
    # Two chains of one class are two LLMs.
    one, other = (load_llm(PromptTemplate.from_template(text) | EchoChat()) for text in ("{x}", "Please: {x}"))
    assert one.fingerprint != other.fingerprint


def test_runnables_answer_a_number_of_requests_at_a_time() -> None:
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

    assert answers(RunnableLambda(count), list("ABCDEF"), max_concurrency=2) == list("ABCDEF")
    assert most == 2
    with pytest.raises(InvalidOptionError, match="`max_concurrency` must be at least 1, was: 0"):
        load_llm(RunnableLambda(echo), max_concurrency=0)


@pytest.mark.parametrize("made", [None, "half \ud83d"])
def test_an_answer_that_is_no_text_is_one_line(made: Any) -> None:
    for llm in (lambda prompt: made, RunnableLambda(lambda prompt: made)):
        with pytest.raises(GenerationError, match="must answer with") as caught:
            answers(llm, ["A"])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("llm", [fail_on_b, RunnableLambda(fail_on_b)])
def test_one_failure_does_not_take_the_others_down(llm: object) -> None:
    loaded: Any = load_llm(llm)
    found = dict(loaded.generate_each([Request(each) for each in "ABC"], GenerationOptions(12)))
    assert (found[0], found[2]) == ("A", "C")
    failed = found[1]
    assert isinstance(failed, GenerationError)
