"""The fields of a request that the engine in the process takes; it refuses the others by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from persona.errors import InvalidOptionError
from persona.llm.continuous.sampling import SamplingOptions
from persona.serve.answers.shapes import ChatBody, CompletionBody
from persona.serve.errors import ApiError

_TAKEN = {
    *("model", "messages", "prompt", "user", "persona", "stream", "stream_options", "stop", "seed", "temperature"),
    *("top_p", "max_tokens", "max_completion_tokens", "logprobs", "top_logprobs"),
}
_WITHOUT_EFFECT = {
    *("metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
    "parallel_tool_calls",
}
"""Fields that say nothing of the answer."""
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "store": (False,),
    "suffix": ("",),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
"""Values that ask for what the engine does anyhow."""
_MOST_STOPS = 16
_SEEDS = 2**62


def check_fields(raw: Mapping[str, Any]) -> None:
    """Refuse what the engine cannot do.

    Raises:
        ApiError: if a field asks for something else; names it.
    """
    for name, value in raw.items():
        if name in _TAKEN or name in _WITHOUT_EFFECT or value is None or value in _NEUTRAL.get(name, ()):
            continue
        only = _NEUTRAL.get(name)
        takes = f"takes {only[0]!r} alone" if only else "is none that it takes"
        raise _refused(f"this server's own engine answers, for which `{name}` {takes}; an upstream may do it", name)


def check_messages(messages: list[dict[str, Any]]) -> None:
    """Refuse what is no text: images, calls of tools and their results.

    Raises:
        ApiError: if there is such a thing; names the message.
    """
    for index, message in enumerate(messages):
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            kind = part.get("type") if isinstance(part, Mapping) else part
            if kind != "text":
                raise _refused(f"this server's LLM reads text alone, was: {kind!r:.80}", f"messages.{index}.content")
        for name in ("tool_calls", "function_call", "audio"):
            if message.get(name):
                raise _refused(f"this server's LLM calls no tools and speaks text alone: `{name}`", f"messages.{index}")


def sampling(body: ChatBody | CompletionBody, most: int, room: int | None) -> SamplingOptions:
    """How to answer.

    Args:
        body: the request.
        most: most tokens of an answer.
        room: most tokens that the LLM can read and write together; None for any number.

    Raises:
        ApiError: if something is out of its range.
    """
    name, limit = "max_tokens", body.max_tokens
    if isinstance(body, ChatBody) and body.max_completion_tokens is not None:
        name, limit = "max_completion_tokens", body.max_completion_tokens
    if limit is not None and not 1 <= limit <= most:
        raise _out_of_range(f"`{name}` must be from 1 to {most} here (`answer_tokens`), was: {limit}", name)
    if body.temperature is not None and not 0 <= body.temperature <= 2:
        raise _out_of_range(f"`temperature` must be from 0 to 2, was: {body.temperature}", "temperature")
    if isinstance(body.stop, list) and len(body.stop) > _MOST_STOPS:
        raise _out_of_range(f"`stop` may be {_MOST_STOPS} texts, was: {len(body.stop)}", "stop")
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    default = most if room is None else max(1, min(most, room // 2))
    try:
        return SamplingOptions(
            max_new_tokens=default if limit is None else limit,
            temperature=body.temperature or 0.0,
            top_p=1.0 if body.top_p is None else body.top_p,
            seed=None if body.seed is None else body.seed % _SEEDS,
            stop=stop,
            logprobs=_logprobs(body),
        )
    except InvalidOptionError as error:
        raise _out_of_range(str(error), None) from None


def _logprobs(body: ChatBody | CompletionBody) -> int | None:
    if isinstance(body, CompletionBody):
        return body.logprobs
    if body.top_logprobs is not None and not body.logprobs:
        raise _out_of_range("`top_logprobs` needs `logprobs`: true", "top_logprobs")
    return (body.top_logprobs or 0) if body.logprobs else None


def _refused(message: str, param: str) -> ApiError:
    return ApiError(400, message, code="unsupported", param=param)


def _out_of_range(message: str, param: str | None) -> ApiError:
    return ApiError(400, message, code="invalid_value", param=param)
