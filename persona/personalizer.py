"""One request, from a user id and a prompt to an answer: profile -> personal context -> frozen LLM.

>>> from persona import Personalizer, ProfileStore, load_llm
>>> personalizer = Personalizer(load_llm("tiny"), ProfileStore("sqlite:///persona.db"))
>>> answer = personalizer.generate("critic-7", "What would you say about the new Bond film?")
>>> answer.text, [scored.record.id for scored in answer.records], answer.tokens_added

The `Personalizer` is handed its parts and knows only their protocols; `personalize` is the same way with defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from persona.errors import InvalidOptionError, UnsupportedChannelError
from persona.lamp.tasks import lamp_task
from persona.llm.checks import check_options, check_prompt
from persona.prompts import PromptBuilder
from persona.protocols import (
    LORA,
    PRIOR_ADAPTER,
    SOFT_PROMPT,
    TEXT,
    VOCABULARY,
    BoundedPrompt,
    Channel,
    GenerationOptions,
    LanguageModel,
    PersonalContext,
    Request,
    Retriever,
)
from persona.records import Profile, ScoredRecord, check_user_id

if TYPE_CHECKING:
    from persona.adapters.bank import AdapterBank
    from persona.soft_prompts.embedder import UserEmbedder
    from persona.store.profile_store import ProfileStore


@dataclass(frozen=True, slots=True)
class Generation:
    """An answer and where it came from.

    Attributes:
        text: the answer.
        user_id: whom it was personalised for.
        prompt: what the LLM was given, personal text included.
        records: the retrieved records that stand in `prompt`, best first.
        channels: the channels that carried something personal, of `persona.protocols.CHANNELS`.
        tokens_added: tokens that personalization added to the prompt, in the LLM's own unit.
        summary: the summary that stands in `prompt`, whole or shortened; None if there is none.
        summary_source: where the summary comes from, e.g. ``"llm:LaMP_3:instruct-1:gpt@..."``.
    """

    text: str
    user_id: str
    prompt: str
    records: tuple[ScoredRecord, ...] = ()
    channels: tuple[str, ...] = ()
    tokens_added: int = 0
    summary: str | None = None
    summary_source: str | None = None

    @property
    def abstained(self) -> bool:
        """True if nothing personal was added, since there was nothing or a relevance filter found nothing that fits.

        The answer is then that of the plain LLM, or with a user embedder that of its neutral prompt.
        """
        return not self.channels


@dataclass(frozen=True, slots=True)
class Personalizer:
    """Answers prompts as if a frozen LLM knew the user.

    Attributes:
        llm: the frozen LLM.
        store: where the users' records are.
        retriever: chooses records for a prompt; None sends no records.
        k: how many records at most; 0 sends none.
        builder: puts records and summary in front of the prompt within a token budget; None makes one that measures
            in the LLM's own tokens, and words records as a channel was trained to read them (`PromptBuilder.task`).
        options: how to decode.
        channels: further channels (summary, soft prompt, adapter), applied in order.
        query: what of a prompt records are sought by, e.g. ``lamp_task("LaMP_3").query``; None takes the question in
            it where a channel was trained on a LaMP task (`SoftPromptChannel.trained_on`), else all of it.

    Raises:
        InvalidOptionError: if a part is not what it should be (a retriever's name where a retriever belongs), or `k` or
            `options` are out of range.
    """

    llm: LanguageModel
    store: ProfileStore
    retriever: Retriever | None = None
    k: int = 4
    builder: PromptBuilder | None = None
    options: GenerationOptions = field(default_factory=GenerationOptions)
    channels: tuple[Channel, ...] = ()
    query: Callable[[str], str] | None = None

    def __post_init__(self) -> None:
        for name, part, members, mend in (
            ("llm", self.llm, ("channels", "tokenizer", "generate"), "make one with `persona.load_llm`"),
            ("store", self.store, ("profile",), "open one with `persona.ProfileStore`"),
            ("retriever", self.retriever, ("retrieve_batch",), "make one with `persona.make_retriever`"),
        ):
            lacking = isinstance(part, type) or not all(hasattr(part, member) for member in members)
            if lacking and not (name == "retriever" and part is None):
                raise InvalidOptionError(f"`{name}` must not be {part!r:.80} ({type(part).__name__}): {mend}")
        if not isinstance(self.channels, Sequence) or not all(map(callable, self.channels)):
            raise InvalidOptionError(f"`channels` must be a tuple of channels, was: {self.channels!r:.80}")
        if self.query is not None and not callable(self.query):
            raise InvalidOptionError(f"`query` must be a function from a prompt to a query, was: {self.query!r:.80}")
        if not isinstance(self.k, int) or isinstance(self.k, bool) or self.k < 0:
            raise InvalidOptionError(f"`k` must be a whole number of at least 0, was: {self.k!r}")
        check_options(self.options)
        trained = (getattr(channel, "trained_on", None) for channel in self.channels)
        task = next((one for one in trained if one is not None), None)
        if self.builder is None:
            object.__setattr__(self, "builder", PromptBuilder(self.llm.tokenizer, task=task))
        if self.query is None and task is not None:
            object.__setattr__(self, "query", task.query)

    def generate(self, user_id: str, prompt: str) -> Generation:
        """The answer to `prompt` for `user_id`.

        A user of whom the store knows nothing gets nothing personal (`Generation.abstained`): the answer of the plain
        LLM, or with a user embedder that of its neutral prompt.

        Raises:
            InvalidUserIdError: if `user_id` is not a legal id.
            UnsupportedChannelError: if a channel found something that this LLM cannot take.
            GenerationError: if the LLM does not answer.
        """
        return self.batch([(user_id, prompt)])[0]

    def batch(self, questions: Sequence[tuple[str, str]]) -> list[Generation]:
        """`generate` for many (user id, prompt) pairs at once; the users may differ, the answers keep the order.

        Raises:
            InvalidOptionError: if something is no such pair.
        """
        for pair in questions:
            if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
                raise InvalidOptionError(f"a batch is of pairs of a user id and a prompt, was: {pair!r:.80}")
            check_user_id(pair[0])
            check_prompt(pair[1])
        profiles = {user_id: self.store.profile(user_id) for user_id, _ in questions}
        contexts = self._contexts([profiles[user_id] for user_id, _ in questions], [prompt for _, prompt in questions])
        drafts = [
            self._draft(profiles[user_id], prompt, context)
            for (user_id, prompt), context in zip(questions, contexts, strict=True)
        ]
        requests = [
            Request(draft.prompt, context.soft_prompt, context.adapter, context.lifts)
            for draft, context in zip(drafts, contexts, strict=True)
        ]
        texts = self.llm.generate(requests, self.options)
        return [replace(draft, text=text) for draft, text in zip(drafts, texts, strict=True)]

    def context(self, user_id: str, prompt: str) -> PersonalContext:
        """What the channels find for `prompt`, without asking the LLM."""
        check_prompt(prompt)
        return self._contexts([self.store.profile(user_id)], [prompt])[0]

    def _contexts(self, profiles: Sequence[Profile], prompts: Sequence[str]) -> list[PersonalContext]:
        if self.retriever is None or self.k == 0:
            contexts = [PersonalContext() for _ in prompts]
        else:
            queries = prompts if self.query is None else [self.query(prompt) for prompt in prompts]
            found = self.retriever.retrieve_batch(profiles, queries, self.k)
            for profile, records in zip(profiles, found, strict=True):
                _check_owned(profile, records)
            contexts = [PersonalContext(records=records) for records in found]
        for channel in self.channels:
            contexts = channel(profiles, prompts, contexts)
        return contexts

    def _draft(self, profile: Profile, prompt: str, context: PersonalContext) -> Generation:
        """The generation as it stands before the LLM answers."""
        records = [scored.record for scored in context.records]
        built = self._builder_for(prompt, context).build(prompt, records, summary=context.summary)
        used = {id(record) for record in built.records}
        channels: list[str] = []
        if built.tokens_added:
            channels.append(TEXT)
        soft_tokens = 0 if context.soft_prompt is None else len(context.soft_prompt)
        if soft_tokens:
            channels.append(SOFT_PROMPT)
        if context.adapter is not None:
            channels.append(LORA)
        if context.lifts:
            channels.append(VOCABULARY)
        for channel in channels:
            if channel not in self.llm.channels:
                raise UnsupportedChannelError(
                    f"the LLM {self.llm.fingerprint} takes {', '.join(sorted(self.llm.channels))}, "
                    f"was given: {channel}; "
                    "everything but text needs a transformers model (folder, hub id or (model, tokenizer))"
                )
        return Generation(
            text="",
            user_id=profile.user_id,
            prompt=built.text,
            records=tuple(scored for scored in context.records if id(scored.record) in used),
            # The neutral soft prompt says nothing personal, nor does what is copied for somebody without records, which
            # is the question's, nor the prior, which is everybody's adapter.
            channels=tuple(
                channel
                for channel in channels
                if (channel != SOFT_PROMPT or not context.neutral)
                and (channel != VOCABULARY or len(profile))
                and (channel != LORA or context.adapter != PRIOR_ADAPTER)
            ),
            tokens_added=built.tokens_added + soft_tokens,
            summary=built.summary,
            summary_source=None if built.summary is None else context.summary_source,
        )

    def _builder_for(self, prompt: str, context: PersonalContext) -> PromptBuilder:
        """The builder, its budget cut down to what the LLM's own limit leaves beside `prompt`."""
        assert self.builder is not None
        limit = self.llm.prompt_limit(self.options) if isinstance(self.llm, BoundedPrompt) else None
        if limit is None:
            return self.builder
        taken = self.llm.tokenizer.count(prompt) + (0 if context.soft_prompt is None else len(context.soft_prompt))
        return replace(self.builder, max_tokens=min(self.builder.max_tokens, max(0, limit - taken)))


def _check_owned(profile: Profile, records: Sequence[ScoredRecord]) -> None:
    """Let nobody's records through but the user's own, whatever a retriever from elsewhere does with those it saw."""
    for scored in records:
        if scored.record not in profile.records:
            raise InvalidOptionError(
                f"a retriever must choose among the records of {profile.user_id!r}, but found one that is not there"
            )


def personalize(
    llm: Any,
    user_id: str,
    prompt: str,
    *,
    store: ProfileStore | str | None = None,
    retriever: Retriever | str | None = None,
    k: int = 4,
    plug: UserEmbedder | str | None = None,
    lora: AdapterBank | None = None,
    family: str | None = None,
    missing_adapter: str = "error",
    summary: str | None = None,
    task: str = "free",
    max_new_tokens: int = 64,
) -> str:
    """Answer `prompt` with `llm` as if it knew `user_id`.

    Args:
        llm: anything that `persona.load_llm` takes: a transformers ``(model, tokenizer)``, a folder or hub id, a
            LangChain runnable, an OpenAI-compatible endpoint, or a plain ``Callable[[str], str]``.
        user_id: whose history to use. There is no default user.
        prompt: the task.
        store: a `ProfileStore` or its URL; None takes the setting `PERSONA_STORE` (``sqlite:///persona.db``).
        retriever: a `Retriever` or its name; None takes the setting `PERSONA_RETRIEVER` (``bm25``).
        k: how many records to put in front of the prompt; 0 sends none.
        plug: a `UserEmbedder`, its folder or hub id: its soft prompt is put before the prompt, and records in the
            wording of the task that it was trained on, where `prompt` is of that task. It reads the vectors of
            the encoder in the setting `PERSONA_ENCODER` (``minilm``), and must have been trained with that and `llm`.
        lora: an `AdapterBank`: the LLM answers with the user's own adapter. It must be the transformers model that the
            adapters were trained for.
        family: key of a family of `lora`, or its beginning; needed where there are several for the model.
        missing_adapter: what to do where `lora` has none for the user: ``"error"``, ``"prior"`` or ``"base"``.
        summary: also say what is typical of the user: ``"stats"``, exact statistics of the records; ``"llm"``, what
            `summarize_users` has stored; or ``"both"``.
        task: the LaMP task that `prompt` is of, or ``"free"``: records are sought by the question in it and, without a
            summary, worded as in its official prompts (`PromptBuilder.task`); a summary is for it. With ``"free"``
            `plug` says which task, if it was trained on one; else the whole prompt is the question.
        max_new_tokens: longest answer, in tokens.

    Returns:
        The answer's text. `Personalizer.generate` also tells where it came from.
    """
    from persona.assembly import make_retriever, needs_encoder
    from persona.llm.load import load_llm
    from persona.settings import Settings, open_store

    check_user_id(user_id)
    if task != "free":
        lamp_task(task)
    with ExitStack() as stack:
        source = stack.enter_context(open_store(store)) if store is None or isinstance(store, str) else store
        name = retriever or Settings().retriever
        encoder = None
        if isinstance(plug, str):
            from persona.soft_prompts.embedder import load_user_embedder

            plug = load_user_embedder(plug)
        if plug is not None or (isinstance(name, str) and needs_encoder(name)):
            from persona.encoders.load import load_encoder

            encoder = load_encoder(Settings().encoder, like=plug.config.encoder if plug else "")
        chosen = make_retriever(name, encoder=encoder, store=source) if isinstance(name, str) else name
        model = load_llm(llm)
        channels: tuple[Channel, ...] = ()
        if plug is not None:
            from persona.soft_prompts.channel import SoftPromptChannel

            assert encoder is not None
            channels = (SoftPromptChannel(plug, model, encoder, source),)
        if lora is not None:
            from persona.adapters.channel import LoraChannel
            from persona.adapters.pool import AdapterPool

            named = None if family is None else lora.family(model.fingerprint, key=family)
            pool = stack.enter_context(AdapterPool(lora, model, named, slots=1, rows=1))
            channels = (*channels, LoraChannel(pool, missing=missing_adapter))
        if summary is not None:
            from persona.summaries.written import SummaryChannel

            channels = (*channels, SummaryChannel(source, summary, task=task))
        options = GenerationOptions(max_new_tokens=max_new_tokens)
        asked = lamp_task(task) if task != "free" else None
        builder = PromptBuilder(model.tokenizer, task=asked) if asked else None
        query = asked.query if asked else None
        personalizer = Personalizer(model, source, chosen, k, builder, options, channels, query)
        return personalizer.generate(user_id, prompt).text
