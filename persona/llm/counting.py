"""An LLM that answers nothing and counts what it is asked, for a dry run: how many requests and tokens it would be.

>>> from persona.llm.load import load_llm
>>> counting = counting_llm(load_llm(lambda prompt: "never called"))
>>> counting.generate([Request("How are you?")], GenerationOptions(max_new_tokens=2))
['... ...']
>>> counting.cost
Cost(requests=1, prompt_tokens=4, answer_tokens=2)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from persona.protocols import BoundedPrompt, GenerationOptions, LanguageModel, Message, Request, ScoresChoices

_WORD = "..."
_NAMES = ("channels", "fingerprint", "tokenizer")
_SETTINGS = ("chats", "constrains", "settings", "serves", "hidden_size", "encoder_decoder", "model", "frozen")
_TOKENS = ("special_tokens", "target_ids", "prompt_ids", "opening_ids", "refusal")
_READ = frozenset((*_NAMES, *_SETTINGS, *_TOKENS))
"""What is read of an LLM that is not asked."""


@dataclass(slots=True)
class Cost:
    """What is asked of an LLM.

    Attributes:
        requests: how many; one that is repeated after a failure counts once.
        prompt_tokens: of all requests, as the LLM's tokenizer counts them; that of an endpoint estimates them by words.
        answer_tokens: how many all answers have at most.
    """

    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0

    def __str__(self) -> str:
        return (
            f"{self.requests:,} requests, about {self.prompt_tokens:,} tokens in prompts and at most "
            f"{self.answer_tokens:,} in answers"
        )


class CountingLM:
    """Stands for another LLM, without asking it.

    Args:
        llm: what it stands for.

    Attributes:
        cost: what was asked.
    """

    channels: frozenset[str]
    fingerprint: str
    tokenizer: Any

    def __init__(self, llm: LanguageModel) -> None:
        self._llm = llm
        self.cost = Cost()

    def __getattr__(self, name: str) -> Any:
        if name not in _READ:  # never a way to ask it
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self._llm, name)

    def prompt_limit(self, options: GenerationOptions, turns: Sequence[Message] = ()) -> int | None:
        """That of the LLM, where it has one."""
        return self._llm.prompt_limit(options, turns) if isinstance(self._llm, BoundedPrompt) else None

    def generate(self, requests: Sequence[Request], options: GenerationOptions) -> list[str]:
        """For each request its first choice, or a text as long as the answer may be."""
        for request in _different(requests):
            self._count(request, options.max_new_tokens)
        written = " ".join([_WORD] * options.max_new_tokens)
        return [written if request.choices is None else request.choices.texts[0] for request in requests]

    def _count(self, request: Request, answer_tokens: int, times: int = 1) -> None:
        prompt = sum(self.tokenizer.count(text) for text in (*(each.content for each in request.turns), request.prompt))
        self.cost.requests += 1
        self.cost.prompt_tokens += prompt * times
        self.cost.answer_tokens += answer_tokens


class CountingScorer(CountingLM):
    """Stands for an LLM that scores choices; a request counts a prompt for each of them."""

    def choice_scores(self, requests: Sequence[Request]) -> list[list[float]]:
        """For each choice the same score."""
        for request in _different(requests):
            self._count(request, 0, len(_texts(request)))
            # An endpoint is first asked for the prompt's tokens.
            self.cost.requests += int(getattr(self._llm, "likelihoods", False))
        return [[0.0] * len(_texts(request)) for request in requests]


def counting_llm(llm: LanguageModel) -> CountingLM:
    """An LLM that stands for `llm` without asking it."""
    return CountingScorer(llm) if isinstance(llm, ScoresChoices) else CountingLM(llm)


def _different(requests: Sequence[Request]) -> list[Request]:
    """Equal requests of a batch are asked once."""
    return list(
        {
            (each.prompt, each.turns, each.choices, id(each.soft_prompt), id(each.steering)): each for each in requests
        }.values()
    )


def _texts(request: Request) -> tuple[str, ...]:
    return () if request.choices is None else request.choices.texts
