"""The checks that every language model makes on its requests and options, before it does any work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from persona.errors import InvalidOptionError, UnsupportedChannelError
from persona.protocols import LORA, SOFT_PROMPT, VOCABULARY, GenerationOptions, Request

_TAKEN_BY = {
    SOFT_PROMPT: "soft prompts are taken by transformers models (a folder, a hub id, 'tiny' or (model, tokenizer)), "
    "and by a vLLM server that is given its `hidden_size`",
    LORA: "adapters are taken by transformers models with an open AdapterPool, and by a vLLM server that is given "
    "`lora`; else leave `adapter` at None",
    VOCABULARY: "lifted tokens are taken by transformers models (a folder, a hub id, 'tiny' or (model, tokenizer))",
}


def check_requests(requests: Sequence[Request], channels: frozenset[str], llm: str) -> None:
    """Refuse requests that use a channel outside `channels`, or whose prompt is no string.

    Args:
        requests: what is about to be generated.
        channels: what the LLM takes, of `persona.protocols.CHANNELS`.
        llm: the LLM's name, for the message.

    Raises:
        UnsupportedChannelError: if a request uses a channel that the LLM cannot take.
        InvalidOptionError: if a prompt is no string.
    """
    for index, request in enumerate(requests):
        if not isinstance(request.prompt, str):
            raise InvalidOptionError(
                f"a prompt must be a string, was: {type(request.prompt).__name__} (request {index})"
            )
        for channel in _channels_of(request):
            if channel not in channels:
                raise UnsupportedChannelError(
                    f"the LLM {llm} takes {', '.join(sorted(channels))}, but request {index} brings a {channel}: "
                    f"{_TAKEN_BY[channel]}"
                )


def _channels_of(request: Request) -> Iterable[str]:
    if request.soft_prompt is not None:
        yield SOFT_PROMPT
    if request.adapter is not None:
        yield LORA
    if request.lifts:
        yield VOCABULARY


def check_options(options: GenerationOptions, *, max_beams: int | None = None, llm: str = "") -> None:
    """Refuse decoding options out of their range.

    Args:
        options: how to decode.
        max_beams: most beams that the LLM can do; None for no limit.
        llm: the LLM's name, for the message.

    Raises:
        InvalidOptionError: if a number is below 1 or there are more beams than the LLM can do.
    """
    for name in ("max_new_tokens", "num_beams"):
        value = getattr(options, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InvalidOptionError(f"`{name}` must be a whole number of at least 1, was: {value!r}")
    if max_beams is not None and options.num_beams > max_beams:
        raise InvalidOptionError(
            f"beam search needs a transformers model; the LLM {llm} can do `num_beams={max_beams}` only, "
            f"was: {options.num_beams}"
        )
