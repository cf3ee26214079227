"""What goes over the wire: a request in the fields of OpenAI's protocol, and an answer from its reply."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from persona.errors import EndpointError, GenerationError
from persona.llm.chat.messages import system_and_turns, transcript
from persona.llm.checks import check_answer
from persona.llm.endpoint.options import EndpointOptions
from persona.protocols import Answer, Finish, GenerationOptions, Request

OPENAI_HOST = "api.openai.com"

_FINISHES: dict[object, Finish] = {"length": "length", "max_tokens": "length", "content_filter": "refusal"}


def request_fields(
    request: Request,
    options: EndpointOptions,
    generation: GenerationOptions,
    url: str,
    further: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """The fields of a request, but for the model.

    Args:
        request: what is asked.
        options: how the endpoint is asked.
        generation: how it is to decode.
        url: of the endpoint.
        further: more fields; those of `options` replace them.
    """
    chat = options.endpoint == "chat"
    # OpenAI's newer models know the new name only, other servers often the old one only.
    limit = "max_completion_tokens" if chat and OPENAI_HOST in url else "max_tokens"
    prompt = {"messages": messages(request, options)} if chat else completion(request, options)
    own: dict[str, object] = {"temperature": 0, "seed": options.seed, limit: generation.max_new_tokens}
    # What holds an answer to choices says itself where it ends.
    own["stop"] = list(generation.stop) or None if not further else None
    template = options.chat_template_kwargs
    extra: dict[str, object] = {"chat_template_kwargs": dict(template)} if template else {}
    parts: tuple[Mapping[str, Any], ...] = (prompt, further, options.fields)
    for each in parts:
        extra |= each.get("extra_body", {})
    fields = {**prompt, **own, **further, **options.fields, **({"extra_body": extra} if extra else {})}
    return {name: value for name, value in fields.items() if value is not None}


def messages(request: Request, options: EndpointOptions) -> list[dict[str, Any]]:
    """The chat's turns; a soft prompt is a part of the first one."""
    system, earlier = system_and_turns(options.system, request.turns)
    turns: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
    turns += [{"role": turn.role, "content": turn.content} for turn in earlier]
    turns.append({"role": "user", "content": request.prompt})
    if request.soft_prompt is not None:
        from persona.llm.inputs import message_parts

        text, first = turns[0]["content"], _soft_prompt_first(options)
        turns[0]["content"] = message_parts(request.soft_prompt, text, first=first)
    return turns


def completion(request: Request, options: EndpointOptions) -> dict[str, Any]:
    """The fields of a completion's prompt."""
    system = "" if options.system is None else f"{options.system}\n\n"
    prompt = transcript(request.turns, request.prompt)
    if request.soft_prompt is None:
        return {"prompt": system + prompt}
    from persona.llm.inputs import embedded_prompt, wire_format

    assert options.embed is not None
    # Embedded in one go, so that the text has the tokens that it has without a soft prompt.
    text = options.embed(system + prompt)
    at = 0 if _soft_prompt_first(options) else len(options.embed(system))
    whole = embedded_prompt(request.soft_prompt, text, at)
    # The server wants a prompt beside the embeddings; an empty one adds nothing.
    return {"prompt": "", "extra_body": {"prompt_embeds": wire_format(whole)}}


def _soft_prompt_first(options: EndpointOptions) -> bool:
    return options.soft_prompt == "before" or options.system is None


def read_piece(chunk: Any) -> tuple[str, Finish | None]:
    """The text in a chunk of a reply that comes in pieces, and how the answer ended, if it has."""
    choice = next(iter(chunk.choices or ()), None)
    if choice is None:
        return "", None
    delta = getattr(choice, "delta", None)
    text = choice.text if delta is None else delta.content or getattr(delta, "refusal", None)
    finish = None if choice.finish_reason is None else _FINISHES.get(choice.finish_reason, "stop")
    return text or "", "refusal" if getattr(delta, "refusal", None) else finish


def read_answer(reply: Any, name: str, max_new_tokens: int) -> Answer:
    """The answer in a reply, which may be of any form.

    Args:
        reply: a chat's turn or a completion, as the client gives it.
        name: what messages call the endpoint.
        max_new_tokens: what was asked for.

    Raises:
        GenerationError: if it is a page, there is no text in it, or none that UTF-8 can hold.
        AttributeError, LookupError, TypeError: if it is of another form.
    """
    if isinstance(reply, str):
        raise EndpointError(f"{name} sent a page in place of an answer: addresses usually end in /v1")
    choice = reply.choices[0]
    finish = _FINISHES.get(choice.finish_reason, "stop")
    message = getattr(choice, "message", None)
    text = choice.text if message is None else message.content
    refusal = getattr(message, "refusal", None)
    if refusal and not text:
        return Answer(check_answer(refusal, name), "refusal")
    if text is None and finish == "stop":
        raise GenerationError(
            f"{name} answered without text: a model that thinks may need a higher `max_new_tokens`, "
            f"was: {max_new_tokens}"
        )
    return Answer(check_answer(text or "", name), finish)
