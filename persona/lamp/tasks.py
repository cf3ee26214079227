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

from persona.errors import DataFormatError, InvalidOptionError, UnknownTaskError
from persona.formats.fields import check_present, plain_text, short_text
from persona.formats.times import normalise_time
from persona.records import Profile, Record

MOVIE_TAGS = (
    "sci-fi",
    "based on a book",
    "comedy",
    "action",
    "twist ending",
    "dystopia",
    "dark comedy",
    "classic",
    "psychology",
    "fantasy",
    "romance",
    "thought-provoking",
    "social commentary",
    "violence",
    "true story",
)
"""The labels of LaMP_2, in the order of the official input."""

NEWS_CATEGORIES = (
    "women",
    "religion",
    "politics",
    "style & beauty",
    "entertainment",
    "culture & arts",
    "sports",
    "science & technology",
    "travel",
    "business",
    "crime",
    "education",
    "healthy living",
    "parents",
    "food & drink",
)
"""The labels of LaMP_2N, in the order of the official input. Other sets have others: `LampTask.labels_in`."""

LOWER_IS_BETTER = frozenset({"MAE", "RMSE"})
"""The metrics that measure an error."""

_LABEL_LIST = re.compile(r"(?:tags|categories): \[([^\]]*)\]")


@dataclass(frozen=True, slots=True)
class LampTask:
    """One task of LaMP.

    Attributes:
        name: ``"LaMP_1"`` ... ``"LaMP_7"``; ``"LaMP_2N"`` is the news task that was called LaMP_2 until 2024.
        title: the task in human words.
        text_field: the field of a profile's record that becomes `Record.text`.
        target_field: the field that becomes `Record.target`; None where users only write text (LaMP_7).
        extra_fields: fields that are kept in `Record.metadata`.
        view: the view (`Record.view`) that LaMP's retrievers index.
        labels: the possible answers, None where the answer is free text.
        metrics: the official keys; the first one selects models.
        opening: how every input of the task begins; tells the tasks apart.
        template: the official input with ``{text}``, ``{labels}``, ``{reference_1}``, ``{reference_2}``.
        query_marker: LaMP's query is what follows its first occurrence in the input; None for LaMP_1.
    """

    name: str
    title: str
    text_field: str
    target_field: str | None
    extra_fields: tuple[str, ...]
    view: str
    labels: tuple[str, ...] | None
    metrics: tuple[str, ...]
    opening: str
    template: str
    query_marker: str | None

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
        if metric not in self.metrics:
            known = ", ".join(self.metrics)
            raise InvalidOptionError(f"a metric of {self.name} must be one of {known}, was: {metric!r}")
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


def _task(
    name: str,
    title: str,
    template: str,
    *,
    opening: str,
    text: str = "text",
    target: str | None = None,
    extra: tuple[str, ...] = (),
    view: str = "text",
    labels: tuple[str, ...] | None = None,
    metrics: tuple[str, ...] = _ROUGE,
    marker: str | None = ":",
) -> LampTask:
    return LampTask(name, title, text, target, extra, view, labels, metrics, opening, template, marker)


_TASKS = (
    _task(
        "LaMP_1",
        "citation identification",
        'For an author who has written the paper with the title "{text}", which reference is related? '
        'Just answer with [1] or [2] without explanation. [1]: "{reference_1}" [2]: "{reference_2}"',
        opening="For an author who has written the paper",
        text="abstract",
        target="title",
        view="target+text",
        labels=("[1]", "[2]"),
        metrics=_CHOICE,
        marker=None,
    ),
    _task(
        "LaMP_2",
        "movie tags",
        "Which tag does this movie relate to among the following tags? Just answer with the tag name without "
        "further explanation. tags: [{labels}] description: {text}",
        opening="Which tag does this movie relate to",
        text="description",
        target="tag",
        labels=MOVIE_TAGS,
        metrics=_CHOICE,
        marker="description:",
    ),
    _task(
        "LaMP_2N",
        "news categories",
        "Which category does this article relate to among the following categories? Just answer with the "
        "category name without further explanation. categories: [{labels}] article: {text}",
        opening="Which category does this article relate to",
        target="category",
        extra=("title",),
        view="title+text",
        labels=NEWS_CATEGORIES,
        metrics=_CHOICE,
        marker="article:",
    ),
    _task(
        "LaMP_3",
        "product ratings",
        "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 "
        "without further explanation. review: {text}",
        opening="What is the score of the following review",
        target="score",
        labels=("1", "2", "3", "4", "5"),
        metrics=_ERROR,
        marker="review:",
    ),
    _task(
        "LaMP_4",
        "news headlines",
        "Generate a headline for the following article: {text}",
        opening="Generate a headline for the following article",
        target="title",
        view="target+text",
        marker="article:",
    ),
    _task(
        "LaMP_5",
        "scholarly titles",
        "Generate a title for the following abstract of a paper: {text}",
        opening="Generate a title for the following abstract",
        text="abstract",
        target="title",
        view="target+text",
        marker="paper:",
    ),
    _task(
        "LaMP_6",
        "e-mail subjects",
        "Generate a subject for the following email: {text}",
        opening="Generate a subject for the following email",
        target="title",
    ),
    _task(
        "LaMP_7",
        "tweet paraphrasing",
        "Paraphrase the following tweet without any explanation before or after it: {text}",
        opening="Paraphrase the following tweet",
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
