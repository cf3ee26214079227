"""Answers of the engine in the forms of the two endpoints: whole, and in chunks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from persona.llm.continuous.sampling import Piece, TokenScore, Written
from persona.protocols import Finish

_FINISHES: Mapping[Finish, str] = {"stop": "stop", "length": "length", "refusal": "content_filter"}


class Form(ABC):
    """How an endpoint words answers.

    Args:
        scored: whether log-probabilities are wanted.

    Attributes:
        first: what a chunk before the first piece holds; empty for no such chunk.
        last: what the chunk that ends the answer holds.
    """

    prefix: str
    whole_object: str
    chunk_object: str
    first: ClassVar[Mapping[str, Any]] = {}
    last: ClassVar[Mapping[str, Any]]

    def __init__(self, scored: bool) -> None:
        self._scored = scored

    def opened(self) -> list[dict[str, Any]]:
        """The choices of the chunk before the first piece."""
        return [_choice(self.first)] if self.first else []

    def piece(self, piece: Piece) -> dict[str, Any]:
        """The choice of a chunk."""
        return _choice(self.part(piece.text), logprobs=self.logprobs(piece.scores) if self._scored else None)

    def ended(self, written: Written) -> dict[str, Any]:
        """The choice of the chunk that ends the answer."""
        return _choice(self.last, _FINISHES[written.finish])

    def whole(self, written: Written) -> dict[str, Any]:
        """The choice of a whole answer."""
        logprobs = self.logprobs(written.scores) if self._scored else None
        return _choice(self.answer(written.text), _FINISHES[written.finish], logprobs)

    @abstractmethod
    def part(self, text: str) -> dict[str, Any]:
        """What a chunk has of the text."""

    @abstractmethod
    def answer(self, text: str) -> dict[str, Any]:
        """The whole text."""

    @abstractmethod
    def logprobs(self, scores: Sequence[TokenScore]) -> dict[str, Any]:
        """What an answer, or the next part of it, says of its tokens."""


class ChatForm(Form):
    """Of /v1/chat/completions."""

    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    first: ClassVar[Mapping[str, Any]] = {"delta": {"role": "assistant", "content": ""}}
    last: ClassVar[Mapping[str, Any]] = {"delta": {}}

    def part(self, text: str) -> dict[str, Any]:
        """A delta."""
        return {"delta": {"content": text}}

    def answer(self, text: str) -> dict[str, Any]:
        """A message."""
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def logprobs(self, scores: Sequence[TokenScore]) -> dict[str, Any]:
        """Of each token its own, and those of the alternatives."""
        tokens = [
            {
                "token": score.text,
                "logprob": score.logprob,
                "bytes": list(score.bytes),
                "top_logprobs": [
                    {"token": text, "logprob": logprob, "bytes": list(text.encode())} for text, logprob in score.top
                ],
            }
            for score in scores
        ]
        return {"content": tokens, "refusal": None}


class CompletionForm(Form):
    """Of /v1/completions."""

    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"
    last: ClassVar[Mapping[str, Any]] = {"text": ""}
    _at = 0

    def part(self, text: str) -> dict[str, Any]:
        """A part of the text."""
        return {"text": text}

    answer = part

    def logprobs(self, scores: Sequence[TokenScore]) -> dict[str, Any]:
        """Lists over the tokens; offsets go on from part to part."""
        offsets = []
        for score in scores:
            offsets.append(self._at)
            self._at += len(score.text)
        return {
            "tokens": [score.text for score in scores],
            "token_logprobs": [score.logprob for score in scores],
            "top_logprobs": [dict(score.top) for score in scores],
            "text_offset": offsets,
        }


def _choice(
    content: Mapping[str, Any], finish: str | None = None, logprobs: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {"index": 0, **content, "logprobs": logprobs, "finish_reason": finish}
