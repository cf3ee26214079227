"""LaMP's questions: a whole split in memory, or the records of all its profiles one after the other.

``dev_questions.json`` holds a list of questions (see `persona.lamp.tasks`), or an object with that list under
``golds``, as LaMP's script for the e-mail task writes it. It may be gzipped. Questions are read one by one.

A record whose text is null or blank holds nothing to retrieve or to learn from: it is left out and counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from os import PathLike
from pathlib import Path

from persona.errors import DataFormatError, InvalidUserIdError, UnknownTaskError
from persona.formats.fields import check_present, described, id_text, listed, plain_text
from persona.formats.json_text import JsonArray
from persona.formats.text_source import TextSource
from persona.formats.times import normalise_time
from persona.lamp.outputs import GOLDS, read_golds
from persona.lamp.tasks import TASKS, LampSplit, LampTask, Question, lamp_task
from persona.records import Profile, Record, check_user_id

SPLITS = ("train", "dev", "test")
"""LaMP's splits."""

_LISTED = 5
_ENDINGS = (".json", ".json.gz")


def read_split(
    folder: str | PathLike[str],
    split: str = "dev",
    golds: str | PathLike[str] | None = None,
    *,
    task: str | None = None,
) -> LampSplit:
    """One split of a LaMP folder: ``dev_questions.json`` and, where it is there, ``dev_outputs.json``.

    Args:
        folder: holds the files, plain or as ``.json.gz``.
        split: ``train``, ``dev`` or ``test``.
        golds: an outputs file that lies elsewhere.
        task: as for `read_lamp`.

    Raises:
        DataFormatError: if there is no such questions file, and as `read_lamp`.
        UnknownTaskError: if there is no task called `task`.
    """
    questions = _split_file(Path(folder), split, "questions")
    if questions is None:
        has = ", ".join(path.name for path in _questions_files(Path(folder))) or "no questions"
        raise DataFormatError(f"the folder must have {split}_questions.json, has: {has}", source=folder)
    return read_lamp(questions, golds or _split_file(Path(folder), split, "outputs"), task=task)


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
            between the files, or the task cannot be told.
        UnknownTaskError: if there is no task called `task`.
    """
    named = None if task is None else lamp_task(task)
    declared, golds = (None, None) if outputs is None else _read_outputs(outputs)
    read: dict[str, Question] = {}
    made: dict[bytes, Record] = {}
    skipped = 0
    with TextSource(questions) as source:
        found, raw_questions = _find_task(source, named, declared)
        for raw in raw_questions:
            if raw.id in read:
                raise raw.error(f"the ids of questions must differ, {raw.id!r:.80} repeats")
            records = []
            for index, entry in enumerate(raw.entries):
                if _is_blank(entry, found):
                    skipped += 1
                    continue
                key = _content_key(entry, found)
                if key not in made:
                    made[key] = raw.record(index, found)
                records.append(made[key])
            read[raw.id] = Question(raw.id, raw.user_id, raw.input, Profile(raw.user_id, tuple(records)), raw.time)
    if golds is not None:
        _check_ids(read, golds, questions, outputs)
        golds = {id: golds[id] for id in read}
    labels = dict.fromkeys(label for raw in read.values() for label in found.labels_in(raw.input) or ())
    return LampSplit(
        task=found,
        questions=tuple(read.values()),
        golds=golds,
        labels=tuple(labels) or None,
        skipped=skipped,
    )


def lamp_records(place: str | PathLike[str], *, task: str | None = None) -> Iterator[tuple[str, Record] | None]:
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
    files: list[str | PathLike[str]] = [place]
    if Path(place).is_dir():
        files = list(_questions_files(Path(place)))
        if not files:
            wanted = ", ".join(f"{split}_questions.json" for split in SPLITS)
            raise DataFormatError(f"the folder must have one of {wanted}, has none", source=place)
    seen: set[bytes] = set()
    for file in files:
        with TextSource(file) as source:
            found, raw_questions = _find_task(source, named, None, records_only=True)
            for raw in raw_questions:
                for index, entry in enumerate(raw.entries):
                    if _is_blank(entry, found):
                        yield None
                        continue
                    key = _content_key(entry, found, raw.user_id)
                    if key in seen:
                        continue
                    record = raw.record(index, found)
                    # One record may be written in two ways, with 5 and "5", or 2013-9-3 and 2013-09-03.
                    plain_key = _content_key(found.entry(record, ""), found, raw.user_id)
                    if plain_key not in seen:
                        yield raw.user_id, record
                    seen.update((key, plain_key))


@dataclass(frozen=True, slots=True)
class _RawQuestion:
    """A question whose own fields are checked and whose records are still as the file has them.

    Attributes:
        path: the file.
        place: where in the file.
        entries: the profile.
    """

    path: str
    place: str
    id: str
    user_id: str
    input: str
    time: str | None
    entries: list[dict[str, object]]

    @classmethod
    def from_json(cls, value: object, path: str, place: str) -> _RawQuestion:
        if not isinstance(value, dict):
            raise DataFormatError(f"a question must be an object, was: {described(value)}")
        check_present(value, ("id", "input", "profile"), "a question")
        entries = value["profile"]
        if not isinstance(entries, list):
            raise DataFormatError(f"`profile` must be a list, was: {described(entries)}")
        for index, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise DataFormatError(f"record {index} of `profile` must be an object, was: {described(entry)}")
        id = id_text(value["id"], "id")
        # The user split names no users: nobody asks twice there.
        user_id = check_user_id(id_text(value["user_id"], "user_id") if "user_id" in value else id)
        return cls(
            path,
            place,
            id,
            user_id,
            plain_text(value["input"], "input"),
            normalise_time(value.get("date")),
            entries,
        )

    def record(self, index: int, task: LampTask) -> Record:
        try:
            return task.record(self.entries[index])
        except DataFormatError as error:
            raise self.error(str(error), index) from None

    def error(self, message: str, index: int | None = None) -> DataFormatError:
        place = self.place if index is None else f"{self.place}, record {index}"
        return DataFormatError(message, source=self.path, place=place)


def _read_raw(source: TextSource) -> Iterator[_RawQuestion]:
    empty = True
    for index, (line, value) in enumerate(JsonArray(source, GOLDS)):
        place = f"question {index} (line {line})"
        try:
            question = _RawQuestion.from_json(value, source.path, place)
        except (DataFormatError, InvalidUserIdError) as error:
            raise DataFormatError(str(error), source=source.path, place=place) from None
        yield question
        empty = False
    if empty:
        raise source.error("the file must hold questions, its list is empty")


def _find_task(
    source: TextSource, named: LampTask | None, declared: LampTask | None, *, records_only: bool = False
) -> tuple[LampTask, Iterator[_RawQuestion]]:
    """The task of a questions file, and its questions from the first one on.

    Args:
        source: the file.
        named: the task that the caller names, which is believed.
        declared: the task that the outputs name, which must agree with the questions.
        records_only: any task will do whose records have the fields that are there.
    """
    questions = _read_raw(source)
    passed: list[_RawQuestion] = []
    for question in questions:
        passed.append(question)
        task = _task_of(question, named, declared, records_only)
        if task is not None:
            return task, chain(passed, questions)
    task = named or declared
    if task is None and not records_only:
        raise source.error("the LaMP task cannot be told from inputs and empty profiles: name it (task=, --task)")
    return task or TASKS["LaMP_7"], iter(passed)  # no profile holds anything: there is no record to make


def _task_of(
    question: _RawQuestion, named: LampTask | None, declared: LampTask | None, records_only: bool
) -> LampTask | None:
    """The task that `question` is of; None if its profile is empty and its input is not LaMP's."""
    by_input = [task for task in TASKS.values() if question.input.startswith(task.opening)]
    fields = {field for entry in question.entries[:1] for field in entry} - {"id", "date"}
    seen = by_input or [task for task in TASKS.values() if fields == set(task.fields)]
    if not seen and not fields:
        return None
    if seen == [TASKS["LaMP_2N"]] and TASKS["LaMP_2"] in (named, declared):
        return seen[0]
    if named is not None:
        return named
    if declared is not None:
        if seen and declared not in seen:
            raise question.error(
                f"the question is of {seen[0].name}, the outputs are of {declared.name}: give its outputs"
            )
        return declared
    if len(seen) == 1 or (seen and records_only):
        return seen[0]
    raise question.error(f"the LaMP task cannot be told from {listed(sorted(fields))}: name it (task=, --task)")


def _read_outputs(path: str | PathLike[str]) -> tuple[LampTask | None, dict[str, str]]:
    name, golds = read_golds(path)
    try:
        return (None if name is None else lamp_task(name)), golds
    except UnknownTaskError as error:
        raise DataFormatError(str(error), source=path) from None


def _is_blank(entry: Mapping[str, object], task: LampTask) -> bool:
    text = entry.get(task.text_field, "missing")
    return text is None or (isinstance(text, str) and not text.strip())


def _content_key(entry: Mapping[str, object], task: LampTask, user_id: str = "") -> bytes:
    """Names what `entry` says. Each is repeated in many questions, and to make a record of it takes longer."""
    content = repr([user_id, *map(entry.get, task.fields), entry.get("date")])
    return hashlib.blake2b(content.encode(), digest_size=16).digest()


def has_split(folder: str | PathLike[str], split: str) -> bool:
    """Whether a LaMP folder has the questions of a split."""
    return _split_file(Path(folder), split, "questions") is not None


def _split_file(folder: Path, split: str, kind: str) -> Path | None:
    paths = (folder / f"{split}_{kind}{ending}" for ending in _ENDINGS)
    return next((path for path in paths if path.is_file()), None)


def _questions_files(folder: Path) -> Iterator[Path]:
    for split in SPLITS:
        path = _split_file(folder, split, "questions")
        if path is not None:
            yield path


def _check_ids(
    questions: Mapping[str, Question],
    golds: Mapping[str, str],
    path: str | PathLike[str],
    outputs: str | PathLike[str] | None,
) -> None:
    flaws = []
    missing = [id for id in questions if id not in golds]
    surplus = [id for id in golds if id not in questions]
    for what, ids in (("missing", missing), ("surplus", surplus)):
        if ids:
            listed = ", ".join(map(repr, ids[:_LISTED])) + (", ..." if len(ids) > _LISTED else "")
            flaws.append(f"{len(ids)} {what} ({listed})")
    if flaws:
        raise DataFormatError(
            f"the outputs must have the ids of the questions in {path}: {' and '.join(flaws)}", source=outputs
        )
