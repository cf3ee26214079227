"""Channels: how knowledge of a user reaches a frozen LLM.

Every channel has a name, declares what the LLM must accept, and contributes to a batch of requests, which may mix
users:

>>> class Signature(Channel):
...     name = "signature"
...     def contribute(self, asks):
...         return [Contribution(notes=(f"Signs as {ask.profile.user_id}.",)) for ask in asks]

Those of persona: `persona.retrievers.channel.RecordsChannel`, `persona.summaries.channel.SummaryChannel`,
`persona.soft_prompts.channel.SoftPromptChannel`, `persona.steering.channel.SteeringChannel` and
`persona.adapters.channel.AdapterChannel`. Your own needs no change to persona: give it to a `Personalizer`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from persona.errors import InvalidOptionError, UnsupportedChannelError
from persona.protocols import (
    ADAPTER,
    LIFTS,
    SOFT_PROMPT,
    STEERING,
    TEXT,
    Choices,
    Encoding,
    LanguageModel,
    Lifts,
    Message,
    Wording,
)
from persona.records import Profile, ScoredRecord

if TYPE_CHECKING:
    import torch

_TAKEN_BY = {
    TEXT: "any LLM",
    SOFT_PROMPT: "transformers models (a folder, a hub id, 'tiny' or (model, tokenizer)), and by a vLLM server that is "
    "given its `hidden_size`",
    ADAPTER: "transformers models with an open AdapterPool, and by a vLLM server that is given `adapter_name`",
    LIFTS: "transformers models (a folder, a hub id, 'tiny' or (model, tokenizer))",
    STEERING: "transformers models (a folder, a hub id, 'tiny' or (model, tokenizer))",
}


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of one user.

    Attributes:
        profile: the user's records; empty for a cold-start user.
        prompt: the request.
        query: the part of the prompt that records are searched by; often all of it.
        choices: the legal answers; None where any text is.
        turns: the turns of the conversation before `prompt`, oldest first.
    """

    profile: Profile
    prompt: str
    query: str
    choices: Choices | None = None
    turns: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Contribution:
    """What a channel adds to one request.

    Attributes:
        records: records of the user's own profile, best first.
        notes: short texts about the user; in a task's wording they may be targets that stand for all of the user's
            (`persona.lamp.prompts.LampWording`).
        source: where the notes come from, e.g. ``"stats:LaMP_3:scores"``.
        soft_prompt: vectors in front of the prompt's embeddings, float.  # (n_tokens, llm_hidden)
        adapter: name of the adapter to answer with.
        lifts: what is added to the logits of the answer's tokens.
        steering: what is added to the hidden states behind blocks of the model; that of several channels is summed.
            # (llm_hidden,) each
        personal: False if every user would get the same: the soft prompt of a user without records, the prior.
        identity: what besides its name determines the weights of `adapter`; an evaluation stores answers under it.
    """

    records: tuple[ScoredRecord, ...] = ()
    notes: tuple[str, ...] = ()
    source: str | None = None
    soft_prompt: torch.Tensor | None = None
    adapter: str | None = None
    lifts: Lifts | None = None
    steering: Mapping[int, torch.Tensor] | None = None
    personal: bool = True
    identity: str = ""

    @property
    def tokens(self) -> int:
        """Tokens that it adds besides text; those of text are counted by the prompt builder."""
        return 0 if self.soft_prompt is None else len(self.soft_prompt)


class Channel(ABC):
    """One way from a user's history to a frozen LLM.

    Attributes:
        name: its name in results and answers.
        requires: what the LLM must accept, one of `persona.protocols.WAYS`.
        reads_profile: whether it contributes what stands in `Ask.profile`; False for one that looks users up by id.
        wording: the wording of the task that it was trained on, if any; a `Personalizer` without a builder of its own
            uses it.
    """

    name: str
    requires: str = TEXT
    reads_profile: bool = True
    wording: Wording | None = None

    @abstractmethod
    def contribute(self, asks: Sequence[Ask]) -> list[Contribution]:
        """One contribution for each of `asks`, in order; an empty `Contribution` for nothing."""

    def encodings(self) -> set[Encoding]:
        """The encoders and views of records whose stored vectors it reads: what a server keeps fresh."""
        return set()

    def serving(self) -> AbstractContextManager[object]:
        """Open while the LLM answers; a channel that serves weights attaches them here."""
        return nullcontext()


def check_way(llm: LanguageModel, way: str, wanted_by: str) -> None:
    """Refuse an LLM that does not accept one of the ways.

    Args:
        llm: the LLM.
        way: one of `persona.protocols.WAYS`.
        wanted_by: who needs it, for the message, e.g. ``"the channel 'soft_prompt'"``.

    Raises:
        UnsupportedChannelError: if `way` is not among ``llm.channels``.
    """
    # Every LLM takes text, and what else it takes may have to be found out.
    if way == TEXT or way in llm.channels:
        return
    refusal = getattr(llm, "refusal", None)
    why = refusal(way) if callable(refusal) else None
    raise UnsupportedChannelError(
        f"the LLM {llm.fingerprint} takes {', '.join(sorted(llm.channels))}, but {wanted_by} needs: {way}, "
        + (f"which is taken by {_TAKEN_BY[way]}" if why is None else f"which is not for it: {why}")
    )


def summed(given: Sequence[Mapping[int, Any] | None]) -> dict[int, Any] | None:
    """What several channels add behind each block, in their order; None for nothing."""
    summed: dict[int, Any] = {}
    for each in given:
        for block, vector in (each or {}).items():
            summed[block] = summed[block] + vector if block in summed else vector
    return summed or None


def only(what: str, found: Sequence[Any]) -> Any:
    """The only value that is not None; None if there is none.

    Raises:
        InvalidOptionError: if there are several.
    """
    given = [each for each in found if each is not None]
    if len(given) > 1:
        raise InvalidOptionError(f"one channel may bring {what}, {len(given)} did: leave the others out")
    return given[0] if given else None
