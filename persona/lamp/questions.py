"""LaMP's questions: a whole split in memory, or the records of all its profiles one after the other.

``dev_questions.json`` holds a list of questions (see `persona.lamp.tasks`), or an object with that list under
``golds``, as LaMP's script for the e-mail task writes it. It may be gzipped. Questions are read one by one.

A record whose text is null or blank is skipped and counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from persona.errors import DataFormatError, located
from persona.formats.fields import check_present, described, id_text, listed, plain_text
from persona.formats.text_files import read_elements
from persona.formats.times import normalise_time
from persona.lamp.outputs import GOLDS, read_golds
from persona.lamp.tasks import TASKS, LampSplit, LampTask, Question, lamp_task
from persona.records import Profile, Record, check_user_id

SPLITS = ("train", "dev", "test")
"""LaMP's splits."""

_LISTED = 5


def read_split(
    folder: str | PathLike[str],
    split: str = "dev",
    golds: str | PathLike[str] | None = None,
    *,
    task: str | None = None,
) -> LampSplit:
    """One split of a LaMP folder: ``dev_questions.json`` and, where it exists, ``dev_outputs.json``.

    Args:
        folder: holds the files, plain or as ``.json.gz``.
        split: ``train``, ``dev`` or ``test``.
        golds: an outputs file from elsewhere.
        task: as for `read_lamp`.

    Raises:
        DataFormatError: if there is no such questions file, and as `read_lamp`.
        UnknownTaskError: if there is no task called `task`.
    """
    questions = _split_file(folder, split, "questions")
    if questions is None:
        has = ", ".join(path.name for path in _questions_files(folder)) or "no questions"
        raise DataFormatError(f"the folder must have {split}_questions.json, has: {has}", source=folder)
    return read_lamp(questions, golds or _split_file(folder, split, "outputs"), task=task)


def has_split(folder: str | PathLike[str], split: str) -> bool:
    """Whether a LaMP folder has the questions of a split."""
    return _split_file(folder, split, "questions") is not None


def read_lamp(
    questions: str | PathLike[str], outputs: str | PathLike[str] | None = None, *, task: str | None = None
) -> LampSplit:
    """All questions of a file, with their right answers if `outputs` are given.

    Equal records are one object in memory: a user's history is repeated in each of the user's questions.

    Args:
        questions: a questions file.
        outputs: the outputs file with the same ids.
        task: the task's name. None takes that of `outputs`, else the one that inputs and fields belong to.
            News with categories are LaMP_2N, also where a file calls them LaMP_2, as LaMP once did.

    Raises:
        DataFormatError: if a file is broken, a field is missing or of the wrong type, ids repeat or differ
            between the files, or the task is not clear.
        UnknownTaskError: if there is no task called `task`.
    """
    named = None if task is None else lamp_task(task)
    declared = golds = None
    if outputs is not None:
        its_name, golds = read_golds(outputs)
        with located(outputs):
            declared = None if its_name is None else lamp_task(its_name)
    its_task = _task_of(questions, named, declared)
    read: dict[str, Question] = {}
    known: dict[bytes, Record] = {}
    skipped = 0
    for raw in _raw_questions(questions):
        if raw.id in read:
            raise raw.error(f"the ids of questions must differ, {raw.id!r:.80} repeats")
        records = []
        for index, entry in enumerate(raw.entries):
            if _is_blank(entry, its_task):
                skipped += 1
                continue
            key = _content_key(entry, its_task)
            if key not in known:
                known[key] = raw.record(index, its_task)
            records.append(known[key])
        read[raw.id] = Question(raw.id, raw.user_id, raw.input, Profile(raw.user_id, tuple(records)), raw.time)
    if golds is not None:
        _check_ids(read, golds, f"the outputs must have the ids of the questions in {questions}", outputs)
        golds = {id: golds[id] for id in read}
    labels = dict.fromkeys(label for question in read.values() for label in its_task.labels_in(question.input) or ())
    return LampSplit(its_task, tuple(read.values()), golds, tuple(labels) or None, skipped)


def lamp_records(source: str | PathLike[str], *, task: str | None = None) -> Iterator[tuple[str, Record] | None]:
    """The records of all profiles in a questions file, or in the questions files of a folder.

    A user's profile is the union over the user's questions: each record comes once. Memory grows with the
    number of different records (about 100 bytes for each), not with the files.

    Yields:
        (user id, record), or None for a record that is left out because its text is blank.

    Raises:
        DataFormatError: as `read_lamp`.
        UnknownTaskError: if there is no task called `task`.
    """
    named = None if task is None else lamp_task(task)
    files = list(_questions_files(source)) if Path(source).is_dir() else [Path(source)]
    if not files:
        wanted = ", ".join(f"{split}_questions.json" for split in SPLITS)
        raise DataFormatError(f"the folder must have one of {wanted}, has none", source=source)
    seen: set[bytes] = set()
    for file in files:
        its_task = _task_of(file, named, None, any_fits=True)
        for raw in _raw_questions(file):
            for index, entry in enumerate(raw.entries):
                if _is_blank(entry, its_task):
                    yield None
                    continue
                key = _content_key(entry, its_task, raw.user_id)
                if key in seen:
                    continue
                record = raw.record(index, its_task)
                # One record may be written in two ways, with 5 and "5", or 2013-9-3 and 2013-09-03.
                record_key = _digest([raw.user_id, record.id])
                if record_key not in seen:
                    yield raw.user_id, record
                seen.update((key, record_key))


@dataclass(frozen=True, slots=True)
class _RawQuestion:
    """A question whose own fields are checked and whose records are still as in the file."""

    path: str | PathLike[str]
    index: int
    id: str
    user_id: str
    input: str
    time: str | None
    entries: list[dict[str, object]]

    def record(self, index: int, task: LampTask) -> Record:
        with located(self.path, f"question {self.index}, record {index}"):
            return task.record(self.entries[index])

    def error(self, message: str) -> DataFormatError:
        return DataFormatError(message, source=self.path, place=f"question {self.index}")


def _raw_questions(path: str | PathLike[str]) -> Iterator[_RawQuestion]:
    index = -1
    for index, value in enumerate(read_elements(path, GOLDS)):
        with located(path, f"question {index}"):
            question = _raw_question(value, path, index)
        yield question
    if index < 0:
        raise DataFormatError("the file must hold questions, its list is empty", source=path)


def _raw_question(value: object, path: str | PathLike[str], index: int) -> _RawQuestion:
    if not isinstance(value, dict):
        raise DataFormatError(f"a question must be an object, was: {described(value)}")
    check_present(value, ("id", "input", "profile"), "a question")
    entries = value["profile"]
    if not isinstance(entries, list):
        raise DataFormatError(f"`profile` must be a list, was: {described(entries)}")
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataFormatError(f"record {position} of `profile` must be an object, was: {described(entry)}")
    id = id_text(value["id"], "id")
    # The user split names no users: each user asks once in it.
    user_id = check_user_id(id_text(value["user_id"], "user_id") if "user_id" in value else id)
    input, time = plain_text(value["input"], "input"), normalise_time(value.get("date"))
    return _RawQuestion(path, index, id, user_id, input, time, entries)


def _task_of(
    path: str | PathLike[str], named: LampTask | None, declared: LampTask | None, *, any_fits: bool = False
) -> LampTask:
    """The task of a questions file, by the first question whose input or profile shows it.

    Args:
        path: the file.
        named: the task that the caller names, which is believed.
        declared: the task that the outputs name, which must agree with the questions.
        any_fits: any task will do whose records have these fields: only the records are read.
    """
    for question in _raw_questions(path):
        fields = {field for entry in question.entries[:1] for field in entry} - {"id", "date"}
        fitting = [task for task in TASKS.values() if question.input.startswith(task.opening)]
        fitting = fitting or [task for task in TASKS.values() if fields == set(task.fields)]
        if not fitting and not fields:
            continue
        if named is not None or declared is not None:
            if fitting == [TASKS["LaMP_2N"]] and TASKS["LaMP_2"] in (named, declared):
                return fitting[0]
            if named is None and fitting and declared not in fitting:
                its, theirs = fitting[0].name, declared.name if declared else ""
                raise question.error(f"the question is of {its}, the outputs are of {theirs}: give its outputs")
            break
        if len(fitting) == 1 or (fitting and any_fits):
            return fitting[0]
        raise question.error(f"the LaMP task is not clear from {listed(sorted(fields))}: name it (task=, --task)")
    task = named or declared
    if task is None and not any_fits:
        message = "the LaMP task is not clear from inputs and empty profiles: name it (task=, --task)"
        raise DataFormatError(message, source=path)
    return task or TASKS["LaMP_7"]  # no profile holds anything: there is no record to read


def _is_blank(entry: Mapping[str, object], task: LampTask) -> bool:
    text = entry.get(task.text_field, "missing")
    return text is None or (isinstance(text, str) and not text.strip())


def _content_key(entry: Mapping[str, object], task: LampTask, user_id: str = "") -> bytes:
    """Names what `entry` says. Each is repeated in many questions, and to make a record of it takes longer."""
    return _digest([user_id, *map(entry.get, task.fields), entry.get("date")])


def _digest(content: list[object]) -> bytes:
    return hashlib.blake2b(repr(content).encode(), digest_size=16).digest()


def _split_file(folder: str | PathLike[str], split: str, kind: str) -> Path | None:
    paths = (Path(folder, f"{split}_{kind}{ending}") for ending in (".json", ".json.gz"))
    return next((path for path in paths if path.is_file()), None)


def _questions_files(folder: str | PathLike[str]) -> Iterator[Path]:
    return filter(None, (_split_file(folder, split, "questions") for split in SPLITS))


def _check_ids(
    questions: Mapping[str, Question], golds: Mapping[str, str], rule: str, outputs: str | PathLike[str] | None
) -> None:
    missing = [id for id in questions if id not in golds]
    surplus = [id for id in golds if id not in questions]
    flaws = [
        f"{len(ids)} {what} ({', '.join(map(repr, ids[:_LISTED]))}{', ...' if len(ids) > _LISTED else ''})"
        for what, ids in (("missing", missing), ("surplus", surplus))
        if ids
    ]
    if flaws:
        raise DataFormatError(f"{rule}: {' and '.join(flaws)}", source=outputs)
