"""What a part must be able to do to stand in the toolkit: an encoder, a retriever, a language model.

These are structural types: any object with these members fits, no base class is needed. Data that crosses between
the parts are the frozen dataclasses here and in `persona.records`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from persona.records import Profile, Record, ScoredRecord

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

TEXT = "text"
SOFT_PROMPT = "soft_prompt"
ADAPTER = "adapter"
LIFTS = "lifts"
WAYS = (TEXT, SOFT_PROMPT, ADAPTER, LIFTS)
"""The ways into an LLM: text in the prompt, vectors in front of the input embeddings, an adapter in the weights, and
what is added to the scores of its next tokens."""

PRIOR_ADAPTER = "@prior"
"""The adapter that is nobody's own: what all users' adapters lie over."""


@runtime_checkable
class RecordEncoder(Protocol):
    """Turns texts into unit vectors.

    Attributes:
        dim: length of a vector.
        fingerprint: names everything that decides the numbers (model, weights hash, dtype, pooling, truncation).
            Vectors of two fingerprints are never mixed or compared.
    """

    @property
    def dim(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of `texts`, float32, L2-normalised, in the order given.  # (texts, dim)"""
        ...


@runtime_checkable
class Retriever(Protocol):
    """Chooses records of one user's profile for a query. It sees no other user's records."""

    def retrieve(self, profile: Profile, query: str, k: int) -> tuple[ScoredRecord, ...]:
        """At most `k` records of `profile`, best first. Fewer where the profile has fewer; none from an empty one.

        Raises:
            InvalidOptionError: if `k` is below 1.
        """
        ...

    def retrieve_batch(
        self, profiles: Sequence[Profile], queries: Sequence[str], k: int
    ) -> list[tuple[ScoredRecord, ...]]:
        """`retrieve` for each pair, where a retriever can share work between them."""
        ...


@runtime_checkable
class TextTokenizer(Protocol):
    """Measures and cuts text in the LLM's own unit."""

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
    """Lifts that depend on what was written of the answer so far."""

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Ids of the tokens that may be lifted, ascending.  # (tokens,)"""
        ...

    @property
    def fingerprint(self) -> str:
        """Two of the same change an answer in the same way."""
        ...

    def after(self, written: Sequence[int]) -> NDArray[np.float32]:
        """What is added to the score of each of `tokens`, once the tokens `written` stand.  # (tokens,)"""
        ...


Lifts: TypeAlias = Mapping[int, float] | StepLifts
"""What is added to the scores of an answer's next token: by token id, or by token id and what was written before."""


@dataclass(frozen=True, slots=True)
class BuiltPrompt:
    """A prompt with what is known of the user in it.

    Attributes:
        text: what the LLM gets; it ends in the prompt that was given, unless a task's wording puts records into it.
        records: the records that stand in `text`, whole or shortened, best first.
        tokens_added: tokens of `text` beyond those of the prompt alone.
        notes: the notes as they stand in `text`, whole or shortened.
    """

    text: str
    records: tuple[Record, ...] = ()
    tokens_added: int = 0
    notes: tuple[str, ...] = ()


class Wording(Protocol):
    """How a task words records and notes around its prompts, e.g. `persona.lamp.prompts.LampWording`.

    Attributes:
        name: the task's.
    """

    @property
    def name(self) -> str: ...

    def query(self, prompt: str) -> str:
        """What of a prompt records are sought by."""
        ...

    def fits(self, prompt: str) -> bool:
        """Whether `prompt` is of this task."""
        ...

    def shown(self, record: Record) -> str:
        """The part of a record that may be cut; empty for a record that lacks a part which the words name."""
        ...

    def prompt(
        self,
        prompt: str,
        records: Sequence[Record],
        notes: Sequence[str],
        tokenizer: TextTokenizer,
        *,
        max_length: int,
    ) -> BuiltPrompt:
        """`prompt` with records and notes, in about `max_length` tokens in all; byte for byte as the task has it."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One question to a language model.

    Attributes:
        prompt: the text, personal context included.
        soft_prompt: vectors to stand before the prompt's input embeddings, float.  # (n_tokens, llm_hidden)
        adapter: name of the adapter to answer with; None for the plain model.
        lifts: what is added to the scores of the next token while the answer is written; None for nothing.
    """

    prompt: str
    soft_prompt: torch.Tensor | None = None
    adapter: str | None = None
    lifts: Lifts | None = None


class AdapterSource(Protocol):
    """Adapters that a model can compute with.

    Attributes:
        slots: most different ones in one batch.
    """

    slots: int

    def named(self, names: Sequence[str | None]) -> AbstractContextManager[None]:
        """While this is open, row `i` of a batch is computed with the adapter ``names[i]``; None is the plain model.

        Raises:
            UnknownAdapterError: if there is no adapter of that name.
        """
        ...


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How to decode: greedy (``num_beams=1``) or beam search; never sampling, so a request always gets the same answer.

    Attributes:
        max_new_tokens: at least 1.
        num_beams: at least 1.
        median_of: answers in ascending order, to answer with the median of the LLM's distribution over them
            (`persona.llm.logits`); none for the LLM's own words. Greedy only, transformers models only.
    """

    max_new_tokens: int = 64
    num_beams: int = 1
    median_of: tuple[str, ...] = ()


@runtime_checkable
class BoundedPrompt(Protocol):
    """A `LanguageModel` that knows how long a prompt may be; one that is reached over a wire does not."""

    def prompt_limit(self, options: GenerationOptions) -> int | None:
        """Most tokens of a prompt, as its `tokenizer` counts them, so that the answer has room; None for any number."""
        ...


@runtime_checkable
class LanguageModel(Protocol):
    """A frozen LLM behind one door.

    Attributes:
        channels: which of `WAYS` it can take.
        fingerprint: names model and weights.
        tokenizer: measures prompts in the model's unit (an estimate for models that are reached over a wire).

    One that answers otherwise under other settings (a chat template, a system text) may have a mapping `settings` as
    well, which tells them: answers that an evaluation has kept under others are then asked anew.
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

    def generate_each(self, requests: Sequence[Request], options: GenerationOptions) -> Iterator[tuple[int, str]]:
        """Index and answer of each of `requests`, in the order in which they arrive; errors as in `generate`.

        What has arrived is handed over before an error is raised.
        """
        ...


def answer_settings(llm: LanguageModel) -> str:
    """What besides model and request decides an LLM's answers, where it tells (see `LanguageModel`)."""
    return repr(sorted(getattr(llm, "settings", {}).items()))
