"""What of a user goes into one request: the server's channels, or those that the request chooses among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from time import perf_counter
from typing import Any

from anyio import CapacityLimiter, to_thread

from persona.channels import Channel
from persona.generation import Generation, Prepared
from persona.llm.chat.messages import conversation
from persona.personalizer import Personalizer
from persona.protocols import TEXT, Message, Request
from persona.retrievers.channel import RecordsChannel
from persona.serve.answers.shapes import PersonaChoice, Used
from persona.serve.errors import ApiError
from persona.serve.metrics import Metrics

_READERS = 8
"""Requests that read the store and choose among records at a time; more would only share two cores and a lock."""


class Personalizing:
    """Makes requests personal, in worker threads, so that the event loop stays free.

    Args:
        personalizer: how.
        metrics: count it.

    Attributes:
        llm: whom the requests are for.
        ways: those of `persona.protocols.WAYS` that the channels need.
    """

    def __init__(self, personalizer: Personalizer, metrics: Metrics) -> None:
        self.llm = personalizer.llm
        self._metrics = metrics
        self._readers = CapacityLimiter(_READERS)
        self._store = personalizer.store
        self._names = [channel.name for channel in personalizer.channels]
        self.ways = {TEXT, *(channel.requires for channel in personalizer.channels)}

        @lru_cache(256)
        def changed(names: tuple[str, ...] | None, k: int | None, max_new_tokens: int | None) -> Personalizer:
            channels = [
                _with_k(channel, k) for channel in personalizer.channels if names is None or channel.name in names
            ]
            most = personalizer.options.max_new_tokens if max_new_tokens is None else max_new_tokens
            options = replace(personalizer.options, max_new_tokens=most)
            return personalizer.changed(channels=channels, options=options)

        self._changed = changed

    async def prepared(
        self,
        user_id: str | None,
        messages: str | Sequence[Message | Mapping[str, Any]],
        choice: PersonaChoice,
        max_new_tokens: int | None = None,
    ) -> Prepared:
        """A request with what is known of its user.

        Args:
            user_id: whom it is for; None for nobody: the request is left as it is.
            messages: a text, or a conversation that ends in the user's turn.
            choice: how it is to be personalized.
            max_new_tokens: longest answer; what it leaves of the LLM's window bounds the personal text. None for the
                server's.

        Raises:
            ApiError: if the server has no such channel.
            PersonaError: as `Personalizer.prepare`.
        """
        for name in choice.channels or ():
            if name not in self._names:
                known = ", ".join(self._names) or "none"
                raise ApiError(
                    400,
                    f"`persona.channels` may name {known}, was: {name!r:.80}",
                    code="unknown_channel",
                    param="persona.channels",
                )
        if user_id is None or not choice.enabled:
            turns, prompt = conversation(messages)
            return Prepared(Request(prompt, turns=turns), Generation("", "", prompt, turns=turns))
        names = None if choice.channels is None else tuple(sorted(set(choice.channels)))
        began = perf_counter()
        prepared = await to_thread.run_sync(
            self._prepare, user_id, messages, (names, choice.k, max_new_tokens), limiter=self._readers
        )
        self._metrics.preparing.observe(perf_counter() - began)
        return prepared

    def _prepare(
        self,
        user_id: str,
        messages: str | Sequence[Message | Mapping[str, Any]],
        chosen: tuple[tuple[str, ...] | None, int | None, int | None],
    ) -> Prepared:
        personalizer = self._changed(*chosen)
        (prepared,) = personalizer.prepare([personalizer.ask(self._store.profile(user_id), messages)])
        return prepared

    def knows(self, user_id: str | None) -> bool:
        """Whether the store holds the user now."""
        return user_id is not None and user_id in self._store

    def used(self, prepared: Prepared) -> Used:
        """What went into it, counted."""
        made = prepared.generation
        for name in made.channels or ("none",):
            self._metrics.channels.labels(name).inc()
        self._metrics.tokens.labels("added").inc(made.tokens_added)
        return Used(
            channels=list(made.channels),
            records=[scored.record.id for scored in made.records],
            tokens_added=made.tokens_added,
            abstained=made.abstained,
        )


def _with_k(channel: Channel, k: int | None) -> Channel:
    return RecordsChannel(channel.retriever, k) if k is not None and isinstance(channel, RecordsChannel) else channel
