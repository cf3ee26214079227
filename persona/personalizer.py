"""One request, from a user id and a prompt to an answer: profile -> channels -> prompt -> frozen LLM.

>>> from persona import Personalizer, ProfileStore, Record, load_llm
>>> store = ProfileStore("sqlite:///persona.db")
>>> report = store.upsert([("critic-7", Record("Slow heist film in Lisbon.", target="5"))])
>>> personalizer = Personalizer(load_llm(lambda prompt: f"read: {prompt}"), store)
>>> answer = personalizer.generate("critic-7", "Would I like this heist film?")
>>> [scored.record.text for scored in answer.records], answer.channels
(['Slow heist film in Lisbon.'], ('records',))

A `Personalizer` takes its parts as objects and knows only their protocols; `persona.personalize` makes them by name.
Nothing else answers users' requests; an evaluation uses it as a server does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from persona.channels import Ask, Channel, Contribution, check_way, only, summed
from persona.errors import GenerationError, InvalidOptionError
from persona.generation import AnswerCheck, AsyncGenerationStream, Generation, GenerationStream, Prepared
from persona.llm.answers.modes import aanswers, answers
from persona.llm.answers.streams import awaited, pieces_of
from persona.llm.chat.messages import Conversation, conversation, with_personal_turns
from persona.llm.checks import check_options, check_prompt, collected
from persona.prompts import PROMPT, PromptBuilder
from persona.protocols import (
    ADAPTER,
    TEXT,
    AnswersAsync,
    BoundedPrompt,
    BuiltPrompt,
    Choices,
    GenerationOptions,
    LanguageModel,
    Request,
    ScoresChoices,
)
from persona.records import Profile, ScoredRecord, check_user_id

if TYPE_CHECKING:
    from persona.store.profile_store import ProfileStore


class Personalizer:
    """Answers prompts as if a frozen LLM knew the user.

    Args:
        llm: the frozen LLM.
        store: where the users' records are.
        channels: how knowledge of a user reaches the LLM; None retrieves the user's best 4 records (``bm25``), an empty
            sequence personalizes nothing.
        builder: puts records and notes in front of the prompt, or elsewhere, within a token budget; None makes one that
            counts the LLM's own tokens and uses the wording that the channels were trained with (`Channel.wording`).
        options: how to decode.
        query: the part of a prompt that records are searched by; None takes the question in it if the builder has the
            wording of a task, else all of it.
        checks: look at every answer before it is given out, e.g. `persona.generation.PersonalDataCheck`.

    Raises:
        InvalidOptionError: if a part is not what it should be, or `options` are out of range.
        UnsupportedChannelError: if the LLM cannot take one of the channels.
    """

    def __init__(
        self,
        llm: LanguageModel,
        store: ProfileStore,
        channels: Sequence[Channel] | None = None,
        *,
        builder: PromptBuilder | None = None,
        options: GenerationOptions | None = None,
        query: Callable[[str], str] | None = None,
        checks: Sequence[AnswerCheck] = (),
    ) -> None:
        _check_part("llm", llm, ("channels", "tokenizer", "generate"), "make one with `persona.load_llm`")
        _check_part("store", store, ("profile",), "open one with `persona.ProfileStore`")
        if channels is None:
            from persona.retrievers.channel import RecordsChannel

            channels = (RecordsChannel(),)
        _check_channels(llm, channels)
        if query is not None and not callable(query):
            raise InvalidOptionError(f"`query` must be a function from a prompt to a query, was: {query!r:.80}")
        check_options(options or GenerationOptions())
        wording = next((channel.wording for channel in channels if channel.wording is not None), None)
        self.llm = llm
        self.store = store
        self.channels = tuple(channels)
        self.builder = builder or PromptBuilder.of(llm, wording=wording)
        _check_placement(llm, self.builder)
        self.options = options or GenerationOptions()
        self.checks = tuple(checks)
        self._query = query or (self.builder.wording.query if self.builder.wording is not None else str)

    def answering(self, way: str) -> Personalizer:
        """A personalizer like this one that answers requests with choices in another way.

        Args:
            way: one of `persona.protocols.ANSWERS`.
        """
        return self.changed(options=replace(self.options, answers=way))

    def _choosing(self, choices: object) -> Personalizer:
        """One that chooses among choices that are given by likelihood, where nothing else is asked for."""
        return self.answering("likelihood") if choices is not None and self.options.answers == "auto" else self

    def changed(
        self, *, channels: Sequence[Channel] | None = None, options: GenerationOptions | None = None
    ) -> Personalizer:
        """A personalizer like this one with other channels or options; None leaves them. Errors as in the class."""
        return Personalizer(
            self.llm,
            self.store,
            self.channels if channels is None else channels,
            builder=self.builder,
            options=options or self.options,
            query=self._query,
            checks=self.checks,
        )

    def generate(
        self, user_id: str, prompt: Conversation, *, choices: Choices | Sequence[str] | None = None
    ) -> Generation:
        """The answer to `prompt` for `user_id`.

        Args:
            user_id: who asks.
            prompt: the request, or a conversation that ends in it: `persona.protocols.Message` or mappings with
                ``role`` and ``content``. Records are sought by its last turn, which is the user's.
            choices: the legal answers; None takes those of the task whose wording the builder has, if it fixes any.
                How one of them is chosen is said by `GenerationOptions.answers`; with ``"auto"``, choices that are
                given here are chosen by likelihood, whatever the LLM.

        An unknown user gets nothing personal (`Generation.abstained`): the answer of the plain LLM, or with a user
        embedder that of its neutral prompt.

        Raises:
            InvalidUserIdError: if `user_id` is not a legal id.
            InvalidOptionError: if `prompt` is neither a text nor such a conversation.
            GenerationError: if the LLM does not answer.
        """
        return self.batch([(user_id, prompt)], choices=choices)[0]

    def batch(
        self, questions: Sequence[tuple[str, Conversation]], *, choices: Choices | Sequence[str] | None = None
    ) -> list[Generation]:
        """`generate` for many (user id, prompt) pairs at once; the users may differ, the answers keep the order.

        Raises:
            InvalidOptionError: if something is no such pair.
        """
        chosen = self._choosing(choices)
        return chosen.answer(chosen.prepared(questions, choices=choices))

    async def agenerate(
        self, user_id: str, prompt: Conversation, *, choices: Choices | Sequence[str] | None = None
    ) -> Generation:
        """`generate` for an event loop, which it does not block; arguments and errors as there."""
        (answer,) = await self.abatch([(user_id, prompt)], choices=choices)
        return answer

    async def abatch(
        self, questions: Sequence[tuple[str, Conversation]], *, choices: Choices | Sequence[str] | None = None
    ) -> list[Generation]:
        """`batch` for an event loop, which it does not block; arguments and errors as there.

        Endpoints and LangChain runnables are awaited. Reading and retrieval, and models on this machine, run in a
        worker thread.
        """
        chosen = self._choosing(choices)
        prepared = await asyncio.to_thread(chosen.prepared, questions, choices=choices)
        return collected(enumerate(await chosen.aanswers(prepared)), len(prepared))

    def stream(
        self, user_id: str, prompt: Conversation, *, choices: Choices | Sequence[str] | None = None
    ) -> GenerationStream:
        """The answer of `generate` in pieces, as the LLM writes them; an LLM that writes none gives one.

        Arguments and errors as in `generate`. `GenerationStream.generation` is the whole, at the end.
        """
        chosen = self._choosing(choices)
        (prepared,) = chosen.prepared([(user_id, prompt)], choices=choices)
        return GenerationStream(chosen._pieces(prepared))

    def astream(
        self, user_id: str, prompt: Conversation, *, choices: Choices | Sequence[str] | None = None
    ) -> AsyncGenerationStream:
        """`stream` for an event loop, which it does not block: ``async for piece in personalizer.astream(...)``."""

        def pieces() -> Iterator[str | Generation]:
            with self.stream(user_id, prompt, choices=choices) as stream:
                yield from stream
                yield stream.generation

        return AsyncGenerationStream(awaited(pieces()))

    def ask(self, profile: Profile, prompt: Conversation, *, choices: Choices | Sequence[str] | None = None) -> Ask:
        """What the channels get: the request, its query and its legal answers, and the records of `profile`."""
        turns, request = conversation(prompt)
        for text in (*(turn.content for turn in turns), request):
            check_prompt(text)
        if choices is None and self.builder.wording is not None:
            choices = self.builder.wording.choices(request)
        return Ask(profile, request, self._query(request), Choices.of(choices), turns)

    def prepared(
        self, questions: Sequence[tuple[str, Conversation]], *, choices: Choices | Sequence[str] | None = None
    ) -> list[Prepared]:
        """The requests of (user id, prompt) pairs, without asking the LLM; arguments and errors as in `batch`."""
        for pair in questions:
            if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
                raise InvalidOptionError(f"a batch is of pairs of a user id and a prompt, was: {pair!r:.80}")
            check_user_id(pair[0])
        profiles = {user_id: self.store.profile(user_id) for user_id, _ in questions}
        return self.prepare([self.ask(profiles[user_id], prompt, choices=choices) for user_id, prompt in questions])

    def prepare(self, asks: Sequence[Ask]) -> list[Prepared]:
        """The requests for `asks`, without asking the LLM.

        Raises:
            InvalidOptionError: if a channel contributes records that are not the user's own, or two channels both bring
                a soft prompt, an adapter or lifts.
        """
        contributed = [channel.contribute(asks) for channel in self.channels]
        for channel, contributions in zip(self.channels, contributed, strict=True):
            if len(contributions) != len(asks):
                raise InvalidOptionError(
                    f"the channel {channel.name!r} must contribute once to each of {len(asks)} requests, "
                    f"was: {len(contributions)}"
                )
        return [self._prepared(ask, [each[index] for each in contributed]) for index, ask in enumerate(asks)]

    def answer(self, prepared: Sequence[Prepared]) -> list[Generation]:
        """The answers to prepared requests, in one batch.

        Raises:
            GenerationError: if the LLM does not answer.
        """
        return collected(self.answers(prepared), len(prepared))

    def answers(self, prepared: Sequence[Prepared]) -> Iterator[tuple[int, Generation | GenerationError]]:
        """`answer`, each with its index when it arrives: one by one where the LLM can, else all at the end.

        A request that cannot be answered gets its error, and the others go on.

        Raises:
            GenerationError: if the LLM answers no request at all.
        """
        with self._serving():
            for index, answered in answers(self.llm, [each.request for each in prepared], self.options):
                yield index, prepared[index].with_answer(answered)

    async def aanswers(self, prepared: Sequence[Prepared]) -> list[Generation | GenerationError]:
        """The answers to prepared requests, or their errors, in their order, for an event loop (see `abatch`)."""
        if not isinstance(self.llm, AnswersAsync):
            each = await asyncio.to_thread(lambda: dict(self.answers(prepared)))
            return [each[index] for index in range(len(prepared))]
        with self._serving():
            answered = await aanswers(self.llm, [each.request for each in prepared], self.options)
        return [each.with_answer(answer) for each, answer in zip(prepared, answered, strict=True)]

    def choice_scores(self, prepared: Sequence[Prepared]) -> Sequence[list[float] | GenerationError]:
        """How likely the LLM finds each choice of prepared requests, which all have some.

        Returns:
            Log-likelihood of each choice as the whole answer, nats, in the order of `Request.choices`; the error of a
            request that was not answered.

        Raises:
            InvalidOptionError: if the LLM does not score choices.
        """
        if not isinstance(self.llm, ScoresChoices):
            raise InvalidOptionError(
                f"the LLM {self.llm.fingerprint} does not score choices: take a transformers model"
            )
        with self._serving():
            return self.llm.choice_scores([each.request for each in prepared])

    def _pieces(self, prepared: Prepared) -> Generator[str | Generation, None, None]:
        with self._serving():
            for piece in pieces_of(self.llm, prepared.request, self.options):
                yield piece if isinstance(piece, str) else prepared.generation_of(piece)

    @contextmanager
    def _serving(self) -> Iterator[None]:
        """Open while the LLM answers."""
        with ExitStack() as serving:
            for channel in self.channels:
                serving.enter_context(channel.serving())
            yield

    def _prepared(self, ask: Ask, contributions: Sequence[Contribution]) -> Prepared:
        for contribution in contributions:
            _check_owned(ask.profile, contribution.records)
        records = tuple(scored for each in contributions for scored in each.records)
        notes = tuple(note for each in contributions for note in each.notes)
        soft_prompt = only("soft prompt", [each.soft_prompt for each in contributions])
        adapter = only("adapter", [each.adapter for each in contributions])
        steering = summed([each.steering for each in contributions])
        request_lifts = only("lifts", [each.lifts or None for each in contributions])
        tokens = sum(each.tokens for each in contributions)
        builder = self._builder_for(ask, tokens)
        built = builder.build(ask.prompt, [scored.record for scored in records], notes, query=ask.query)
        shown = {id(record) for record in built.records}  # text may not have fitted
        generation = Generation(
            text="",
            user_id=ask.profile.user_id,
            prompt=built.text,
            records=tuple(scored for scored in records if id(scored.record) in shown),
            channels=tuple(
                channel.name
                for channel, each in zip(self.channels, contributions, strict=True)
                if each.personal and _reached(each, built, shown)
            ),
            tokens_added=built.tokens_added + tokens,
            notes=built.notes,
            sources=tuple(each.source for each in contributions if each.source) if built.notes else (),
            turns=with_personal_turns(ask.turns, built.turns),
        )
        request = Request(built.text, soft_prompt, adapter, request_lifts, generation.turns, ask.choices, steering)
        identity = next((each.identity for each in contributions if each.identity), "")
        return Prepared(request, generation, identity, ask, self.checks)

    def _builder_for(self, ask: Ask, tokens: int) -> PromptBuilder:
        """The builder with its budget limited to what the LLM's own limit leaves beside a request and `tokens`."""
        limit = self.llm.prompt_limit(self.options, ask.turns) if isinstance(self.llm, BoundedPrompt) else None
        if limit is None or self.builder.max_length is not None:
            return self.builder
        room = max(0, limit - self.llm.tokenizer.count(ask.prompt) - tokens)
        return replace(self.builder, max_tokens=min(self.builder.max_tokens, room))


def _reached(contribution: Contribution, built: BuiltPrompt, shown: Collection[int]) -> bool:
    """Whether anything of `contribution` is in the request."""
    return (
        any(id(scored.record) in shown for scored in contribution.records)
        or bool(contribution.notes and built.notes)
        or contribution.tokens > 0
        or contribution.adapter is not None
        or bool(contribution.lifts or contribution.steering)
    )


def _check_owned(profile: Profile, records: Sequence[ScoredRecord]) -> None:
    """Refuse records that are not the user's own, whatever a channel does."""
    for scored in records:
        if scored.record not in profile.records:
            raise InvalidOptionError(
                f"a channel must choose among the records of {profile.user_id!r}, but brought one that is not there"
            )


def _check_placement(llm: LanguageModel, builder: PromptBuilder) -> None:
    if builder.placement != PROMPT and not getattr(llm, "chats", False):
        raise InvalidOptionError(
            f"`placement={builder.placement!r}` needs an LLM with a chat template, a chat endpoint or a chat model: "
            f"{llm.fingerprint} takes {PROMPT!r} only"
        )


def _check_part(name: str, part: object, members: Sequence[str], hint: str) -> None:
    if isinstance(part, type) or not all(hasattr(part, member) for member in members):
        raise InvalidOptionError(f"`{name}` must not be {part!r:.80} ({type(part).__name__}): {hint}")


def _check_channels(llm: LanguageModel, channels: object) -> None:
    if not isinstance(channels, Sequence) or not all(hasattr(channel, "contribute") for channel in channels):
        raise InvalidOptionError(
            f"`channels` must be a sequence of channels, was: {channels!r:.80}; records come with "
            "`persona.retrievers.channel.RecordsChannel(retriever, k)`"
        )
    for channel in channels:
        # Adapters are attached while the LLM answers (`Channel.serving`).
        if channel.requires not in (TEXT, ADAPTER):
            check_way(llm, channel.requires, f"the channel {channel.name!r}")
