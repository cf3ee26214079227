"""The facts of the LaMP benchmark's eight tasks: fields, inputs, queries, labels and metrics.

LaMP (Salemi et al., "When Large Language Models Meet Personalization", arXiv 2304.11406) asks

    {"id": "310", "user_id": "u7", "date": "2012-11-09",
     "input": "What is the score of the following review ... review: Moody and stylish.",
     "profile": [{"id": "3100", "text": "Not funny, man.", "score": "1", "date": "2004-10-14"}]}

and each task names the fields of its profile in its own way. A `LampTask` knows these names, and turns what
they hold into a `persona.records.Record` and back:

>>> task = lamp_task("LaMP_3")
>>> task.record({"id": "3100", "text": "Not funny, man.", "score": "1", "date": "2004-10-14"}).target
'1'
>>> task.query("What is the score of the following review ... review: Moody and stylish.")
'Moody and stylish.'
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Any

from persona.errors import DataFormatError, InvalidOptionError, UnknownTaskError, check_one_of
from persona.formats.fields import check_present, plain_text, short_text
from persona.formats.times import normalise_time
from persona.records import Profile, Record

LOWER_IS_BETTER = frozenset({"MAE", "RMSE"})
"""The metrics that measure an error."""

_LABEL_LIST = re.compile(r"(?:tags|categories): \[([^\]]*)\]")


@dataclass(frozen=True, slots=True)
class RecordForm:
    """How a task words its records, and what of it the official budget counts (which is not always the same).

    Attributes:
        piece: one record, with ``{text}`` for the long field, which may be cut, and ``{target}``.
        counted_piece: counted for a record without its long field; None is `piece` around a blank.
        end: what stands between the records and the question.
        counted_end: counted for the words of `end`.
        end_tokens: counted for the rest of `end`.
    """

    piece: str
    counted_piece: str | None = None
    end: str = ". "
    counted_end: str = ""
    end_tokens: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LampTask:
    """One task of LaMP: all that is known of it, in the file tasks.toml.

    Attributes:
        name: ``"LaMP_1"`` ... ``"LaMP_7"``; ``"LaMP_2N"`` is the news task that was called LaMP_2 until 2024.
        title: the task in human words.
        template: the official input with ``{text}``, ``{labels}``, ``{reference_1}``, ``{reference_2}``.
        opening: how every input of the task begins; tells the tasks apart.
        query_marker: LaMP's query is what follows its first occurrence in the input; None for LaMP_1.
        text_field: the field of a profile's record that becomes `Record.text`.
        target_field: the field that becomes `Record.target`; None where users only write text (LaMP_7).
        extra_fields: fields that are kept in `Record.metadata`.
        view: the view (`Record.view`) that LaMP's retrievers index.
        labels: the possible answers, None where the answer is free text.
        metrics: the official keys; the first one selects models.
        form: how the official prompts word a record.
        habit: what is typical of a user in this task, as a summary is asked for it.
        typical_record: the text of a record whose target stands for all of a user's targets; None where users give no
            target of their own making.
    """

    name: str
    title: str
    template: str
    opening: str
    query_marker: str | None = None
    text_field: str = "text"
    target_field: str | None = None
    extra_fields: tuple[str, ...] = ()
    view: str = "text"
    labels: tuple[str, ...] | None = None
    metrics: tuple[str, ...]
    form: RecordForm
    habit: str
    typical_record: str | None = None

    @property
    def official_name(self) -> str:
        """The name in official outputs and predictions files: LaMP_2N calls itself LaMP_2 there."""
        return "LaMP_2" if self.name == "LaMP_2N" else self.name

    @property
    def fields(self) -> tuple[str, ...]:
        """All fields that a record of the task must have in a LaMP file, but for its id."""
        targets = () if self.target_field is None else (self.target_field,)
        return (self.text_field, *self.extra_fields, *targets)

    def higher_is_better(self, metric: str) -> bool:
        """Whether a better system has a higher `metric`.

        Raises:
            InvalidOptionError: if `metric` is none of the task's.
        """
        check_one_of(self.metrics, metric=metric)
        return metric not in LOWER_IS_BETTER

    def make_input(
        self, text: str, *, labels: Sequence[str] | None = None, references: tuple[str, str] | None = None
    ) -> str:
        """The official input string.

        Args:
            text: the movie's description, the article, the review, ...; for LaMP_1 the title of the paper.
            labels: the labels to choose from, for LaMP_2 and LaMP_2N only; `self.labels` if None.
            references: the two titles to choose from, for LaMP_1 only.

        Raises:
            InvalidOptionError: if `references` are missing for LaMP_1, or given for another task.
        """
        if (references is not None) != (self.name == "LaMP_1"):
            raise InvalidOptionError(
                f"`references` must be given for LaMP_1 and for no other task, this is {self.name}"
            )
        first, second = references or ("", "")
        listed = ", ".join(labels if labels is not None else self.labels or ())
        return self.template.format(text=text, labels=listed, reference_1=first, reference_2=second)

    def labels_in(self, input: str) -> tuple[str, ...] | None:
        """The labels to choose from: those that `input` lists in brackets, else `labels`."""
        if self.name not in ("LaMP_2", "LaMP_2N"):
            return self.labels
        match = _LABEL_LIST.search(input)
        named = tuple(filter(None, (label.strip() for label in match[1].split(",")))) if match else ()
        return named or self.labels

    def query(self, input: str) -> str:
        """What LaMP's retrievers search for.

        As in the official code, LaMP_1 takes the second and third piece between double quotes: the
        references, unless the paper's own title holds quotes. Where the official code fails (an input that is
        not of the task's form), the whole input is the query.
        """
        if self.query_marker is None:
            quoted = input.split('"')[1:-1:2]
            return f"{quoted[1]} {quoted[2]}".strip() if len(quoted) > 2 else input.strip()
        _, marker, rest = input.partition(self.query_marker)
        return rest.strip() if marker else input.strip()

    def record(self, entry: Mapping[str, object]) -> Record:
        """The record that a LaMP file writes as `entry`.

        Its id is that of its content: the ids in a LaMP file are local to a question. Numbers are taken for
        their text (``"score": 5``). Fields that the task does not name are left out.

        Raises:
            DataFormatError: if a field is missing or of the wrong type, the text blank, or the date none.
        """
        check_present(entry, self.fields, f"a record of {self.name}")
        return Record(
            plain_text(entry[self.text_field], self.text_field),
            target=None if self.target_field is None else short_text(entry[self.target_field], self.target_field),
            time=normalise_time(entry.get("date")),
            metadata={field: short_text(entry[field], field) for field in self.extra_fields},
        )

    def entry(self, record: Record, id: str) -> dict[str, str]:
        """`record` as a LaMP file writes it: the inverse of `record`, for writing official files.

        Raises:
            DataFormatError: if the record has no target, or lacks a metadata field, that the task asks for.
        """
        values = {**record.metadata, self.text_field: record.text}
        if self.target_field is not None and record.target is not None:
            values[self.target_field] = record.target
        missing = [field for field in self.fields if field not in values]
        if missing:
            raise DataFormatError(f"a record of {self.name} must have `{missing[0]}`: the record {record.id} has none")
        dated = {} if record.time is None else {"date": record.time}
        return {"id": id, **{field: values[field] for field in self.fields}, **dated}


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a LaMP split.

    Attributes:
        id: unique within the split.
        user_id: who asks; the question's id in LaMP's user split, where nobody asks twice.
        input: the official input, instruction included.
        profile: the records in the order of the file, repeated ones kept.
        time: when it was asked, ISO 8601; None where the file does not say.
    """

    id: str
    user_id: str
    input: str
    profile: Profile
    time: str | None = None


@dataclass(frozen=True, slots=True)
class LampSplit:
    """All questions of one split.

    Attributes:
        task: what is asked.
        questions: in the order of the file.
        golds: question id -> the right answer; None where the outputs are withheld.
        labels: the possible answers, as the inputs list them; None where the answer is free text.
        skipped: how many records of the file were left out because their text is blank.
    """

    task: LampTask
    questions: tuple[Question, ...]
    golds: Mapping[str, str] | None
    labels: tuple[str, ...] | None
    skipped: int = 0


def _task(name: str, form: Mapping[str, Any], **fields: Any) -> LampTask:
    listed: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    return LampTask(name=name, form=RecordForm(**form), **listed)


_FACTS = tomllib.loads(resources.files("persona.lamp").joinpath("tasks.toml").read_text("utf-8"))
TASKS: Mapping[str, LampTask] = MappingProxyType({name: _task(name, **facts) for name, facts in _FACTS.items()})
"""The tasks by name, in LaMP's order."""

MOVIE_TAGS, NEWS_CATEGORIES = TASKS["LaMP_2"].labels or (), TASKS["LaMP_2N"].labels or ()
"""The labels of LaMP_2 and LaMP_2N, in the order of the official input; other sets have others."""


def lamp_task(name: str) -> LampTask:
    """The task called `name`; ``LaMP_3``, ``LaMP-3``, ``lamp3`` and ``3`` are one.

    Raises:
        UnknownTaskError: if there is none.
    """
    short = re.sub(r"[\s_-]", "", name).casefold().removeprefix("lamp").upper()
    task = TASKS.get(f"LaMP_{short}")
    if task is None:
        raise UnknownTaskError(f"a LaMP task must be one of {', '.join(TASKS)}, was: {name!r:.80}")
    return task
