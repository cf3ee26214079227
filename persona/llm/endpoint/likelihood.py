"""Log-likelihoods of choices from a vLLM server, by what it says of the tokens of a prompt.

A question takes two requests:

1. The prompt with one token of an answer and ``return_token_ids``: its token ids, as the server's template has them.
2. At the completions endpoint all choices at once, each as the ids of prompt, choice and end, with ``prompt_logprobs``:
   the log-probability of each of these tokens after those before it.

So a score is that of the choice as the whole answer, its end included, of the same token ids as in
`persona.llm.answers.scoring`. Which token ends an answer is seen once, in an answer that is held to a choice.

OpenAI's protocol has no such thing: ``echo`` with ``logprobs``, where a server still knows it, takes a prompt as text,
whose last token may swallow the beginning of a choice, and no end of an answer. Other endpoints give no likelihoods.
"""

from __future__ import annotations

import asyncio
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from persona.errors import EndpointError, GenerationError, PersonaWarning
from persona.llm.endpoint.connection import Connection
from persona.llm.endpoint.holding import CHOICE, of_the_request

_LONGEST_ANSWER = 64
_NOT_KNOWN = (400, 404, 405, 422, 501)
_WORDS = re.compile(r"logprob|token_ids|special_tokens|structured", re.IGNORECASE)


class PromptScores:
    """Scores choices by the log-probabilities of prompts.

    Args:
        name: what messages call the endpoint.
        connection: to the server.

    Attributes:
        known: False once the server has shown that it does not give them.
    """

    def __init__(self, name: str, connection: Connection) -> None:
        self._name, self._connection = name, connection
        self._ids: dict[tuple[str, str], tuple[int, ...]] = {}
        self._ends: dict[str, int] = {}
        self._trying = asyncio.Lock()
        self._proven = False
        self.known = True

    async def __call__(
        self, model: str, chat: bool, fields: Mapping[str, Any], choices: Sequence[str]
    ) -> list[float] | None:
        """Log-likelihood of each choice as the whole answer, in nats; None if the server does not give them.

        Args:
            model: name at the endpoint.
            chat: whether `fields` are a chat's or a completion's.
            fields: the request without its model.
            choices: the legal answers.

        Raises:
            EndpointError: if the request is refused for itself, or not answered.
        """
        if not self._proven:
            async with self._trying:  # one request finds out
                return await self._scores(model, chat, fields, choices) if self.known else None
        return await self._scores(model, chat, fields, choices)

    async def _scores(
        self, model: str, chat: bool, fields: Mapping[str, Any], choices: Sequence[str]
    ) -> list[float] | None:
        try:
            prompt = await self._prompt_ids(model, chat, fields)
            await self._know(model, chat, fields, choices)
            endings = [(*self._ids[model, choice], self._ends[model]) for choice in choices]
            scores: list[float] = await self._ask(
                model,
                False,
                {"prompt": [[*prompt, *ending] for ending in endings], "max_tokens": 1, "temperature": 0},
                {"prompt_logprobs": 0},
                lambda reply: _sums(reply, endings),
            )
        except EndpointError as error:
            if self._proven or error.status not in _NOT_KNOWN or of_the_request(error, _WORDS):
                raise
            self._unknown(str(error))
            return None
        except _MissingError:
            self._unknown("it sends no token ids or log-probabilities")
            return None
        self._proven = True
        return scores

    async def _prompt_ids(self, model: str, chat: bool, fields: Mapping[str, Any]) -> list[int]:
        body = {**fields, **_limit(fields, 1)}
        ids: list[list[int]] = await self._ask(model, chat, body, {"return_token_ids": True}, _prompt_ids)
        return ids[0]

    async def _know(self, model: str, chat: bool, fields: Mapping[str, Any], choices: Sequence[str]) -> None:
        """Ask for the token ids of choices and of the end of an answer that are not known yet."""
        if new := [choice for choice in choices if (model, choice) not in self._ids]:
            texts = {"prompt": new, "max_tokens": 1, "temperature": 0}
            extra = {"return_token_ids": True, "add_special_tokens": False}
            ids = await self._ask(model, False, texts, extra, _prompt_ids)
            self._ids |= {(model, choice): tuple(each) for choice, each in zip(new, ids, strict=True)}
        if model not in self._ends:
            held = {"return_token_ids": True, **CHOICE.fields(choices)["extra_body"]}
            body = {**fields, **_limit(fields, _LONGEST_ANSWER)}
            self._ends[model] = await self._ask(model, chat, body, held, _end)

    async def _ask(self, model: str, chat: bool, fields: Mapping[str, Any], extra: Mapping[str, Any], read: Any) -> Any:
        def call(client: Any) -> Any:
            return (client.chat.completions if chat else client.completions).create

        body = {**fields, "extra_body": {**fields.get("extra_body", {}), **extra}}
        return await self._connection.ask(self._name, call, read, {"model": model, **body})

    def _unknown(self, why: str) -> None:
        if self.known:
            self.known = False
            warnings.warn(
                f"{self._name} gives no likelihoods of choices, so its answers are held to them instead: {why}",
                PersonaWarning,
                stacklevel=2,
            )


class _MissingError(GenerationError):
    """A reply without the fields that were asked for."""


def _limit(fields: Mapping[str, Any], tokens: int) -> dict[str, int]:
    return {name: tokens for name in ("max_tokens", "max_completion_tokens") if name in fields} or {
        "max_tokens": tokens
    }


def _prompt_ids(reply: Any) -> list[list[int]]:
    """Token ids of the prompts: a chat's of the whole reply, those of completions in each choice."""
    whole = getattr(reply, "prompt_token_ids", None)
    if whole is not None:
        return [whole]
    each = [getattr(choice, "prompt_token_ids", None) for choice in sorted(reply.choices, key=lambda each: each.index)]
    return [_given(ids) for ids in each]


def _end(reply: Any) -> int:
    """The token that ended an answer."""
    choice = reply.choices[0]
    if choice.finish_reason != "stop":
        raise _MissingError("the answer did not end")
    return int(_given(getattr(choice, "token_ids", None))[-1])


def _sums(reply: Any, endings: Sequence[Sequence[int]]) -> list[float]:
    """The log-probability of each ending, in the order in which they were asked."""
    each = sorted(reply.choices, key=lambda choice: choice.index)
    scores = []
    for choice, ending in zip(each, endings, strict=True):
        rows = _given(getattr(choice, "prompt_logprobs", None))[-len(ending) :]
        scores.append(sum(float(row[str(token)]["logprob"]) for row, token in zip(rows, ending, strict=True)))
    return scores


def _given(value: Any) -> Any:
    if not value:
        raise _MissingError("the reply lacks what was asked for")
    return value
