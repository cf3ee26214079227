"""The Personalizer in a LangChain chain."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder, PromptTemplate
from langchain_core.runnables import RunnableConfig, RunnableGenerator

from persona.errors import GenerationError, InvalidOptionError, InvalidUserIdError
from persona.integrations.langchain import PersonalizedRunnable
from persona.llm.load import load_llm
from persona.personalizer import Personalizer
from persona.records import Record
from persona.retrievers import RecencyRetriever
from persona.retrievers.channel import RecordsChannel
from persona.store.profile_store import ProfileStore

ANA: RunnableConfig = {"configurable": {"user_id": "ana"}}
BO: RunnableConfig = {"configurable": {"user_id": "bo"}}


@pytest.fixture
def runnable(tmp_path: Path) -> Iterator[PersonalizedRunnable]:
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        store.upsert([("ana", Record("I like tea.")), ("bo", Record("I like coffee."))])
        yield PersonalizedRunnable(
            Personalizer(load_llm(lambda prompt: prompt), store, [RecordsChannel(RecencyRetriever(), k=1)])
        )


def test_the_user_comes_from_the_input_or_the_config(runnable: PersonalizedRunnable) -> None:
    by_input = runnable.invoke({"user_id": "ana", "prompt": "Drink?"})
    assert "tea" in by_input
    assert runnable.invoke("Drink?", ANA) == by_input
    assert by_input == runnable.invoke({"user_id": "ana", "prompt": "Drink?"}, ANA)
    assert by_input == runnable.invoke({"user_id": None, "prompt": "Drink?"}, ANA)


def test_an_input_cannot_ask_in_the_name_of_another_than_the_config_says(runnable: PersonalizedRunnable) -> None:
    asked = {"user_id": "bo", "prompt": "Drink?"}
    with pytest.raises(InvalidUserIdError, match="input and config must name one user, were: 'bo' and 'ana'"):
        runnable.invoke(asked, ANA)
    assert isinstance(runnable.batch([asked], [ANA], return_exceptions=True)[0], InvalidUserIdError)


def test_it_stands_in_a_chain(runnable: PersonalizedRunnable) -> None:
    chain = PromptTemplate.from_template("{what}?") | runnable | StrOutputParser()
    answer = chain.invoke({"what": "Drink"}, ANA)
    assert "tea" in answer
    assert answer.endswith("Drink?")
    chat = ChatPromptTemplate.from_messages([("human", "{what}?")]) | runnable
    assert "coffee" in chat.invoke({"what": "Drink"}, BO)


def test_records_are_sought_by_the_last_turn_of_a_conversation(runnable: PersonalizedRunnable) -> None:
    history = [HumanMessage("Hi."), AIMessage([{"type": "text", "text": "Hello!"}])]
    answer = runnable.invoke({"user_id": "ana", "prompt": "Drink?", "history": history})
    assert "User: Hi.\n\nAssistant: Hello!\n\nUser: Earlier records" in answer
    assert "tea" in answer
    assert runnable.invoke([*history, HumanMessage("Drink?")], ANA) == answer
    assert runnable.invoke([("human", "Hi."), ("ai", "Hello!"), {"role": "user", "content": "Drink?"}], ANA) == answer
    chat = ChatPromptTemplate.from_messages([MessagesPlaceholder("before"), ("human", "{what}?")]) | runnable
    assert chat.invoke({"before": history, "what": "Drink"}, ANA) == answer
    with pytest.raises(InvalidOptionError, match="a message must be of system, human, ai, was of: tool"):
        runnable.invoke([ToolMessage("7", tool_call_id="1"), HumanMessage("Drink?")], ANA)
    with pytest.raises(InvalidOptionError, match="must be the user's, was: assistant's"):
        runnable.invoke(history, ANA)


def test_batch_mixes_users(runnable: PersonalizedRunnable) -> None:
    tea, coffee = runnable.batch(["Drink?", "Drink?"], [ANA, BO])
    assert ("tea" in tea, "coffee" in tea) == (True, False)
    assert ("tea" in coffee, "coffee" in coffee) == (False, True)
    assert runnable.batch([]) == []


def test_batch_can_return_exceptions(runnable: PersonalizedRunnable) -> None:
    good, bad = runnable.batch([{"user_id": "ana", "prompt": "Drink?"}, "Drink?"], return_exceptions=True)
    assert "tea" in good
    assert isinstance(bad, InvalidUserIdError)
    with pytest.raises(InvalidUserIdError):
        runnable.batch([{"user_id": "ana", "prompt": "Drink?"}, "Drink?"])


@pytest.mark.parametrize("user_id", [7, "", "bo"])
def test_an_input_that_cannot_be_answered_does_not_take_the_others_down(
    runnable: PersonalizedRunnable, user_id: object
) -> None:
    def answer(prompt: str) -> str:
        if "coffee" in prompt:
            raise ValueError("too long")
        return prompt

    shy = PersonalizedRunnable(
        Personalizer(load_llm(answer), runnable.personalizer.store, runnable.personalizer.channels)
    )
    inputs = [{"user_id": "ana", "prompt": "Drink?"}, {"user_id": user_id, "prompt": "Drink?"}]
    good, bad = shy.batch(inputs, return_exceptions=True)
    assert "tea" in good
    assert isinstance(bad, GenerationError if user_id == "bo" else InvalidUserIdError)
    with pytest.raises((GenerationError, InvalidUserIdError)):
        shy.batch(inputs)


def test_async_gives_the_same(runnable: PersonalizedRunnable) -> None:
    async def ask() -> tuple[str, list[str]]:
        return await runnable.ainvoke("Drink?", ANA), await runnable.abatch(["Drink?", "Drink?"], [ANA, BO])

    one, many = asyncio.run(ask())
    assert one == runnable.invoke("Drink?", ANA)
    assert many == runnable.batch(["Drink?", "Drink?"], [ANA, BO])


def test_it_streams_in_a_chain(runnable: PersonalizedRunnable) -> None:
    def write(prompts: Iterator[str]) -> Iterator[str]:
        for prompt in prompts:
            yield from prompt.split("e")

    inner = runnable.personalizer
    writing = PersonalizedRunnable(Personalizer(load_llm(RunnableGenerator(write)), inner.store, inner.channels))
    chain = PromptTemplate.from_template("{what}?") | writing | StrOutputParser()
    pieces = list(chain.stream({"what": "Drink"}, ANA))
    assert len(pieces) > 3
    assert "".join(pieces) == chain.invoke({"what": "Drink"}, ANA)

    async def ask() -> list[str]:
        return [piece async for piece in chain.astream({"what": "Drink"}, ANA)]

    assert asyncio.run(ask()) == pieces
    with pytest.raises(InvalidUserIdError):
        list(writing.stream("Drink?"))


def test_without_a_user_it_fails(runnable: PersonalizedRunnable) -> None:
    with pytest.raises(InvalidUserIdError, match="no user is named"):
        runnable.invoke("Drink?")
    with pytest.raises(InvalidUserIdError):
        runnable.invoke({"prompt": "Drink?"})


@pytest.mark.parametrize("value", [7, {"user_id": "ana"}, ["Drink?"]])
def test_other_inputs_are_refused(runnable: PersonalizedRunnable, value: object) -> None:
    with pytest.raises(InvalidOptionError, match="must"):
        runnable.invoke(value, ANA)
