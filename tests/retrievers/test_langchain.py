"""`PersonaRetriever` in LangChain: its standard suite, and whose records it finds by which way of asking."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_tests.integration_tests import RetrieversIntegrationTests

from persona.errors import InvalidOptionError, InvalidUserIdError
from persona.records import Record
from persona.retrievers import BM25Retriever, PersonaRetriever
from persona.store.profile_store import ProfileStore

STORY = Record(
    "a quiet thriller in the snow",
    target="5",
    time="2011-05",
    id="r1",
    metadata={"title": "Snow", "user_id": "mallory"},
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProfileStore]:
    with ProfileStore(f"sqlite:///{tmp_path_factory.mktemp('langchain') / 'persona.db'}") as opened:
        opened.upsert([("ana", STORY)])
        for user_id in ("ana", "ben", "carl"):
            opened.upsert((user_id, Record(f"{user_id} likes snow and film {number}")) for number in range(5))
        yield opened


@pytest.fixture
def retriever(store: ProfileStore) -> PersonaRetriever:
    return PersonaRetriever(store=store, retriever=BM25Retriever())


def users(documents: list[Document]) -> set[str]:
    return {document.metadata["user_id"] for document in documents}


class TestLangChainStandard(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _with_store(self, store: ProfileStore) -> None:
        self._store = store

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return PersonaRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"store": self._store, "retriever": BM25Retriever(), "user_id": "ana"}

    @property
    def retriever_query_example(self) -> str:
        return "snow"


# The suite leaves it to the project how its one coroutine is run, and does not let the test be overridden.
pytest.mark.asyncio(RetrieversIntegrationTests.test_ainvoke_returns_documents)


def test_a_document_names_its_origin(retriever: PersonaRetriever, store: ProfileStore) -> None:
    (found,) = retriever.invoke("quiet thriller", user_id="ana", k=1)
    assert found.page_content == STORY.text
    assert found.id == "r1"
    score = BM25Retriever().retrieve(store.profile("ana"), "quiet thriller", 1)[0].score
    assert found.metadata == {
        "title": "Snow",
        "record_id": "r1",
        "target": "5",
        "time": "2011-05",
        "score": score,
        "user_id": "ana",
    }


def config(user_id: object) -> Any:
    return {"configurable": {"user_id": user_id}}


def test_the_call_goes_before_the_config_and_that_before_the_constructor(store: ProfileStore) -> None:
    fixed = PersonaRetriever(store=store, retriever=BM25Retriever(), user_id="ana")
    assert users(fixed.invoke("snow")) == {"ana"}
    assert users(fixed.invoke("snow", config("ben"))) == {"ben"}
    assert users(fixed.invoke("snow", config("ben"), user_id="carl")) == {"carl"}
    assert users(fixed.invoke("snow", {"tags": ["x"]}, user_id="carl")) == {"carl"}
    assert users(fixed.invoke("snow", config(None))) == {"ana"}


def test_every_way_of_asking_finds_the_user(retriever: PersonaRetriever) -> None:
    async def ask() -> list[list[Document]]:
        return [
            await retriever.ainvoke("snow", user_id="ben"),
            await retriever.ainvoke("snow", config("ben")),
            *await retriever.abatch(["snow", "film"], user_id="ben"),
            *await retriever.abatch(["snow", "film"], config("ben")),
            [document async for documents in retriever.astream("snow", config("ben")) for document in documents],
        ]

    answers = [
        retriever.invoke("snow", user_id="ben"),
        *retriever.batch(["snow", "film"], user_id="ben"),
        *retriever.batch(["snow", "film"], config("ben")),
        [document for documents in retriever.stream("snow", config("ben")) for document in documents],
        retriever.with_config(configurable={"user_id": "ben"}).invoke("snow"),
        retriever.bind(user_id="ben").invoke("snow"),
        *asyncio.run(ask()),
    ]
    assert all(len(documents) == 4 for documents in answers)
    assert all(users(documents) == {"ben"} for documents in answers)


def test_each_of_a_batch_has_its_own_config(retriever: PersonaRetriever) -> None:
    wanted = ["ana", "ben", "carl", "ana"] * 5
    configs = [config(user_id) for user_id in wanted]
    expected = [{user_id} for user_id in wanted]
    assert [users(documents) for documents in retriever.batch(["snow"] * 20, configs)] == expected
    found = asyncio.run(retriever.abatch(["snow"] * 20, configs))
    assert [users(documents) for documents in found] == expected


def test_in_a_chain_the_config_reaches_it(retriever: PersonaRetriever) -> None:
    def texts(documents: list[Document]) -> str:
        return " | ".join(document.page_content for document in documents)

    def inside(query: str) -> str:
        return texts(retriever.invoke(query))  # without a config: LangChain's own context has it

    chain = retriever | RunnableLambda(texts)
    parallel = {"context": chain, "question": RunnablePassthrough()} | RunnableLambda(lambda both: both["context"])
    for runnable in (chain, parallel, RunnableLambda(inside)):
        assert "ben likes" in runnable.invoke("snow", config("ben"))
        assert "ben likes" in asyncio.run(runnable.ainvoke("snow", config("ben")))
        assert all("carl likes" in answer for answer in runnable.batch(["snow", "film"], config("carl")))


@pytest.mark.parametrize("given", [None, {}, {"configurable": {}}, {"configurable": {"thread_id": "1"}}])
def test_without_a_user_the_call_is_an_error(retriever: PersonaRetriever, given: Any) -> None:
    for ask in (retriever.invoke, lambda query, config: asyncio.run(retriever.ainvoke(query, config))):
        with pytest.raises(InvalidUserIdError, match=r"needs a user id and there is no default user: give `user_id`"):
            ask("snow", given)
    with pytest.raises(InvalidUserIdError, match="needs a user id"):
        retriever.batch(["snow", "film"], given)
    with pytest.raises(InvalidUserIdError, match="needs a user id"):
        (retriever | RunnableLambda(len)).invoke("snow", given)


@pytest.mark.parametrize("user_id", ["", "a\0b", 7, b"ana"])
def test_an_illegal_user_is_an_error_and_not_the_next_best(store: ProfileStore, user_id: Any) -> None:
    fixed = PersonaRetriever(store=store, retriever=BM25Retriever(), user_id="ana")
    with pytest.raises(InvalidUserIdError):
        fixed.invoke("snow", user_id=user_id)
    with pytest.raises(InvalidUserIdError):
        fixed.invoke("snow", config(user_id))


def test_a_user_of_whom_nothing_is_known_has_no_documents(retriever: PersonaRetriever) -> None:
    assert retriever.invoke("snow", user_id="nobody") == []


def test_k_must_be_at_least_1(retriever: PersonaRetriever, store: ProfileStore) -> None:
    with pytest.raises(InvalidOptionError, match="`k` must be at least 1, was: 0"):
        retriever.invoke("snow", user_id="ana", k=0)
    with pytest.raises(InvalidOptionError, match="`k` must be at least 1, was: -1"):
        PersonaRetriever(store=store, retriever=BM25Retriever(), k=-1, user_id="ana").invoke("snow")


def test_callbacks_see_the_retrieval_and_its_failure(retriever: PersonaRetriever) -> None:
    class Log(BaseCallbackHandler):
        def __init__(self) -> None:
            self.events: list[str] = []

        def on_retriever_start(self, *_: Any, **__: Any) -> None:
            self.events.append("start")

        def on_retriever_end(self, documents: Any, **_: Any) -> None:
            self.events.append(f"end {len(documents)}")

        def on_retriever_error(self, error: BaseException, **_: Any) -> None:
            self.events.append(type(error).__name__)

    log = Log()
    retriever.invoke("snow", {"callbacks": [log]}, user_id="ana", k=3)
    with pytest.raises(InvalidUserIdError):
        retriever.invoke("snow", {"callbacks": [log]})
    assert log.events == ["start", "end 3", "start", "InvalidUserIdError"]
