"""What answers requests: the engine in the process, or an upstream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import Request
from starlette.responses import Response

from persona.serve.answers.shapes import ChatBody, CompletionBody
from persona.serve.keys import ApiKey


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Call:
    """One request to be answered.

    Attributes:
        request: as it came, to know when its client goes away.
        caller: who makes it.
        user_id: whom it is for; None for nobody.
        body: what of it is understood here.
        raw: all of it.
        model: the name of the model, one of `Backend.models`.
        began: when it came, in seconds of `time.perf_counter`.
    """

    request: Request
    caller: ApiKey
    user_id: str | None
    body: ChatBody | CompletionBody
    raw: dict[str, Any]
    model: str
    began: float

    @property
    def streams(self) -> bool:
        """Whether the answer is wanted in pieces."""
        return bool(self.body.stream)

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends in its usage."""
        return self.body.stream_options is not None and bool(self.body.stream_options.include_usage)


class Backend(Protocol):
    """Answers requests.

    Attributes:
        models: the names that a request may give; the first one is meant where it gives none.
        ready: whether it can answer now.
    """

    @property
    def models(self) -> tuple[str, ...]: ...

    @property
    def ready(self) -> bool: ...

    async def answer(self, call: Call) -> Response:
        """The reply, whole or in pieces.

        Raises:
            ApiError: if it cannot be answered.
            PersonaError: if the request is out of range, or the LLM does not answer.
        """
        ...

    async def aclose(self, drain: float) -> None:
        """Let what is under way go on for at most `drain` seconds, and answer nothing more."""
        ...
