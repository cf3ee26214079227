"""The tokens of an answer become its text, and a stop string ends them.

Marks of thinking may be special tokens, which a tokenizer leaves out of a text: "analysis ... final 5". So an answer
that holds special tokens is read with them, and they go after its thinking has gone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from threading import Event
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.generation.streamers import BaseStreamer

from persona.llm.answers.text import answer_text, is_stopped, settled_text, without_thinking
from persona.protocols import Answer, GenerationOptions

_TOKENS_A_CHARACTER = 4
_BYTE = re.compile("<0x([0-9A-F]{2})>")
"""How SentencePiece writes a byte."""
_CLEANED = 6
"""Characters before the end of a text that decoding further tokens may still change, where spaces are cleaned up."""


class AnswerTokens:
    """Reads the tokens of answers, without those that end them.

    Args:
        tokenizer: of transformers.
        thinking_end: what ends the part for thinking that prompts open; None if they open none.
    """

    def __init__(self, tokenizer: Any, thinking_end: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._thinking_end = thinking_end
        added = tokenizer.added_tokens_decoder.items()
        self._special = {token.content: index for index, token in added if token.special}
        self._cleans = bool(getattr(tokenizer, "clean_up_tokenization_spaces", False))

    def answer(self, tokens: Sequence[int], options: GenerationOptions, *, held: bool = False) -> Answer:
        """The answer, without white space around it.

        Args:
            tokens: all that was written.
            options: how it was decoded.
            held: whether nothing but a choice could be written.
        """
        text, thinking_end, thought = self._read(tokens, options)
        stopped = len(tokens) < options.max_new_tokens or is_stopped(text, options, thinking_end=thinking_end)
        thought = thought or without_thinking(text, thinking_end) != text
        text = answer_text(text, options, thinking_end=thinking_end).strip()
        return Answer(text, "stop" if stopped else "length", "constrained" if held else "generate", thought)

    def settled(self, tokens: Sequence[int], options: GenerationOptions) -> str:
        """The beginning of the answer that stays whatever tokens follow."""
        text, thinking_end, _ = self._read(tokens, options)
        text = text.rstrip("\ufffd")  # a character of which bytes are missing
        if self._cleans:
            text = text[:-_CLEANED]
        return settled_text(text, options, thinking_end=thinking_end)

    def stopping(self, options: GenerationOptions, streamer: AnswerStreamer | None = None) -> StoppingCriteriaList:
        """What ends rows of a greedy generation at a stop string, or a stream; beams are cut afterwards."""
        stops: list[Any] = [_StopStrings(self, options)] if options.stop and options.num_beams == 1 else []
        return StoppingCriteriaList([*stops, *([] if streamer is None else [StopWhen(streamer.left.is_set)])])

    def is_stopped(self, tokens: Sequence[int], options: GenerationOptions) -> bool:
        """Whether the answer holds a stop string that its last token has completed."""
        if tokens[-1] in self._stop_ids(options):
            return True
        tail = tokens[-_TOKENS_A_CHARACTER * (max(map(len, options.stop)) + 1) :]
        written = str(self._tokenizer.decode(list(tail), skip_special_tokens=True))
        if not any(stop in written for stop in options.stop):
            return False
        text, thinking_end, _ = self._read(tokens, options)
        return is_stopped(text, options, thinking_end=thinking_end)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for in a text; it may be a part of a character."""
        # The second of two, since decoders leave out the space in front of a text.
        text = self._decoded([token] * 2, special=True)[len(self._decoded([token], special=True)) :]
        if "\ufffd" not in text:
            return text.encode()
        piece = str(self._tokenizer.convert_ids_to_tokens(token))
        if (one := _BYTE.fullmatch(piece)) is not None:
            return bytes([int(one[1], 16)])
        return bytes(byte for letter in piece if (byte := _byte_letters().get(letter)) is not None) or text.encode()

    def _read(self, tokens: Sequence[int], options: GenerationOptions) -> tuple[str, str | None, bool]:
        """What was written, what ends a part for thinking in it, and whether such a part is left out already."""
        stops = self._stop_ids(options)
        tokens = tokens[: next((index for index, token in enumerate(tokens) if token in stops), len(tokens))]
        if not options.raw and not set(self._special.values()).isdisjoint(tokens):
            marked = self._decoded(tokens, special=True)
            behind = without_thinking(marked, self._thinking_end)
            if behind != marked:
                for mark in self._special:
                    behind = behind.replace(mark, "")
                return behind.lstrip(), None, True
        return self._decoded(tokens, special=options.raw).lstrip(), self._thinking_end, False

    def _decoded(self, tokens: Sequence[int], *, special: bool) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=not special))

    def _stop_ids(self, options: GenerationOptions) -> list[int]:
        """Stop strings that are special tokens, which are in no text."""
        return [self._special[stop] for stop in options.stop if stop in self._special]


@cache
def _byte_letters() -> dict[str, int]:
    """The letters that byte-level tokenizers write bytes with."""
    letters: Any = bytes_to_unicode
    return {letter: byte for byte, letter in letters().items()}


class _StopStrings(StoppingCriteria):
    """Ends a row when a stop string stands in its answer."""

    def __init__(self, written: AnswerTokens, options: GenerationOptions) -> None:
        self._written, self._options = written, options
        self._begin: int | None = None
        self._done: set[int] = set()

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """Which rows are done, bool.  # (rows,)"""
        if self._begin is None:
            self._begin = input_ids.shape[1] - 1
        for row, tokens in enumerate(input_ids[:, self._begin :].tolist()):
            if row not in self._done and self._written.is_stopped(tokens, self._options):
                self._done.add(row)
        return torch.tensor([row in self._done for row in range(len(input_ids))], device=input_ids.device)


class AnswerStreamer(BaseStreamer):
    """Gets the tokens of one answer from ``generate``, and hands over what has become certain of its text.

    Args:
        written: reads the tokens.
        options: how they are decoded.
        ends: ids of the tokens that end an answer.
        put: gets the pieces.
        left: set when nobody waits for them any more.
    """

    def __init__(
        self,
        written: AnswerTokens,
        options: GenerationOptions,
        ends: Sequence[int],
        put: Callable[[str], None],
        left: Event,
    ) -> None:
        self.left = left
        self._written, self._options, self._ends, self._put = written, options, frozenset(ends), put
        self._tokens: list[int] | None = None
        self.shown = ""

    def put(self, value: Tensor) -> None:
        """Take the tokens of a step; the first call brings what stands before the answer."""
        if self._tokens is None:
            self._tokens = []
            return
        # Of a blended answer there are two rows with the same token (`persona.llm.frozen.blending`).
        self._tokens += [token for token in value.flatten()[:1].tolist() if token not in self._ends]
        self._show(self._written.settled(self._tokens, self._options))

    def end(self) -> None:
        """Hand over the rest."""
        self._show(self._written.answer(self._tokens or [], self._options).text)

    def _show(self, text: str) -> None:
        if text.startswith(self.shown) and text != self.shown:
            piece, self.shown = text[len(self.shown) :], text
            self._put(piece)


class StopWhen(StoppingCriteria):
    """Ends all rows of a generation at the first step at which `ended` says so."""

    def __init__(self, ended: Callable[[], bool]) -> None:
        self._ended = ended

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """Which rows are done, bool.  # (rows,)"""
        return torch.full((len(input_ids),), self._ended(), dtype=torch.bool, device=input_ids.device)
