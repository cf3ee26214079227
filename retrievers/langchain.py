"""A user's records for LangChain: `PersonaRetriever` is a `BaseRetriever` for many users.

>>> from persona.records import Record
>>> from persona.retrievers import RecencyRetriever
>>> store = ProfileStore("sqlite:///langchain.db")
>>> report = store.upsert([("critic-7", Record("a quiet thriller in the snow", target="5"))])
>>> retriever = PersonaRetriever(store=store, retriever=RecencyRetriever(), k=4)
>>> [document.metadata["target"] for document in retriever.invoke("a thriller", user_id="critic-7")]
['5']
>>> chain = retriever | len                                                 # as any other retriever in a chain
>>> chain.invoke("a thriller", config={"configurable": {"user_id": "critic-7"}})
1
>>> store.close()

The user id is that of the call, else that of the config's ``configurable``, else that of the constructor; without any,
the call is an error, since there is no default user.
"""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig, ensure_config
from langchain_core.runnables.config import run_in_executor

from persona.errors import InvalidUserIdError
from persona.protocols import Retriever
from persona.records import ScoredRecord
from persona.store.profile_store import ProfileStore

from .base import check_k


class PersonaRetriever(BaseRetriever):
    """Retrieves records of one user as LangChain documents.

    A document's text is the record's; its metadata are the record's own and ``record_id``, ``target``, ``time``,
    ``score`` and ``user_id``. An unknown user has no documents.

    Attributes:
        store: where the users' records are.
        retriever: ranks them.
        k: how many documents at most; a call may give another ``k``.
        user_id: whose records, if neither call nor config says.

    Raises:
        InvalidUserIdError: on a call without a user id, and for one that no store may hold.
        InvalidOptionError: if `k` is below 1.
    """

    store: ProfileStore
    retriever: Retriever
    k: int = 4
    user_id: str | None = None

    # LangChain hands the config to `invoke` and not to `_get_relevant_documents`, so it is read here.

    def invoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:
        """The documents for the query `input`.

        Args:
            input: the query.
            config: ``config["configurable"]["user_id"]`` names the user, if the argument `user_id` does not.
            **kwargs: ``user_id``, ``k``, and what `BaseRetriever.invoke` takes.
        """
        config = ensure_config(config)
        return super().invoke(input, config, **_with_user(kwargs, config))

    async def ainvoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:
        """`invoke` in a thread of the event loop's executor."""
        return await run_in_executor(config, self.invoke, input, config, **kwargs)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        user_id: str | None = None,
        k: int | None = None,
    ) -> list[Document]:
        user_id = self.user_id if user_id is None else user_id
        if user_id is None:
            raise InvalidUserIdError(
                "a retrieval needs a user id and there is no default user: give `user_id` to the call, to the "
                'config\'s "configurable", or to the constructor'
            )
        k = check_k(self.k if k is None else k)
        records = self.retriever.retrieve(self.store.profile(user_id), query, k)
        return [_document(scored, user_id) for scored in records]


def _with_user(kwargs: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
    """The arguments of a call; the user id of the config where the call names none."""
    named = kwargs.get("user_id")
    return {**kwargs, "user_id": config.get("configurable", {}).get("user_id") if named is None else named}


def _document(scored: ScoredRecord, user_id: str) -> Document:
    record = scored.record
    return Document(
        page_content=record.text,
        id=record.id,
        # The record's own fields first, so that none can pass for one of ours.
        metadata={
            **record.metadata,
            "record_id": record.id,
            "target": record.target,
            "time": record.time,
            "score": scored.score,
            "user_id": user_id,
        },
    )
