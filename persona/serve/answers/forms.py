"""Answers of the engine in the forms of the two endpoints: whole, and in chunks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from persona.llm.continuous.sampling import Piece, TokenScore, Written
from persona.protocols import Finish

_FINISHES: Mapping[Finish, str] = {"stop": "stop", "length": "length", "refusal": "content_filter"}


class Form(ABC):
    """How an endpoint words answers.

    Args:
        scored: whether log-probabilities are wanted.
    """

    prefix: str
    whole_object: str
    chunk_object: str

    def __init__(self, scored: bool) -> None:
        self._scored = scored
        self._at = 0

    @abstractmethod
    def opened(self) -> list[dict[str, Any]]:
        """The choices of a chunk before the first piece; none for no such chunk."""

    @abstractmethod
    def piece(self, piece: Piece) -> dict[str, Any]:
        """The choice of a chunk."""

    @abstractmethod
    def ended(self, written: Written) -> dict[str, Any]:
        """The choice of the chunk that ends the answer."""

    @abstractmethod
    def whole(self, written: Written) -> dict[str, Any]:
        """The choice of a whole answer."""


class ChatForm(Form):
    """Of /v1/chat/completions."""

    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def opened(self) -> list[dict[str, Any]]:
        """The role of who answers."""
        return [_choice(delta={"role": "assistant", "content": ""})]

    def piece(self, piece: Piece) -> dict[str, Any]:
        """A delta."""
        return _choice(delta={"content": piece.text}, logprobs=self._logprobs(piece.scores))

    def ended(self, written: Written) -> dict[str, Any]:
        """An empty delta."""
        return _choice(_FINISHES[written.finish], delta={})

    def whole(self, written: Written) -> dict[str, Any]:
        """A message."""
        message = {"role": "assistant", "content": written.text, "refusal": None}
        return _choice(_FINISHES[written.finish], message=message, logprobs=self._logprobs(written.scores))

    def _logprobs(self, scores: Sequence[TokenScore]) -> dict[str, Any] | None:
        if not self._scored:
            return None
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

    def opened(self) -> list[dict[str, Any]]:
        """Nothing."""
        return []

    def piece(self, piece: Piece) -> dict[str, Any]:
        """A part of the text."""
        return _choice(text=piece.text, logprobs=self._logprobs(piece.scores))

    def ended(self, written: Written) -> dict[str, Any]:
        """No more text."""
        return _choice(_FINISHES[written.finish], text="")

    def whole(self, written: Written) -> dict[str, Any]:
        """The text."""
        return _choice(_FINISHES[written.finish], text=written.text, logprobs=self._logprobs(written.scores))

    def _logprobs(self, scores: Sequence[TokenScore]) -> dict[str, Any] | None:
        if not self._scored:
            return None
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


def _choice(finish: str | None = None, *, logprobs: dict[str, Any] | None = None, **content: Any) -> dict[str, Any]:
    return {"index": 0, **content, "logprobs": logprobs, "finish_reason": finish}
