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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from persona.errors import DataFormatError, InvalidOptionError, UnknownTaskError, check_one_of
from persona.formats.fields import check_present, plain_text, short_text
from persona.formats.times import normalise_time
from persona.lamp.labels import MOVIE_TAGS, NEWS_CATEGORIES
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
    """One task of LaMP: all that is known of it, in the table at the end of this file.

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
    query_marker: str | None
    text_field: str = "text"
    target_field: str | None = "title"
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


_CHOICE = ("accuracy", "f1")
_ERROR = ("MAE", "RMSE")
_ROUGE = ("rouge-1", "rouge-L")
_TITLE = RecordForm('"{target}" is the title for "{text}" ')

_TASKS = (
    LampTask(
        name="LaMP_1",
        title="citation identification",
        template='For an author who has written the paper with the title "{text}", which reference is related? '
        'Just answer with [1] or [2] without explanation. [1]: "{reference_1}" [2]: "{reference_2}"',
        opening="For an author who has written the paper",
        query_marker=None,
        text_field="abstract",
        view="target+text",
        labels=("[1]", "[2]"),
        metrics=_CHOICE,
        form=RecordForm('"{text}"', end="", end_tokens=0),
        habit="which subjects the author's papers treat, and which other work they would cite",
    ),
    LampTask(
        name="LaMP_2",
        title="movie tags",
        template="Which tag does this movie relate to among the following tags? Just answer with the tag name without "
        "further explanation. tags: [{labels}] description: {text}",
        opening="Which tag does this movie relate to",
        query_marker="description:",
        text_field="description",
        target_field="tag",
        labels=MOVIE_TAGS,
        metrics=_CHOICE,
        form=RecordForm('the tag for the movie: "{text}" is "{target}" '),
        habit="which tag the user prefers where several fit a film",
        typical_record="a typical movie of this user",
    ),
    LampTask(
        name="LaMP_2N",
        title="news categories",
        template="Which category does this article relate to among the following categories? Just answer with the "
        "category name without further explanation. categories: [{labels}] article: {text}",
        opening="Which category does this article relate to",
        query_marker="article:",
        target_field="category",
        extra_fields=("title",),
        view="title+text",
        labels=NEWS_CATEGORIES,
        metrics=_CHOICE,
        form=RecordForm('the category for the article: "{text}" is "{target}" '),
        habit="which categories the author's articles belong to, and what about them decides it",
        typical_record="a typical article of this user",
    ),
    LampTask(
        name="LaMP_3",
        title="product ratings",
        template="What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 "
        "without further explanation. review: {text}",
        opening="What is the score of the following review",
        query_marker="review:",
        target_field="score",
        labels=("1", "2", "3", "4", "5"),
        metrics=_ERROR,
        form=RecordForm('{target} is the score for "{text}" '),
        habit="how strictly the user scores from 1 to 5, and what raises or lowers a score",
        typical_record="a typical review of this user",
    ),
    LampTask(
        name="LaMP_4",
        title="news headlines",
        template="Generate a headline for the following article: {text}",
        opening="Generate a headline for the following article",
        query_marker="article:",
        view="target+text",
        metrics=_ROUGE,
        form=_TITLE,
        habit="how the author words headlines: subjects, length, tone and words that come again",
        typical_record="a typical article of this user",
    ),
    LampTask(
        name="LaMP_5",
        title="scholarly titles",
        template="Generate a title for the following abstract of a paper: {text}",
        opening="Generate a title for the following abstract",
        query_marker="paper:",
        text_field="abstract",
        view="target+text",
        metrics=_ROUGE,
        form=RecordForm(
            '"{target}" is a title for "{text}" ',
            counted_piece='"{target}" is title for " " ',
            end=". Following the given patterns ",
            counted_end="Following the given patterns",
        ),
        habit="how the author words titles of papers: subjects, length, form and words that come again",
        typical_record="a typical paper of this user",
    ),
    LampTask(
        name="LaMP_6",
        title="e-mail subjects",
        template="Generate a subject for the following email: {text}",
        opening="Generate a subject for the following email",
        query_marker=":",
        metrics=_ROUGE,
        form=_TITLE,
        habit="how the user words subjects of e-mails: length, tone and words that come again",
        typical_record="a typical email of this user",
    ),
    LampTask(
        name="LaMP_7",
        title="tweet paraphrasing",
        template="Paraphrase the following tweet without any explanation before or after it: {text}",
        opening="Paraphrase the following tweet",
        query_marker=":",
        target_field=None,
        metrics=_ROUGE,
        form=RecordForm(
            '"{text}" ',
            end=" are written by a person. Following the given patterns ",
            counted_end="are written by user. Following the given patterns",
        ),
        habit="how the user writes: tone, length, spelling and words that come again",
    ),
)

TASKS: Mapping[str, LampTask] = MappingProxyType({task.name: task for task in _TASKS})
"""The tasks by name, in LaMP's order."""


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
