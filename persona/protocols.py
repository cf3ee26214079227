"""The protocols of the parts: record encoder, retriever, tokenizer, language model.

These are structural types: any object with these members fits, no base class is needed. The data passed between the
parts are the frozen dataclasses here and in `persona.records`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

from persona.errors import GenerationError, InvalidOptionError
from persona.records import Profile, Record, ScoredRecord

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

TEXT = "text"
SOFT_PROMPT = "soft_prompt"
ADAPTER = "adapter"
LIFTS = "lifts"
STEERING = "steering"
WAYS = (TEXT, SOFT_PROMPT, ADAPTER, LIFTS, STEERING)
"""The ways into an LLM: its prompt, vectors in front of the prompt, its weights, its logits, its hidden states."""

PRIOR_ADAPTER = "@prior"
"""The name of the shared adapter that all users' adapters are trained over."""


@runtime_checkable
class RecordEncoder(Protocol):
    """Turns texts into unit vectors.

    Attributes:
        dim: length of a vector.
        fingerprint: names everything that determines the vectors (model, weights hash, dtype, pooling, truncation).
            Vectors of two fingerprints are never mixed or compared.
    """

    @property
    def dim(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of `texts`, float32, L2-normalised, in the order given.  # (texts, dim)"""
        ...


Encoding: TypeAlias = tuple[RecordEncoder, str]
"""An encoder, and the view of a record (`Record.view`) that it is given."""


@runtime_checkable
class Retriever(Protocol):
    """Selects records of one user's profile for a query. It sees no other user's records."""

    def retrieve(self, profile: Profile, query: str, k: int) -> tuple[ScoredRecord, ...]:
        """At most `k` records of `profile`, best first; fewer if the profile has fewer.

        Raises:
            InvalidOptionError: if `k` is below 1.
        """
        ...

    def retrieve_batch(
        self, profiles: Sequence[Profile], queries: Sequence[str], k: int
    ) -> list[tuple[ScoredRecord, ...]]:
        """`retrieve` for each pair; a retriever can share work between them."""
        ...


@runtime_checkable
class TextTokenizer(Protocol):
    """Counts and truncates text in the LLM's own tokens."""

    def count(self, text: str) -> int:
        """Number of tokens of `text`, special tokens included."""
        ...

    def truncate(self, text: str, max_tokens: int) -> str:
        """The beginning of `text` in at most `max_tokens` tokens (special ones counted), as text again.

        Raises:
            ValueError: if `max_tokens` is negative.
        """
        ...


class StepLifts(Protocol):
    """Lifts that depend on the answer so far."""

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Ids of the tokens that may be lifted, ascending.  # (tokens,)"""
        ...

    @property
    def fingerprint(self) -> str:
        """Lifts of the same fingerprint change an answer in the same way."""
        ...

    def after(self, written: Sequence[int]) -> NDArray[np.float32]:
        """What is added to the logit of each of `tokens` after the tokens `written`.  # (tokens,)"""
        ...


Lifts: TypeAlias = Mapping[int, float] | StepLifts
"""What is added to the logits of an answer's next token: by token id, or by token id and the answer so far."""

Role: TypeAlias = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation: whose it is, and its text."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class BuiltPrompt:
    """A prompt with records and notes about the user.

    Attributes:
        text: the input of the LLM; it ends in the given prompt, unless a task's wording puts records into it.
        records: the records in `text` and `turns`, whole or shortened, best first.
        tokens_added: tokens of `text` and `turns` beyond those of the prompt alone.
        notes: the notes in them, whole or shortened.
        turns: the turns with what is known of the user, before all others; a system turn first.
    """

    text: str
    records: tuple[Record, ...] = ()
    tokens_added: int = 0
    notes: tuple[str, ...] = ()
    turns: tuple[Message, ...] = ()


class Wording(Protocol):
    """How a task words records and notes around its prompts, e.g. `persona.lamp.prompts.LampWording`.

    Attributes:
        name: the task's.
    """

    @property
    def name(self) -> str: ...

    def query(self, prompt: str) -> str:
        """The part of a prompt that records are searched by."""
        ...

    def fits(self, prompt: str) -> bool:
        """Whether `prompt` is of this task."""
        ...

    def choices(self, prompt: str) -> Choices | None:
        """The legal answers to `prompt`; None where any text is, or the prompt is not of this task."""
        ...

    def shown(self, record: Record) -> str:
        """The part of a record that may be cut; empty for a record without a part that the wording needs."""
        ...

    def question(self, prompt: str, record: Record) -> str | None:
        """The prompt that the target of `record` would answer, worded as `prompt` is; None where there is none."""
        ...

    def prompt(
        self, prompt: str, records: Sequence[Record], notes: Sequence[str], tokenizer: TextTokenizer, *, max_length: int
    ) -> BuiltPrompt:
        """`prompt` with records and notes, in about `max_length` tokens in all; byte for byte as the task has it."""
        ...


@dataclass(frozen=True, slots=True)
class Choices:
    """The legal answers to a request.

    Attributes:
        texts: the answers, at least one, no two of them equal.
        ordered: whether they stand in ascending order, as ratings do: the answer is then the median of the LLM's
            distribution over them, which has the least expected absolute error, and not the likeliest one.
        prior: for each of `texts` the log-probability that it has whatever is asked, to be taken off its own before
            they are compared (`persona.eval.calibration`); empty for none.

    Raises:
        InvalidOptionError: if there is no answer, two are equal, or the prior is not one number for each.
    """

    texts: tuple[str, ...]
    ordered: bool = False
    prior: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.texts or len(set(self.texts)) < len(self.texts) or not all(map(str.strip, self.texts)):
            raise InvalidOptionError(f"choices must be different texts, none of them blank, were: {self.texts!r:.200}")
        if self.prior and len(self.prior) != len(self.texts):
            raise InvalidOptionError(
                f"a prior must be one number for each of {len(self.texts)} choices, was: {len(self.prior)} numbers"
            )

    @classmethod
    def of(cls, given: Choices | Sequence[str] | None) -> Choices | None:
        """Choices of texts, or as they are.

        Raises:
            InvalidOptionError: if they are no choices.
        """
        if given is None or isinstance(given, Choices):
            return given
        if isinstance(given, str) or not all(isinstance(each, str) for each in given):
            raise InvalidOptionError(f"choices must be a list of texts, or `Choices`, were: {given!r:.80}")
        return cls(tuple(given))


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One question to a language model.

    Attributes:
        prompt: the text, personal context included: the last turn of the user.
        soft_prompt: vectors in front of the prompt's input embeddings, float.  # (n_tokens, llm_hidden)
        adapter: name of the adapter to answer with; None for the plain model.
        lifts: what is added to the logits of the next token while the answer is generated; None for nothing.
        turns: the turns before `prompt`, oldest first; a system turn may only be the first.
        choices: the legal answers, for `GenerationOptions.answers`; None where any text is.
        steering: what is added to the hidden states behind blocks, by their number from 0.  # (llm_hidden,) each
    """

    prompt: str
    soft_prompt: torch.Tensor | None = None
    adapter: str | None = None
    lifts: Lifts | None = None
    turns: tuple[Message, ...] = ()
    choices: Choices | None = None
    steering: Mapping[int, torch.Tensor] | None = None


class AdapterSource(Protocol):
    """Adapters that a model can compute with.

    Attributes:
        slots: most different adapters in one batch.
    """

    slots: int

    def named(self, names: Sequence[str | None]) -> AbstractContextManager[None]:
        """While open, row `i` of a batch is computed with the adapter ``names[i]``; None is the plain model.

        It may be opened again and again, for each step of an answer, and raises where an adapter is there no more.

        Raises:
            UnknownAdapterError: if there is no adapter of that name.
        """
        ...


ANSWERS = ("auto", "generate", "likelihood", "constrained")
"""How a request with choices may be answered, see `GenerationOptions.answers`."""


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How to answer: greedy (``num_beams=1``) or beam search; never sampling, so a request always gets the same answer.

    Attributes:
        max_new_tokens: at least 1.
        num_beams: at least 1.
        answers: how a request with `Request.choices` is answered, one of `ANSWERS`. ``"generate"``: in the LLM's own
            words. ``"likelihood"``: by the choice that the LLM finds likeliest. ``"constrained"``: by generation that
            can only write a choice. ``"auto"``: by likelihood with an LLM that has a chat template, which was not
            trained to answer with a bare label; else in its own words. See `persona.llm.answers.modes`.
        stop: an answer ends before the first of these texts.
        raw: keep the thinking and the Markdown emphasis around a bare answer (`persona.llm.answers.text`).
    """

    max_new_tokens: int = 64
    num_beams: int = 1
    answers: str = "auto"
    stop: tuple[str, ...] = ()
    raw: bool = False


Finish: TypeAlias = Literal["stop", "length", "refusal"]
Mode: TypeAlias = Literal["generate", "likelihood", "constrained", "read"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What an LLM wrote, and how it ended.

    Attributes:
        text: may be empty.
        finish: whether it ended by itself, was cut at `GenerationOptions.max_new_tokens`, or the provider refused one.
        mode: how it was made, see `persona.llm.answers.modes`.
        thought: whether the LLM wrote a part for thinking, which is not in `text`.
    """

    text: str
    finish: Finish = "stop"
    mode: Mode = "generate"
    thought: bool = False


@runtime_checkable
class ScoresChoices(Protocol):
    """A `LanguageModel` that says how likely it finds each choice of a request."""

    def choice_scores(self, requests: Sequence[Request]) -> Sequence[list[float] | GenerationError]:
        """Log-likelihood of each choice as the whole answer, its end included, in nats; errors as in `generate_each`,
        which answers by them itself where the LLM has ``likelihoods = True``."""
        ...


@runtime_checkable
class BoundedPrompt(Protocol):
    """A `LanguageModel` that knows how long a prompt may be; remote ones do not."""

    def prompt_limit(self, options: GenerationOptions, turns: Sequence[Message] = ()) -> int | None:
        """Most tokens of a prompt after `turns`, by its `tokenizer`, that leave room for the answer; None for any."""
        ...


@runtime_checkable
class LanguageModel(Protocol):
    """A frozen LLM, local or remote.

    Attributes:
        channels: those of `WAYS` that it accepts.
        fingerprint: names model and weights.
        tokenizer: counts prompts in the model's tokens (an estimate for remote models).

    A model whose answers depend on further settings (a chat template, a system text) may have a mapping `settings`: an
    evaluation asks again for answers that it stored under other settings. A model that takes a conversation turn by
    turn has a true attribute `chats`; one that has no such attribute gets a conversation as one text.
    One that could take a way and does not may have a method ``refusal(way)`` that says why, or None.
    """

    @property
    def channels(self) -> frozenset[str]: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def tokenizer(self) -> TextTokenizer: ...

    def generate(self, requests: Sequence[Request], options: GenerationOptions) -> list[str]:
        """The answers, in the order of `requests`. An answer does not depend on its neighbours in the batch.

        Raises:
            UnsupportedChannelError: if a request uses a channel that is not in `channels`.
            GenerationError: if the model does not answer.
        """
        ...


@runtime_checkable
class AnswersOneByOne(Protocol):
    """A `LanguageModel` whose answers arrive one by one, over a wire say, so that each can be kept when it does."""

    def generate_each(
        self, requests: Sequence[Request], options: GenerationOptions
    ) -> Iterator[tuple[int, Answer | str | GenerationError]]:
        """Index and answer of each of `requests`, as they arrive; a text alone is an answer, too.

        A request that cannot be answered gets its error, and the others go on; what all would get is raised at the end.
        """
        ...


@runtime_checkable
class AnswersAsync(Protocol):
    """A `LanguageModel` that is asked from within an event loop without blocking it."""

    async def agenerate(
        self, requests: Sequence[Request], options: GenerationOptions
    ) -> Sequence[Answer | str | GenerationError]:
        """The answer to each of `requests`, or its error, in their order; errors as in `generate_each`."""
        ...


def answer_settings(llm: LanguageModel) -> str:
    """The settings that an LLM's answers depend on, besides model and request (see `LanguageModel`)."""
    return repr(sorted(getattr(llm, "settings", {}).items()))
