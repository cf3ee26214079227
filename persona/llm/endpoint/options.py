"""Options of endpoints: what is asked for, how persistently, and what the server can take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from persona.errors import InvalidOptionError, check_least, check_one_of, check_positive
from persona.protocols import TextTokenizer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointOptions:
    """What is asked of an endpoint, and what the server can take.

    Attributes:
        endpoint: ``"chat"`` sends messages, the prompt as the user's last one; ``"completions"`` sends one bare text,
            for base models (a conversation as `persona.llm.chat.messages.transcript`).
        seed: handed to the server; None sends none.
        max_concurrency: most requests at the same time, at least 1.
        retries: how often a request is sent again after a failure that may pass (429, 5xx, a timeout, no connection, a
            broken reply), after growing pauses or the server's own; None is 4, or what a given client has.
        timeout: seconds to wait for an answer, each time; None is 300, or what a given client has.
        requests_per_minute: most requests in a minute, evenly spaced, repeated ones included (those that a given client
            repeats are not); None for any number.
        fields: further fields of the request, which replace persona's own; None as a value takes a field out
            (``{"temperature": None}`` for models that refuse one).
        tokenizer: measures prompts; None estimates by words.
        system: text of the system's turn, or before the prompt at the completions endpoint; None sends none.
        chat_template_kwargs: arguments of the chat template of a vLLM server, such as ``{"enable_thinking": False}``.
        hidden_size: length of the served LLM's input embeddings. With it soft prompts are taken. One of another length
            is refused here, because it can crash a vLLM server.
        soft_prompt: whether a soft prompt stands ``"before"`` or ``"after"`` the system's text. Without such a text it
            stands before the prompt.
        embed: gives the input embeddings of a text, special tokens and all, for soft prompts at the completions
            endpoint.  # -> (tokens, hidden_size)
        serves: fingerprint of the LLM behind the endpoint (`TransformersLM.fingerprint`), by which user embedders know
            the LLM that they were trained with; it cannot be read off a server.
        adapter_name: gives the server's name of an adapter ``user@version``. With it requests with adapters are taken.

    Raises:
        InvalidOptionError: if an option is out of its range.
    """

    endpoint: Literal["chat", "completions"] = "chat"
    seed: int | None = 0
    max_concurrency: int = 8
    retries: int | None = None
    timeout: float | None = None
    requests_per_minute: float | None = None
    fields: Mapping[str, object] = field(default_factory=dict)
    tokenizer: TextTokenizer | None = None
    system: str | None = None
    chat_template_kwargs: Mapping[str, object] = field(default_factory=dict)
    hidden_size: int | None = None
    soft_prompt: Literal["before", "after"] = "before"
    embed: Callable[[str], torch.Tensor] | None = None
    serves: str | None = None
    adapter_name: Callable[[str], str] | None = None

    def __post_init__(self) -> None:
        check_one_of(("chat", "completions"), endpoint=self.endpoint)
        check_one_of(("before", "after"), soft_prompt=self.soft_prompt)
        if self.chat_template_kwargs and self.endpoint != "chat":
            raise InvalidOptionError("`chat_template_kwargs` are for the chat endpoint")
        check_least(1, max_concurrency=self.max_concurrency)
        check_least(0, retries=self.retries)
        check_positive(timeout=self.timeout, requests_per_minute=self.requests_per_minute)
        if self.hidden_size is not None and self.endpoint == "completions" and self.embed is None:
            raise InvalidOptionError(
                "soft prompts at the completions endpoint need `embed`, which makes the text's own embeddings; "
                "the chat endpoint takes soft prompts beside text"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AskingOptions:
    """How an LLM is asked, as far as it can be said in text; all but the system text are for endpoints.

    Attributes:
        max_concurrency: most requests at the same time; unset, 8.
        retries: how often a request is sent again after a failure that may pass; unset, 4.
        timeout: seconds to wait for an answer, each time; unset, 300.
        requests_per_minute: most requests in a minute, evenly spaced; unset, any number.
        endpoint: chat or completions; unset, chat.
        system: text of the system's turn.
    """

    max_concurrency: int | None = None
    retries: int | None = None
    timeout: float | None = None
    requests_per_minute: float | None = None
    endpoint: str | None = None
    system: str | None = None

    @property
    def given(self) -> dict[str, Any]:
        """Those that were given, as `persona.load_llm` takes them."""
        return {name: value for name, value in asdict(self).items() if value is not None}
