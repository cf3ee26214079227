"""What goes in and out: records, feedback, and what is held."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StrictFloat, StrictInt, StrictStr, Tag

from persona.errors import DataFormatError
from persona.formats.rows import record_of
from persona.records import Record, check_size
from persona.settings import Settings
from persona.store.holdings import HeldAdapter, HeldIndex, HeldVectors
from persona.store.upkeep.expiry import now

Value = StrictStr | StrictInt | StrictFloat
"""A text, or a number that is taken for one, as in files."""

_Parts = tuple[str, Value, Mapping[str, str | None]]
"""Text, target and metadata."""


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid")

    target: Value | None = None
    time: StrictStr | StrictInt | None = None
    metadata: dict[str, Value | None] | None = None
    role: StrictStr | None = None
    speaker: StrictStr | None = None
    expires: StrictStr | StrictInt | None = None


class RecordIn(_Fields):
    """A record as it is given.

    Attributes:
        id: unique within the user; without one it is made from the content.
        text: what the user read, reviewed or wrote.
        target: what the user made of it: a score, a tag, a title, an answer.
        time: when, ISO 8601, as precise as it is known.
        metadata: further fields.
        role: who spoke, such as user or assistant.
        speaker: the speaker's name.
        expires: when it ceases to hold, ISO 8601.
    """

    id: StrictStr | None = None
    text: StrictStr

    def record(self, record_id: str | None = None) -> Record:
        """The record, checked and brought into form as `persona ingest` does.

        Args:
            record_id: its id, where the URL names one.

        Raises:
            DataFormatError: if a field is not what it may be, or the URL names another id.
        """
        if record_id is not None and self.id not in (None, record_id):
            raise DataFormatError("the `id` of a record must be that in the URL: leave it out")
        return checked({**self.model_dump(), "id": record_id if record_id is not None else self.id})


Records = Annotated[
    Annotated[RecordIn, Tag("record")] | Annotated[list[RecordIn], Tag("records")],
    Discriminator(lambda given: "records" if isinstance(given, list) else "record"),
]
"""One or many."""


class RecordChange(_Fields):
    """Fields of a record to be changed; null removes one, also of the metadata."""

    text: StrictStr | None = None

    def changes(self, old: Record) -> dict[str, Any]:
        """The changed fields of `old` with their new values.

        Raises:
            DataFormatError: if there are none, or one is not what it may be.
        """
        given = {name: getattr(self, name) for name in self.model_fields_set}
        if not given:
            raise DataFormatError(f"name what to change, of {', '.join(type(self).model_fields)}")
        if given.get("metadata") is not None:
            given["metadata"] = {**old.metadata, **given["metadata"]}
        new = checked({**old.as_dict(), **given, "id": old.id})
        return {name: getattr(new, name) for name in given}


class RecordOut(BaseModel):
    """A record as it is held."""

    id: str
    text: str
    target: str | None
    time: str | None
    metadata: dict[str, str]
    role: str | None
    speaker: str | None
    expires: str | None

    @classmethod
    def of(cls, record: Record) -> RecordOut:
        """The record."""
        return cls.model_construct(**record.as_dict())


class RecordPage(BaseModel):
    """Some of a user's records, oldest first; the next page is that `after` the last id."""

    object: Literal["list"] = "list"
    data: list[RecordOut]
    has_more: bool


class Written(BaseModel):
    """What became of the records that were given.

    Attributes:
        ids: of the records, in the order given.
        added: how many were new.
        changed: how many took the place of others with their ids.
        unchanged: how many were there already.
        expired: how many had expired and were left out.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)

    ids: list[str]
    added: int
    changed: int
    unchanged: int
    expired: int


class Deleted(BaseModel):
    """A record that is gone, its bytes too."""

    id: str
    deleted: Literal[True] = True


class Held(BaseModel):
    """Everything that is held on a user, as `persona show --json` prints it."""

    user_id: str
    revision: int
    records: list[RecordOut]
    expired: int
    vectors: tuple[HeldVectors, ...]
    indexes: tuple[HeldIndex, ...]
    adapters: tuple[HeldAdapter, ...]
    others: Mapping[str, int]


class _Feedback(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    id: StrictStr | None = None
    """Of the record that it becomes; give one to be able to send it again."""
    prompt: StrictStr
    """The request that was answered."""


class Rating(_Feedback):
    """How good an answer was: becomes a record of the answer, with the rating as its target."""

    type: Literal["rating"]
    answer: StrictStr
    """What the LLM wrote."""
    rating: Value
    """On whatever scale, always the same one for a user."""

    def parts(self) -> _Parts:
        """The record's."""
        return self.answer, self.rating, {"prompt": self.prompt}


class Correction(_Feedback):
    """What the answer should have been: becomes a record of the request, with the corrected answer as its target."""

    type: Literal["correction"]
    answer: StrictStr | None = None
    """What the LLM wrote."""
    correction: StrictStr
    """What the user made of it."""

    def parts(self) -> _Parts:
        """The record's."""
        return self.prompt, self.correction, {"answer": self.answer}


class Choice(_Feedback):
    """Which of several answers was taken: becomes a record of the request, with the chosen answer as its target."""

    type: Literal["choice"]
    answers: list[StrictStr] = Field(min_length=1)
    """Those that were offered."""
    chosen: int = Field(ge=0, strict=True)
    """Which of them was taken, from 0."""

    def parts(self) -> _Parts:
        """The record's.

        Raises:
            DataFormatError: if there are not so many answers.
        """
        if self.chosen >= len(self.answers):
            raise DataFormatError(
                f"`chosen` must be below the number of answers, {len(self.answers)}, was: {self.chosen}"
            )
        refused = [answer for number, answer in enumerate(self.answers) if number != self.chosen]
        rest = {f"refused_{number}": answer for number, answer in enumerate(refused, 1)}
        return self.prompt, self.answers[self.chosen], rest


Feedback = Annotated[Rating | Correction | Choice, Field(discriminator="type")]


class Learned(BaseModel):
    """The record that feedback became."""

    record: RecordOut


def feedback_record(feedback: Rating | Correction | Choice) -> Record:
    """The record that feedback becomes: dated now, its kind in the metadata.

    Raises:
        DataFormatError: if a field is not what it may be.
    """
    text, target, rest = feedback.parts()
    metadata = {**rest, "feedback": feedback.type}
    return checked({"text": text, "target": target, "metadata": metadata, "id": feedback.id, "time": now()})


def checked(row: Mapping[str, object]) -> Record:
    """The record of a row, by the rules of an ingest.

    Raises:
        DataFormatError: if a field is not what it may be, or it is longer than the server takes.
    """
    pair = record_of({**row, "user_id": "any"})
    if pair is None:
        raise DataFormatError("a record's `text` must not be blank")
    check_size(pair[1], _longest())
    return pair[1]


@cache
def _longest() -> int:
    return Settings().max_record_characters
