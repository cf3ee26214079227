"""The whole history of a user in the request, as far as it fits, and of it the evidence alone: two rows that say what
retrieval costs and what it could reach.

Where the history is too long its oldest records are left out, and a report says of how many requests
(`persona.eval.answers.CONTEXT_CUT`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from persona.channels import Ask, Channel, Contribution
from persona.eval.benchmark import Question
from persona.eval.controls import Control
from persona.eval.methods import Arm, Method
from persona.prompts import PromptBuilder
from persona.protocols import BoundedPrompt, GenerationOptions, LanguageModel
from persona.records import Profile, Record, ScoredRecord

_MARGIN = 32
"""Tokens kept free: the parts of a prompt are measured one by one, and the whole may be split into a few more."""


class WholeHistory(Channel):
    """Contributes all records, oldest first; of a history that does not fit, the newest.

    Args:
        llm: says how long a prompt may be.
        builder: measures records as it will show them.
        options: how the LLM answers, which takes room.
        most: most tokens of the history; None for what the LLM takes, or all where that is not known.

    Attributes:
        whole: a request without a record of the profile is one that was cut.
    """

    name = "history"
    whole = True

    def __init__(
        self, llm: LanguageModel, builder: PromptBuilder, options: GenerationOptions, most: int | None = None
    ) -> None:
        self._builder, self._most = builder, most
        self._limit = llm.prompt_limit(options) if isinstance(llm, BoundedPrompt) else None
        self._sizes: dict[Record, int] = {}

    def contribute(self, asks: Sequence[Ask]) -> list[Contribution]:
        """The records of each profile that fit beside the prompt."""
        return [Contribution(tuple(ScoredRecord(record, 0.0) for record in self._fitting(ask))) for ask in asks]

    def _fitting(self, ask: Ask) -> Sequence[Record]:
        room = self._room(ask.prompt)
        if room is None:
            return ask.profile.records
        start = len(ask.profile)
        for record in reversed(ask.profile.records):
            room -= self._size(record)
            if room < 0:
                break
            start -= 1
        return ask.profile.records[start:]

    def _room(self, prompt: str) -> int | None:
        taken = self._builder.tokenizer.count(prompt) + _MARGIN
        rooms = [self._most, None if self._limit is None else self._limit - taken]
        return min((room for room in rooms if room is not None), default=None)

    def _size(self, record: Record) -> int:
        if record not in self._sizes:
            self._sizes[record] = self._builder.size(record)
        return self._sizes[record]


@dataclass(frozen=True, slots=True)
class EvidenceAlone(Control):
    """A method with `WholeHistory` that sees of each history the evidence and nothing else: what perfect retrieval
    would reach. Questions that name none see an empty history."""

    name: str = "evidence alone"

    def of(self, method: Method, questions: Sequence[Question]) -> Arm | None:
        """That row; None for other methods, or where no question names evidence."""
        whole = [isinstance(channel, WholeHistory) for run in method.personalizers for channel in run.channels]
        if not whole or not all(whole) or not any(question.evidence for question in questions):
            return None
        profiles = (
            Profile(each.profile.user_id, tuple(one for one in each.profile if one.id in set(each.evidence)))
            for each in questions
        )
        return Arm(replace(method, control=self.name), tuple(profiles))
