"""The checks that every language model makes on its requests and options, before it does any work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from persona.channels import check_way
from persona.errors import GenerationError, InvalidOptionError, check_one_of
from persona.llm.chat.messages import check_turns
from persona.protocols import ADAPTER, ANSWERS, LIFTS, SOFT_PROMPT, STEERING, GenerationOptions, LanguageModel, Request

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

MOST_BEAMS = 256
"""Beams at most: each takes the memory of a prompt of its own."""

_SEEDS = 2**62


def check_requests(requests: Sequence[Request], llm: LanguageModel) -> None:
    """Refuse requests that the LLM cannot take, or whose prompt or turns are no text.

    Raises:
        UnsupportedChannelError: if a request needs what `llm` does not take.
        InvalidOptionError: as in `check_prompt`.
    """
    for index, request in enumerate(requests):
        where = f" (request {index})"
        check_prompt(request.prompt, where)
        check_turns(request.turns, where)
        for turn in request.turns:
            check_prompt(turn.content, where)
        needed = (
            (SOFT_PROMPT, request.soft_prompt is not None),
            (ADAPTER, request.adapter is not None),
            (LIFTS, bool(request.lifts)),
            (STEERING, bool(request.steering)),
        )
        for way, used in needed:
            if used:
                check_way(llm, way, f"request {index}")


def collected(each: Iterable[tuple[int, T | GenerationError]], count: int) -> list[T]:
    """Answers to `count` requests that come with their index, in order.

    Raises:
        GenerationError: the first one among them, or one of our own if not every request was answered.
    """
    found: dict[int, T] = {}
    for index, answer in each:
        if isinstance(answer, GenerationError):
            raise answer
        found[index] = answer
    if len(found) < count:  # else an answer would go to whoever asked something else
        raise GenerationError(f"each of {count} requests must be answered, answers came to: {len(found)}")
    return [found[index] for index in range(count)]


def check_prompt(prompt: object, where: str = "") -> None:
    """Refuse a prompt that no tokenizer and no endpoint can take; `where` says which one it is.

    Raises:
        InvalidOptionError: if it is no string, or holds a lone surrogate: what Python makes of bytes that are not UTF-8
            on a command line or in stdin.
    """
    if not isinstance(prompt, str):
        raise InvalidOptionError(f"a prompt must be a string, was: {type(prompt).__name__}{where}")
    if (half := _half_character(prompt)) is not None:
        raise InvalidOptionError(f"a prompt must be UTF-8 text, and holds {half}{where}")


def check_answer(text: object, llm: str) -> str:
    """`text`, if an answer can be that.

    Raises:
        GenerationError: if it is no text, or holds half a character (a lone surrogate), which no file and no terminal
            can take.
    """
    if not isinstance(text, str):
        raise GenerationError(f"{llm} must answer with a text, answered: {type(text).__name__}")
    if (half := _half_character(text)) is not None:
        raise GenerationError(f"{llm} must answer with UTF-8 text, and its answer holds {half}")
    return text


def _half_character(text: str) -> str | None:
    """The first lone surrogate of a text and where it is; None if there is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"{text[error.start]!r} at character {error.start}"
    return None


def check_soft_prompt(vectors: torch.Tensor, hidden_size: int | None, llm: str, index: int) -> None:
    """Refuse the soft prompt of request `index` if it does not fit an LLM whose embeddings have `hidden_size` numbers.

    Raises:
        InvalidOptionError: if it is not of floats in the shape (tokens, hidden_size), or one is not finite.
    """
    if vectors.ndim != 2 or vectors.shape[1] != hidden_size or not vectors.is_floating_point():
        raise InvalidOptionError(
            f"a soft prompt for {llm} must be of floats in the shape (tokens, {hidden_size}), was: "
            f"{vectors.dtype} in {tuple(vectors.shape)} (request {index})"
        )
    if not bool(vectors.isfinite().all()):
        raise InvalidOptionError(f"a soft prompt must hold finite numbers only (request {index})")


def placed(vectors: torch.Tensor | None, embeddings: torch.Tensor, llm: str, index: int) -> torch.Tensor | None:
    """A soft prompt, checked, on the device of an LLM's embeddings and in their type; None if it has no vectors."""
    if vectors is None:
        return None
    check_soft_prompt(vectors, embeddings.shape[1], llm, index)
    return vectors.detach().to(embeddings.device, embeddings.dtype) if len(vectors) else None


def check_seed(seed: int) -> int:
    """`seed`, if torch and numpy take it.

    Raises:
        InvalidOptionError: if not.
    """
    if not 0 <= seed < _SEEDS:
        raise InvalidOptionError(f"`seed` must be from 0 to {_SEEDS - 1}, was: {seed}")
    return seed


def check_options(options: GenerationOptions, *, only_text: str | None = None) -> None:
    """Refuse decoding options out of their range.

    Args:
        options: how to decode.
        only_text: the name of an LLM that gives its likeliest text and no scores; None for one that gives scores.

    Raises:
        InvalidOptionError: if a number is below 1, there are more than `MOST_BEAMS` beams, there is no such way to
            answer, or an LLM that gives text only is asked for beams.
    """
    check_one_of(ANSWERS, answers=options.answers)
    if not isinstance(options.stop, tuple | list) or not all(isinstance(stop, str) and stop for stop in options.stop):
        raise InvalidOptionError(f"`stop` must be a tuple of texts, none of them empty, was: {options.stop!r:.80}")
    for name in ("max_new_tokens", "num_beams"):
        value = getattr(options, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InvalidOptionError(f"`{name}` must be a whole number of at least 1, was: {value!r}")
    if options.num_beams > MOST_BEAMS:
        raise InvalidOptionError(f"`num_beams` must be at most {MOST_BEAMS}, was: {options.num_beams}")
    if only_text is not None and options.num_beams > 1:
        raise InvalidOptionError(
            f"beam search needs a transformers model; the LLM {only_text} can do `num_beams=1` only, "
            f"was: {options.num_beams}"
        )
