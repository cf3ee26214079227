"""What is sent and what comes back, as OpenAI's clients know it; further fields of a request are its backend's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from openai import types
from openai.types import chat
from pydantic import BaseModel, ConfigDict, Field


class PersonaChoice(BaseModel):
    """How a request is personalized. It names no adapter, no file and no user."""

    model_config = ConfigDict(extra="forbid", strict=True)

    enabled: bool = Field(default=True, description="False answers as if nothing were known of the user.")
    channels: list[str] | None = Field(
        default=None, max_length=16, description="Only these of the server's channels; none of them for an empty list."
    )
    k: int | None = Field(default=None, ge=0, le=64, description="Most records, in place of the server's own number.")


class StreamOptions(BaseModel):
    """What a stream holds besides the answer."""

    model_config = ConfigDict(extra="allow")

    include_usage: bool | None = Field(None, description="Whether a last chunk, without choices, has the usage.")


class AskBody(BaseModel):
    """The fields that both kinds of requests share."""

    model_config = ConfigDict(extra="allow")

    model: str | None = Field(None, description="A name of `/v1/models`; none means the server's first one.")
    user: str | None = Field(
        None, description="Whom to answer, where the key may speak for any user. An upstream never sees it."
    )
    persona: PersonaChoice = PersonaChoice()
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = Field(None, description="From 0 to 2. The engine takes 0 where none is given: greedy.")
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int | None = Field(None, description="The engine gives 1.")


class ChatBody(AskBody):
    """A conversation to be continued."""

    messages: list[dict[str, Any]] = Field(min_length=1, description="As OpenAI has them; the engine takes text alone.")
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class CompletionBody(AskBody):
    """A text to be continued, or with an LLM that has a chat template: a request to be answered."""

    prompt: str | list[Any]
    logprobs: int | None = None


class Used(BaseModel):
    """What of the user went into an answer.

    Attributes:
        channels: names of the channels that brought something personal.
        records: ids of the user's records in the prompt, best first.
        tokens_added: tokens that personalization added to the prompt; an estimate before an upstream.
        abstained: true if nothing personal was added.
    """

    channels: list[str] = []
    records: list[str] = []
    tokens_added: int = 0
    abstained: bool = True

    def field(self, findings: Sequence[str] = ()) -> dict[str, Any]:
        """The field ``persona`` of an answer, with what checks have found in it."""
        return {"persona": {**self.model_dump(), **({"findings": list(findings)} if findings else {})}}


class ChatCompletion(chat.ChatCompletion):
    """The answer to a chat; an upstream may add fields. A stream has it in chunks, `persona` in the last one."""

    persona: Used = Field(default_factory=Used)


class Completion(types.Completion):
    """A completion; an upstream may add fields. A stream has it in chunks, `persona` in the last one."""

    persona: Used = Field(default_factory=Used)


class Model(BaseModel):
    """A model that a request may name."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "persona"


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[Model]
