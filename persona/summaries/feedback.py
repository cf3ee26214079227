"""Feedback as guidance: what a user said of earlier answers, as notes in the prompt.

>>> from persona.records import Profile
>>> given = feedback_record("Far too long.", score=2, instruction="Answer in one sentence.")
>>> FeedbackChannel().contribute([Ask(Profile("ana", (given,)), "And tonight?", "And tonight?")])[0].notes
("Said of an earlier answer: 'Far too long.' Score: 2. Asked for: 'Answer in one sentence.'",)

Feedback is a record of the user's, in their own words: listed, exported, deleted and erased as others are. A note is
quoted as every text of unknown origin is: it tells the LLM what the user wants, and cannot open a turn of its own.

Source: the instructor of "Generative Recommendation" (GeneRec, arXiv 2304.03516), which turns feedback into guidance.
"""

from __future__ import annotations

from collections.abc import Sequence

from persona.channels import Ask, Channel, Contribution
from persona.errors import check_least
from persona.records import Record

KIND, FEEDBACK = "persona:kind", "feedback"
"""The field of a record's metadata that says it is feedback, and its value."""


def feedback_fields(score: float | None = None, instruction: str | None = None) -> dict[str, str]:
    """The metadata of feedback."""
    fields = {"score": None if score is None else f"{score:g}", "instruction": instruction}
    return {KIND: FEEDBACK, **{name: value for name, value in fields.items() if value is not None}}


def feedback_record(
    text: str, *, score: float | None = None, instruction: str | None = None, time: str | None = None
) -> Record:
    """Feedback as a record.

    Args:
        text: what the user said of an answer.
        score: how good they found it, on any scale of yours.
        instruction: what they want from now on.
        time: when it was said, ISO 8601.

    Raises:
        DataFormatError: if `text` is blank, or a field has the wrong type.
    """
    return Record(text, time=time, role="user", metadata=feedback_fields(score, instruction))


class FeedbackChannel(Channel):
    """Contributes a user's last feedback as notes, the newest first; nothing for users without any.

    Args:
        k: how much of it at most, at least 1.

    Raises:
        InvalidOptionError: if `k` is below 1.
    """

    name = "feedback"

    def __init__(self, k: int = 3) -> None:
        check_least(1, k=k)
        self._k = k

    def contribute(self, asks: Sequence[Ask]) -> list[Contribution]:
        """What the users of `asks` said."""
        return [Contribution(notes=notes, source=FEEDBACK if notes else None) for notes in map(self._notes, asks)]

    def _notes(self, ask: Ask) -> tuple[str, ...]:
        given = [record for record in ask.profile if record.metadata.get(KIND) == FEEDBACK]
        return tuple(map(_note, given[: -self._k - 1 : -1]))


def _note(record: Record) -> str:
    score, instruction = record.metadata.get("score"), record.metadata.get("instruction")
    said = f"Said of an earlier answer: '{record.text}'" + (f" Score: {score}." if score else "")
    return f"{said} Asked for: '{instruction}'" if instruction else said
