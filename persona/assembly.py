"""Names become the parts of a personalizer: for `personalize` and the command line.

>>> options = PersonalizationOptions(retriever="recency", k=1)
>>> with assembled(load_llm("tiny"), "sqlite:///persona.db", options) as personalizer:          # doctest: +SKIP
...     personalizer.generate("critic-7", "What is the score of the following review ...").text

Names of retrievers are those of `persona.retrievers.registry`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona.channels import Channel
from persona.errors import InvalidOptionError, check_one_of
from persona.generation import AnswerCheck
from persona.lamp.prompts import LampWording
from persona.lamp.tasks import lamp_task
from persona.personalizer import Personalizer
from persona.prompts import PLACEMENTS, PROMPT, PromptBuilder
from persona.protocols import GenerationOptions, LanguageModel, RecordEncoder, Retriever
from persona.records import check_user_id
from persona.retrievers.registry import NEEDS_ENCODER, RetrieverOptions, check_retriever, make_retriever, needs_encoder
from persona.settings import Settings, open_store

if TYPE_CHECKING:
    from persona.adapters.bank import AdapterBank
    from persona.adapters.serving.pool import AdapterPool
    from persona.adapters.serving.vllm import ServedAdapters
    from persona.encoders.user_vectors import UserVectorFile
    from persona.soft_prompts.embedder import UserEmbedder
    from persona.store.profile_store import ProfileStore

FREE = "free"
"""The task of a prompt that is of no LaMP task."""

MISSING_ADAPTER = ("error", "prior", "base")
"""What a user without an adapter may get: an error, the shared prior, or the plain LLM."""

SUMMARIES = ("stats", "llm", "both")
"""Summaries by name: exact statistics, what an LLM wrote, or both."""


@dataclass(frozen=True, slots=True)
class PersonalizationOptions:
    """What a `Personalizer` is made of, by name.

    Attributes:
        retriever: a retriever or its name; None takes the setting `PERSONA_RETRIEVER` (``bm25``).
        k: how many records to put in front of the prompt; 0 sends none.
        retrieval: how the retriever is made.
        encoder: a record encoder, or what `load_encoder` takes; None takes the setting `PERSONA_ENCODER` (``minilm``).
            It is loaded only where something reads vectors.
        user_embedder: a `UserEmbedder`, its folder or hub id: its soft prompt stands before the prompt.
        user_vectors: the users' vectors, for a user embedder that reads those; a file or its path.
        adapters: answer with the user's own adapter: True for those in the store, a bank, or those that a vLLM server
            serves.
        steering: add the user's steering vector in the store to the hidden states; who has none is answered without.
        family: key of a family of adapters, or without these of steering vectors, or its beginning; needed where there
            are several for the LLM.
        missing_adapter: what a user without an adapter gets, one of `MISSING_ADAPTER`.
        summary: say what is typical of the user: ``"stats"``, exact statistics of the records; ``"llm"``, what
            `summarize_users` has stored; or ``"both"``.
        task: the LaMP task of the prompts, or `FREE`: records are searched by the question in a prompt and worded as
            the task does; summaries are for it. With `FREE` the task of the user embedder is used, if it has one.
        max_context_tokens: budget of the personal text.
        placement: where it stands, one of `persona.prompts.PLACEMENTS`: in the user's turn before the request, in the
            system's turn, or as earlier turns.
        generation: how to decode.
        checks: look at every answer before it is given out (`persona.generation.AnswerCheck`).

    Raises:
        InvalidOptionError: if options contradict one another.
        UnknownPartError: if there is no retriever of that name.
        UnknownTaskError: if there is no such task.
    """

    retriever: Retriever | str | None = None
    k: int = 4
    retrieval: RetrieverOptions = field(default_factory=RetrieverOptions)
    encoder: RecordEncoder | str | None = None
    user_embedder: UserEmbedder | str | Path | None = None
    user_vectors: UserVectorFile | str | Path | None = None
    adapters: AdapterBank | ServedAdapters | bool = False
    steering: bool = False
    family: str | None = None
    missing_adapter: str = "error"
    summary: str | None = None
    task: str = FREE
    max_context_tokens: int = 512
    placement: str = PROMPT
    generation: GenerationOptions = field(default_factory=GenerationOptions)
    checks: tuple[AnswerCheck, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.retriever, str):
            check_retriever(self.retriever)
        if self.task != FREE:
            lamp_task(self.task)
        check_one_of(PLACEMENTS, placement=self.placement)
        check_one_of(MISSING_ADAPTER, missing_adapter=self.missing_adapter)
        check_one_of(("", *SUMMARIES), summary=self.summary or "")
        unread = (self.family is not None and not self.steering) or self.missing_adapter != MISSING_ADAPTER[0]
        if self.adapters is False and unread:
            raise InvalidOptionError("`family` and `missing_adapter` are for adapters: ask for these too")
        if self.retriever is not None and not isinstance(self.retriever, str) and self.retrieval != RetrieverOptions():
            raise InvalidOptionError(
                "`retrieval` is for a retriever by name; make the one that you give as you want it"
            )
        if self.user_vectors is not None and self.user_embedder is None:
            raise InvalidOptionError("user vectors are read by a user embedder: name it too")


@contextmanager
def assembled(
    llm: LanguageModel, store: ProfileStore, options: PersonalizationOptions = PersonalizationOptions()
) -> Iterator[Personalizer]:
    """A personalizer of parts by name, open for as long as its adapters are.

    Args:
        llm: the frozen LLM.
        store: holds the users' records, and their vectors, summaries and adapters.
        options: the parts.

    Raises:
        PersonaError: if a part cannot be made, or they do not fit one another.
    """
    given = options.user_embedder
    embedder = None if given is None else as_user_embedder(given, options.user_vectors)
    task = options.task if options.task != FREE or embedder is None else embedder.config.task or FREE
    wording = None if task == FREE else LampWording(lamp_task(task))
    with ExitStack() as stack:
        channels = list(_channels(options, llm, store, embedder, stack))
        builder = PromptBuilder.of(
            llm, max_tokens=options.max_context_tokens, wording=wording, placement=options.placement
        )
        if task == FREE:
            from persona.summaries.feedback import FeedbackChannel

            channels.append(FeedbackChannel())
        yield Personalizer(llm, store, channels, builder=builder, options=options.generation, checks=options.checks)


def _channels(
    options: PersonalizationOptions,
    llm: LanguageModel,
    store: ProfileStore,
    embedder: UserEmbedder | None,
    stack: ExitStack,
) -> Iterator[Channel]:
    """The channels that are asked for; what they keep open is so until `stack` ends."""
    retriever = options.retriever or Settings().retriever
    by_vectors = isinstance(retriever, str) and options.k > 0 and needs_encoder(retriever, options.retrieval)
    encoder = _encoder(options, embedder, by_vectors)
    if options.k:
        from persona.retrievers.channel import RecordsChannel

        if isinstance(retriever, str):
            retriever = make_retriever(retriever, options.retrieval, encoder=encoder, store=store)
        yield RecordsChannel(retriever, options.k)
    if embedder is not None:
        from persona.soft_prompts.channel import SoftPromptChannel

        source = as_user_vectors(options.user_vectors) or encoder
        assert source is not None
        yield SoftPromptChannel(embedder, llm, source, store)
    if options.adapters is not False:
        from persona.adapters.channel import AdapterChannel

        yield AdapterChannel(_adapters(options, llm, store, stack), missing=options.missing_adapter)
    if options.steering:
        from persona.adapters.bank import AdapterBank
        from persona.steering.channel import SteeringChannel

        bank, key = AdapterBank(store), options.family if options.adapters is False else None
        yield SteeringChannel(bank, bank.family(llm.fingerprint, key=key, steers=True))
    if options.summary is not None:
        from persona.summaries.channel import SummaryChannel
        from persona.summaries.stored import StoredSummaries

        yield SummaryChannel(options.summary, StoredSummaries(store, options.task), task=options.task)


def _adapters(
    options: PersonalizationOptions, llm: LanguageModel, store: ProfileStore, stack: ExitStack
) -> AdapterPool | ServedAdapters:
    """Those that a server has, or those of a bank, in a pool."""
    from persona.adapters.bank import AdapterBank
    from persona.adapters.serving.pool import AdapterPool

    if not isinstance(options.adapters, AdapterBank | bool):
        return options.adapters
    bank = AdapterBank(store) if isinstance(options.adapters, bool) else options.adapters
    family = None if options.family is None else bank.family(llm.fingerprint, key=options.family)
    return stack.enter_context(AdapterPool(bank, llm, family))


def personalize(
    llm: Any,
    user_id: str,
    prompt: str,
    *,
    store: ProfileStore | str | None = None,
    options: PersonalizationOptions | None = None,
    **changes: Any,
) -> str:
    """Answer `prompt` with `llm` as if it knew `user_id`.

    Args:
        llm: anything that `persona.load_llm` takes: a transformers ``(model, tokenizer)``, a folder or hub id, a
            LangChain runnable, an OpenAI-compatible endpoint, or a plain ``Callable[[str], str]``.
        user_id: whose history to use. There is no default user.
        prompt: the request.
        store: a `ProfileStore` or its URL; None takes the setting `PERSONA_STORE` (``sqlite:///persona.db``).
        options: the parts to answer with; None takes the defaults.
        **changes: fields of `PersonalizationOptions` by name, in place of those in `options`: ``k=1``,
            ``user_embedder="folder"``, ``adapters=True``, ``summary="stats"``, ...

    Returns:
        The answer's text. `Personalizer.generate` also says where it came from.

    Raises:
        InvalidUserIdError: if `user_id` is not a legal id.
        InvalidOptionError: if there is no such option.
        PersonaError: if a part cannot be made, or the LLM does not answer.
    """
    from persona.llm.load import load_llm

    check_user_id(user_id)
    chosen = changed(options or PersonalizationOptions(), changes)
    with ExitStack() as stack:
        opened = stack.enter_context(open_store(store)) if store is None or isinstance(store, str) else store
        personalizer = stack.enter_context(assembled(load_llm(llm), opened, chosen))
        return personalizer.generate(user_id, prompt).text


def changed(options: PersonalizationOptions, changes: Mapping[str, Any]) -> PersonalizationOptions:
    """`options` with other values for fields by name.

    Raises:
        InvalidOptionError: if there is no such option.
    """
    for name in changes:
        check_one_of([each.name for each in fields(PersonalizationOptions)], option=name)
    return replace(options, **changes)


def as_user_embedder(given: UserEmbedder | str | Path, vectors: object = None) -> UserEmbedder:
    """A user embedder, loaded where it is a folder or hub id, if it goes with the users' `vectors` (None for none).

    Raises:
        InvalidOptionError: if it reads a file of user vectors and there is none, or the other way round.
    """
    from persona.soft_prompts.embedder import UserEmbedder, load_user_embedder

    embedder = given if isinstance(given, UserEmbedder) else load_user_embedder(given)
    if (embedder.config.mode == "vectors") != (vectors is not None):
        raise InvalidOptionError(
            "a user embedder of mode 'vectors' reads a file of user vectors, and no other does: "
            f"the mode is {embedder.config.mode!r}, `user_vectors` was: {vectors}"
        )
    return embedder


def as_user_vectors(given: UserVectorFile | str | Path | None) -> UserVectorFile | None:
    """The users' vectors, opened where they are a path."""
    from persona.encoders.user_vectors import UserVectorFile

    return UserVectorFile(given) if isinstance(given, (str, Path)) else given


def as_encoder(given: RecordEncoder | str, embedder: UserEmbedder | None = None) -> RecordEncoder:
    """A record encoder, loaded where it is a name, in the dtype of the vectors that `embedder` was trained on."""
    from persona.encoders.load import load_encoder

    if not isinstance(given, str):
        return given
    return load_encoder(given, like=embedder.config.encoder if embedder else "")


def _encoder(options: PersonalizationOptions, embedder: UserEmbedder | None, wanted: bool) -> RecordEncoder | None:
    """The encoder, if a retriever or a user embedder reads vectors of records."""
    reader = embedder if options.user_vectors is None else None
    if wanted or reader is not None or not isinstance(options.encoder, str | None):
        return as_encoder(options.encoder or Settings().encoder, reader)
    if options.encoder is not None:
        raise InvalidOptionError(
            f"nothing here reads vectors, but an encoder was given: {options.encoder!r}; leave it out, or take a "
            f"retriever of {', '.join(sorted(NEEDS_ENCODER))}"
        )
    return None
