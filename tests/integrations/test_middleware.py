"""LangChain's agents with what is known of their user."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from persona.errors import InvalidUserIdError
from persona.integrations.middleware import PersonalMiddleware
from persona.records import Record
from persona.store.profile_store import ProfileStore

ANA: Any = {"configurable": {"user_id": "ana", "thread_id": "1"}}


class Model(GenericFakeChatModel):
    """A model that keeps what it is asked."""

    asked: list[list[BaseMessage]]

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
        self.asked.append(messages)
        return super()._generate(messages, *args, **kwargs)

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self


@dataclass
class Context:
    user_id: str


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ProfileStore]:
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as opened:
        opened.upsert([("ana", Record("I drink tea.")), ("bo", Record("I drink rum."))])
        yield opened


def answering(*answers: Any) -> Model:
    return Model(messages=iter([AIMessage(each) if isinstance(each, str) else each for each in answers]), asked=[])


def said(*texts: str) -> Any:
    return {"messages": [("human", text) for text in texts]}


def asked(messages: list[BaseMessage]) -> list[tuple[str, Any]]:
    return [(each.type, each.content) for each in messages]


def test_the_model_is_asked_with_what_is_known_and_the_state_stays_as_it_is(store: ProfileStore) -> None:
    model = answering("Tea, then.")
    agent = create_agent(model, [], system_prompt="Be brief.", middleware=[PersonalMiddleware(store)])
    given: Any = {"messages": [HumanMessage(["What shall I drink?"], id="1")]}
    state = agent.invoke(given, config=ANA)
    (system, asking) = model.asked[0]
    assert isinstance(system, SystemMessage)
    assert str(system.content).startswith("Be brief.\n\nEarlier records of this user")
    assert '"I drink tea."' in str(system.content)
    assert "rum" not in str(system.content)
    assert (asking.text, asking.id) == ("What shall I drink?", "1")
    assert asked(state["messages"]) == [("human", ["What shall I drink?"]), ("ai", "Tea, then.")]


def test_without_a_system_text_and_in_other_places(store: ProfileStore) -> None:
    store.upsert([("ana", Record("What do I eat?", target="soup"))])
    model = answering("yes", "yes")
    plain = create_agent(model, [], middleware=[PersonalMiddleware(store)])
    plain.invoke(said("drink?"), config=ANA)
    assert [each.type for each in model.asked[0]] == ["system", "human"]
    turns = create_agent(model, [], middleware=[PersonalMiddleware(store, placement="turns")])
    turns.invoke(said("drink?"), config=ANA)
    assert asked(model.asked[1])[1:] == [("human", "What do I eat?"), ("ai", "soup"), ("human", "drink?")]


def test_it_stays_through_calls_of_tools(store: ProfileStore) -> None:
    call = AIMessage("", tool_calls=[{"name": "weather", "args": {"city": "Turin"}, "id": "1"}])
    model = answering(call, "Sunny, have tea.")
    agent = create_agent(model, [weather], middleware=[PersonalMiddleware(store)])
    state = agent.invoke(said("What shall I drink in Turin?"), context={"user_id": "ana"})
    first, second = model.asked
    assert [each.type for each in second] == ["system", "human", "ai", "tool"]
    assert second[0].content == first[0].content
    assert state["messages"][-1].content == "Sunny, have tea."


def test_what_the_user_said_last_is_remembered(store: ProfileStore) -> None:
    model = answering("Noted.", "Noted.", "Turin.")
    agent = create_agent(model, [], middleware=[PersonalMiddleware(store, remember=True)], checkpointer=InMemorySaver())
    agent.invoke(said("I live in Turin.", "I have a cat."), config=ANA)
    assert [record.text for record in store.profile("ana")] == ["I drink tea.", "I live in Turin.", "I have a cat."]
    asyncio.run(agent.ainvoke(said("Where do I live?"), config=ANA))
    # In the conversation already, so not once more among what is known.
    assert "Turin" not in str(model.asked[1][0].content)
    assert len(store.profile("ana")) == 4
    other: Any = {"configurable": {"user_id": "ana", "thread_id": "2"}}
    agent.invoke(said("Where do I live?"), config=other)
    assert "Turin" in str(model.asked[2][0].content)
    assert len(store.profile("bo")) == 1


def test_async_and_streams_are_the_same(store: ProfileStore) -> None:
    model = answering("yes", "yes", "yes")
    agent = create_agent(model, [], middleware=[PersonalMiddleware(store)], context_schema=Context)
    given = said("drink?")
    agent.invoke(given, context=Context("ana"))
    asyncio.run(agent.ainvoke(given, context=Context("ana")))
    list(agent.stream(given, context=Context("ana")))
    assert asked(model.asked[0]) == asked(model.asked[1]) == asked(model.asked[2])


def test_a_run_names_one_user(store: ProfileStore) -> None:
    model = answering("yes")
    agent = create_agent(model, [], middleware=[PersonalMiddleware(store)])
    given = said("drink?")
    with pytest.raises(InvalidUserIdError, match="no user is named"):
        agent.invoke(given)
    with pytest.raises(InvalidUserIdError, match="context and config must name one user, were: 'bo' and 'ana'"):
        agent.invoke(given, config=ANA, context={"user_id": "bo"})
    with pytest.raises(InvalidUserIdError, match="must not be empty"):
        asyncio.run(agent.ainvoke(given, context={"user_id": ""}))
    assert model.asked == []
    agent.invoke(given, config={"configurable": {"user_id": "nobody"}})
    assert asked(model.asked[0]) == [("human", "drink?")]
