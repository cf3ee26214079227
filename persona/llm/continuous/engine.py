"""An engine that answers many requests at once, each with its own soft prompt, adapter, length and sampling.

::

    with AdapterPool(bank, llm), Engine(llm) as engine:
        ticket = engine.submit(Request("...", soft_prompt=vectors, adapter="ana@3"), SamplingOptions(), client="ana")
        async for piece in ticket: ...

One thread computes. Between two steps of the running batch it takes the requests that wait, reads their prompts as a
small batch of their own, and puts them into slots of the cache (`persona.llm.continuous.slots`); a row that has ended,
was cancelled or has lost its adapter leaves. Whoever else asks the model is served between two steps.

transformers has a continuous batching of its own, which this would rest on: its requests are token ids alone, so it
takes neither a soft prompt's vectors nor an adapter for each request, and it packs all rows into one without saying
which position is whose, so neither can be put in by a hook. It also has its own attention, set in the model's config,
which here stays as it is.

A request gets the tokens that `TransformersLM.generate` gives it alone: at temperature 0 exactly, up to the rounding of
the model's type where two tokens are nearly equally likely (`persona.llm.decoding`). A model whose rows cannot come and
go (`Engine.alone` says why) answers one request after another, with the same queue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from threading import Condition, Thread
from time import monotonic
from typing import Self

from persona.caches import register
from persona.errors import (
    BusyError,
    GenerationError,
    InvalidOptionError,
    PersonaError,
    UnsupportedChannelError,
    check_least,
)
from persona.llm.continuous.batch import Batch, fit_slots, read_prompts, write_alone
from persona.llm.continuous.fair import FairQueue
from persona.llm.continuous.row import Row
from persona.llm.continuous.sampling import SamplingOptions
from persona.llm.continuous.ticket import Ticket
from persona.llm.inputs import Batching
from persona.llm.transformers import TransformersLM
from persona.llm.weights.quantized import mixes_rows
from persona.protocols import GenerationOptions, Request

_RULES = ("forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids")
_SIMILAR = 1.25
"""Prompts are read together whose longest is at most so many times as long as the shortest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What bounds an engine; each number is at least 1.

    Attributes:
        rows: most requests that are computed at once.
        waiting: most that wait; a further one is refused.
        waiting_of_client: most of one client that wait.
        tokens: most tokens that the requests in the batch may have together: prompts, soft prompts and longest answers.
        read_tokens: after so many prompt tokens no further prompt is read before the next step.
        max_new_tokens: longest answer that may be asked for.
    """

    rows: int = 16
    waiting: int = 256
    waiting_of_client: int = 64
    tokens: int = 32768
    read_tokens: int = 1024
    max_new_tokens: int = 2048

    def __post_init__(self) -> None:
        check_least(1, **asdict(self))


class Engine:
    """Answers requests with a transformers model, in a thread of its own until it is closed.

    Args:
        llm: the frozen model. An `AdapterPool` on it is opened before and closed after the engine.
        options: limits.
        on_step: called after each step with the number of running requests, in the engine's thread; must not raise.

    Attributes:
        llm, options: as given.
        alone: why requests are answered one after another; None where they share a batch.

    Raises:
        UnsupportedChannelError: if `llm` is no transformers model, or blends its answers.
    """

    def __init__(
        self,
        llm: TransformersLM,
        options: EngineOptions | None = None,
        *,
        on_step: Callable[[int], None] = lambda rows: None,
    ) -> None:
        if not isinstance(llm, TransformersLM):
            raise UnsupportedChannelError(f"an engine needs a transformers model, was: {llm!r:.80}")
        if llm.options.blend is not None:
            raise UnsupportedChannelError("an engine computes one row for a request, `blend` takes two: leave it out")
        self.llm, self.options, self.alone = llm, options or EngineOptions(), _alone(llm)
        self._on_step = on_step
        self._changed = Condition()
        self._queue: FairQueue[Row] = FairQueue()
        self._running: list[Row] = []
        self._batches: list[Batch] = []
        self._weights = sum(weight.numel() * weight.element_size() for weight in llm.model.parameters())
        self._seconds = 1.0  # that a request takes, about
        self._closed = False
        self._thread = Thread(target=self._work, name="persona-engine", daemon=True)
        self._thread.start()
        register(self, "answers being written")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Requests that are answered now."""
        return len(self._running)

    def submit(
        self, request: Request, options: SamplingOptions, *, client: str = "", user_id: str | None = None
    ) -> Ticket:
        """Queue a request; its choices are not read, it is answered in the model's own words.

        Args:
            request: what is asked.
            options: how it is answered.
            client: among whom turns are shared out, e.g. by API key.
            user_id: whose request it is, for `drop`; None for nobody's.

        Raises:
            BusyError: if too many requests wait, of all or of this client.
            InvalidOptionError, UnsupportedChannelError: as `TransformersLM.generate`, and if it is over a limit.
            GenerationError: if the engine is closed.

        Reading the ticket raises UnknownAdapterError if the bank has the request's adapter no more, and GenerationError
        if the model fails, the request was cancelled or dropped, or the engine was closed before the answer's end.
        """
        most = self.options.max_new_tokens
        if options.max_new_tokens > most:
            raise InvalidOptionError(f"`max_new_tokens` must be at most {most} here, was: {options.max_new_tokens}")
        with self._changed:
            self._check_room(client)
        (read,) = self.llm.inputs([request], options.generation)
        row = Row(read, options, self.llm, self._cancel, client=client, user_id=user_id)
        if row.most_tokens > self.options.tokens:
            raise InvalidOptionError(
                f"prompt and answer may have {self.options.tokens} tokens here, were: {len(read)} and "
                f"{options.max_new_tokens}"
            )
        with self._changed:
            self._check_room(client)
            self._queue.put(client, row, row.most_tokens)
            self._changed.notify_all()
        return row.ticket

    def drop(self, user_id: str) -> int:
        """End the requests of a user and overwrite their part of the cache; returns how many there were.

        Whoever forgets the user calls it (`persona.caches`).
        """
        with self._changed:
            rows = [row for row in self._rows() if row.user_id == user_id]
            for row in rows:
                self._end(row, GenerationError("the request's user was forgotten"))
            self._changed.wait_for(lambda: not any(row in self._running for row in rows))
        return len(rows)

    def close(self, *, drain: float = 0.0) -> None:
        """Take no more requests; those that are here have `drain` seconds to end, then they end with an error."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._running and not self._queue, timeout=drain)
            for row in self._rows():
                self._end(row, GenerationError("the engine was closed before the answer's end"))
        self._thread.join()

    def _check_room(self, client: str) -> None:
        if self._closed:
            raise GenerationError("the engine is closed, and takes no more requests")
        options = self.options
        for waiting, most, whose in (
            (len(self._queue), options.waiting, ""),
            (self._queue.waiting(client), options.waiting_of_client, " of this client"),
        ):
            if waiting >= most:
                seconds = max(1, ceil(waiting / options.rows * self._seconds))
                raise BusyError(
                    f"at most {most} requests{whose} may wait, and as many do: ask again in {seconds} seconds",
                    retry_after=seconds,
                )

    def _cancel(self, row: Row) -> None:
        with self._changed:
            self._end(row, GenerationError("the request was cancelled"))

    def _end(self, row: Row, error: PersonaError) -> None:
        """End a row: at once if it waits, else at the next step; the lock is held."""
        if self._queue.remove(row.client, row):
            row.end(error)
        else:
            row.leaving = error
        self._changed.notify_all()

    def _rows(self) -> list[Row]:
        """Those that run and those that wait."""
        return [*self._running, *self._queue.all()]

    def _work(self) -> None:
        """What the thread does."""
        error: BaseException | None = None
        try:
            while self._waits():
                with self.llm.computing():
                    while True:
                        self._compute(self._taken())
                        self._settle()
                        self._on_step(self.running)
                        # To freeze a model for each step anew would take up to a tenth of its time.
                        if self.llm.turns.wanted or not self._rows():
                            break
        except BaseException as unforeseen:
            error = unforeseen
            raise
        finally:  # nobody may wait for ever
            with self._changed:
                self._closed = True
                for row in self._rows():
                    row.end(error)
                self._queue, self._batches, self._running = FairQueue(), [], []
                self._changed.notify_all()

    def _waits(self) -> bool:
        """Wait for something to do; returns whether there will be any."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._running or self._closed)
            return bool(self._queue or self._running)

    def _taken(self) -> list[Row]:
        """The requests that begin now."""
        with self._changed:
            rows: list[Row] = []
            read, held = 0, sum(row.most_tokens for row in self._running)
            most = self.options.rows if self.alone is None else 1
            while len(self._running) < most and (row := self._queue.first()) is not None:
                read, held = read + len(row.input), held + row.most_tokens
                if held > self.options.tokens or (rows and read > self.options.read_tokens):
                    break
                row.began = monotonic()
                rows.append(self._queue.take())
                self._running.append(row)
            return rows

    def _compute(self, rows: Sequence[Row]) -> None:
        """Read the prompts of rows that begin, and write a token of each row."""
        if self.alone is not None:
            for row in rows:
                write_alone(self.llm, row)
            return
        for row in rows:
            if row.leaving is not None:
                row.end(row.leaving)
        for batch in self._batches:
            batch.remove_ended()
        for group in self._groups([row for row in rows if not row.ticket.ended]):
            self._begin(group)
        for batch in self._batches:
            batch.step()
        self._batches = [batch for batch in self._batches if batch.rows]

    def _groups(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Rows whose prompts are about equally long, and which can have their adapters together."""
        groups: list[list[Row]] = []
        for row in sorted(rows, key=lambda row: len(row.input)):
            group = groups[-1] if groups else []
            if group and len(row.input) <= _SIMILAR * len(group[0].input) and fit_slots(self.llm, [*group, row]):
                group.append(row)
            else:
                groups.append([row])
        return groups

    def _begin(self, rows: list[Row]) -> None:
        """Read prompts and put their rows into a batch. If a prompt cannot be read, the others are read alone."""
        try:
            if (read := read_prompts(self.llm, rows)) is None:
                return
            fitting = (batch for batch in self._batches if batch.rows and batch.has_room(read[0], self._weights))
            if (batch := next(fitting, None)) is None:
                batch = Batch(self.llm)
                self._batches.append(batch)
            batch.join(*read)
        except Exception as error:  # models raise whatever they like
            begun = any(row.ticket.ended or row.ticket.tokens for row in rows)
            for row in rows:
                if begun or len(rows) == 1:
                    row.end(error)
                else:
                    self._begin([row])

    def _settle(self) -> None:
        """Take the rows that have ended off the books."""
        with self._changed:
            for row in [row for row in self._running if row.ticket.ended]:
                self._running.remove(row)
                self._queue.give_back(row.client, row.most_tokens - row.tokens)
                self._seconds += 0.1 * (monotonic() - row.began - self._seconds)
                self._changed.notify_all()


def _alone(llm: TransformersLM) -> str | None:
    """Why the model's requests are answered one after another; None if they can share a batch and come and go."""
    if llm.encoder_decoder:
        return "it reads in an encoder and writes in a decoder"
    if mixes_rows(llm.model):
        return "its quantised layers compute a row by its neighbours"
    if llm.probe.batching is not Batching.PADDED:
        return f"requests that may share a batch: {llm.probe.batching.value}"
    rules = llm.frozen.rules(GenerationOptions(1))
    if named := [name for name in _RULES if getattr(rules, name, None)]:
        return f"its generation config has {', '.join(named)}"
    return None if llm.probe.keeps_positions else "it cannot go on from the keys and values of all positions alone"
