"""Answers in pieces, as they are written: from any LLM, without thinking, stop strings and emphasis in them.

>>> from persona.llm.tokenizers import WhitespaceTokenizer
>>> class Typist:
...     channels, fingerprint, tokenizer, chats = frozenset({"text"}), "typist", WhitespaceTokenizer(), False
...     def stream(self, request, options):
...         yield from ("<think>Four?</think>", "5 st", "ars", " END", " and more")
>>> list(pieces_of(Typist(), Request("How many?"), GenerationOptions(stop=("END",))))
['5 st', 'ars', ' ', Answer(text='5 stars ', finish='stop', mode='generate', thought=True)]

What is handed over is never taken back: a piece comes when it is certain that it belongs to the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import replace
from queue import SimpleQueue
from threading import Event, Thread
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

from persona.errors import GenerationError
from persona.llm.answers.modes import answer_mode, answers, told_turns
from persona.llm.answers.text import is_stopped, settled_text, told
from persona.llm.checks import check_answer
from persona.protocols import Answer, GenerationOptions, LanguageModel, Request

T = TypeVar("T")
Put: TypeAlias = Callable[[T], None]


@runtime_checkable
class WritesInPieces(Protocol):
    """A `LanguageModel` that hands over an answer while it is written."""

    def stream(self, request: Request, options: GenerationOptions) -> Iterator[str | Answer]:
        """What is written, in pieces; at the end, if the LLM knows more than their sum, the whole `Answer`.

        Errors as in `generate`. Whoever stops early closes it, and nothing more is written.
        """
        ...


def pieces_of(llm: LanguageModel, request: Request, options: GenerationOptions) -> Iterator[str | Answer]:
    """The answer to a request, in pieces, and at the end the whole of it, as `persona.llm.answers.modes` gives it.

    An LLM that writes no pieces, a beam search, and an answer by choices are one piece.

    Raises:
        UnsupportedChannelError: if the request uses a channel that the LLM does not take.
        GenerationError: if the LLM does not answer, or breaks off.
    """
    chosen = request.choices is not None and answer_mode(llm, options) != "generate"
    if chosen or options.num_beams > 1 or not isinstance(llm, WritesInPieces):
        ((_, answer),) = answers(llm, [request], options)
        if isinstance(answer, GenerationError):
            raise answer
        if answer.text:
            yield answer.text
        yield answer
        return
    (request,) = told_turns(llm, [request])
    written = shown = ""
    whole = None
    with ExitStack() as stack:
        pieces = llm.stream(request, replace(options, answers="generate"))
        if isinstance(pieces, Generator):
            stack.enter_context(closing(pieces))
        for piece in pieces:
            if isinstance(piece, Answer):
                whole = piece
                break
            written += check_answer(piece, llm.fingerprint)
            settled = settled_text(written, options)
            if settled.startswith(shown) and settled != shown:
                yield settled[len(shown) :]
                shown = settled
            if is_stopped(written, options):
                break
    whole = whole or Answer(written)
    check_answer(whole.text, llm.fingerprint)
    whole = told(whole, options)
    if whole.text.startswith(shown) and whole.text != shown:
        yield whole.text[len(shown) :]
    yield whole


def from_thread(work: Callable[[Put[T], Event], None]) -> Iterator[T]:
    """What `work` puts, as it comes, and then what it raises; it runs in a thread of its own.

    Args:
        work: gets a function that hands over an item, and what is set when nobody waits for more.
    """
    arrived: SimpleQueue[tuple[T] | None] = SimpleQueue()
    left = Event()
    working = _in_thread(lambda: work(lambda item: arrived.put((item,)), left))
    working.add_done_callback(lambda done: arrived.put(None))
    try:
        while (item := arrived.get()) is not None:
            yield item[0]
        working.result()
    finally:
        left.set()
        wait([working])


async def awaited(items: Iterator[T]) -> AsyncGenerator[T, None]:
    """The items of an iterator that blocks, for an event loop that must not; all of it runs in one thread."""
    here, left = asyncio.get_running_loop(), Event()
    arrived: asyncio.Queue[tuple[T] | None] = asyncio.Queue()

    def put(item: tuple[T] | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            here.call_soon_threadsafe(arrived.put_nowait, item)

    def work() -> None:
        with closing(items) if isinstance(items, Generator) else nullcontext():
            for item in items:
                if left.is_set():
                    break
                put((item,))

    working = _in_thread(work)
    working.add_done_callback(lambda done: put(None))
    try:
        while (item := await arrived.get()) is not None:
            yield item[0]
        working.result()
    finally:
        left.set()


def _in_thread(work: Callable[[], None]) -> Future[None]:
    """`work` in a thread that the end of the program does not wait for, as it would for an executor's."""
    working: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            working.set_exception(error)
        else:
            working.set_result(None)

    Thread(target=run, name="persona-stream", daemon=True).start()
    return working
