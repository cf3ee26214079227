"""Histories in any format are read here, and become records.

>>> from pathlib import Path
>>> size = Path("posts.jsonl").write_text('{"user_id": "ada", "text": "Moody and stylish.", "target": 5}\\n')
>>> reader = read_records("posts.jsonl")
>>> [(user_id, record.text, record.target) for user_id, record in reader]
[('ada', 'Moody and stylish.', '5')]
>>> reader.skipped  # rows without text
0

LaMP's questions, JSON, Parquet and `datasets` are read in parts. What cannot be read raises a `DataFormatError`
that names the file and the line, when the reader gets there; a store that takes the records in one transaction holds
all of a file or nothing. Whole LaMP splits are read by
`read_split` and `read_lamp`, answers by `read_golds`.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING

from persona.errors import DataFormatError, InvalidOptionError, InvalidUserIdError, check_one_of, located, reason
from persona.formats.archives import ZIP_MAGIC, conversation_members
from persona.formats.conversations import KINDS, Whose, kind_of, turns_of
from persona.formats.fields import described
from persona.formats.parquet import parquet_rows
from persona.formats.rows import check_fields, record_of
from persona.formats.text_files import open_text, parse_json, read_elements, read_lines
from persona.lamp.outputs import read_golds, write_predictions
from persona.lamp.questions import has_split, lamp_records, read_lamp, read_split
from persona.lamp.tasks import lamp_task
from persona.records import MAX_CHARACTERS, Record, check_size

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

__all__ = [
    "FORMATS",
    "RecordReader",
    "has_split",
    "read_golds",
    "read_lamp",
    "read_records",
    "read_split",
    "write_predictions",
]

FORMATS = ("auto", "lamp", "jsonl", "json", "parquet", "datasets", *KINDS)
"""The forms of histories."""

HUB = "hub:"
"""How the name of a dataset on the Hugging Face hub begins: ``hub:owner/name`` or ``hub:owner/name:split``."""

_PARQUET_MAGIC = b"PAR1"
_PARQUET_SUFFIXES = (".parquet", ".pq")
_ROWS = "records"
"""The key of a JSON array of rows, where it is inside an object."""
_LINES_SUFFIXES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
_BATCH = 1024


class RecordReader(Iterator[tuple[str, Record]]):
    """Yields (user id, record); made by `read_records`.

    Attributes:
        source: the file, or what else is read.
        format: one of `FORMATS`, never ``auto``.
        skipped: how many records were left out so far because their text is null or blank.
    """

    def __init__(self, source: str, format: str, records: Iterator[tuple[str, Record] | None]) -> None:
        self.source = source
        self.format = format
        self.skipped = 0
        self._records = records

    def __next__(self) -> tuple[str, Record]:
        for record in self._records:
            if record is not None:
                return record
            self.skipped += 1
        raise StopIteration


def read_records(
    source: str | PathLike[str] | Dataset | IterableDataset,
    *,
    format: str = "auto",
    task: str | None = None,
    user_id: str | None = None,
    roles: Sequence[str] | None = None,
    max_characters: int = MAX_CHARACTERS,
) -> RecordReader:
    """Open `source` and read its records one after the other.

    Args:
        source: a LaMP questions file or a folder with LaMP's ``{train,dev,test}_questions.json``; a file of
            JSON lines; a JSON array of rows; a Parquet file; a `datasets.Dataset` or `IterableDataset`; or a dataset
            that `datasets` loads, as ``hub:owner/name[:split]``, or as a folder with the format ``datasets``. JSON may
            be gzipped. For the rows of all but LaMP see `persona.formats.rows`. Or conversations, as JSON lines or as
            the export of ChatGPT or Claude, in its ZIP archive or not (`persona.formats.conversations`).
        format: one of `FORMATS`; ``auto`` goes by the name's ending and the first bytes.
        task: for LaMP files whose fields do not show the task.
        user_id: whose conversations they are, where they do not say it, as exports do not.
        roles: whose turns of a conversation become records, of ``user``, ``assistant`` and ``system``; None is the
            user's alone.
        max_characters: longest record, all its fields together; a longer one is an error.

    Returns:
        An iterator over (user id, record). LaMP repeats a user's records in each question, here they come
        once. Rows come as they are; without ids they are named by their content: a store keeps one of equals.

    Raises:
        DataFormatError: if the source is missing, empty, of no known form, or broken; partly while iterating.
        InvalidOptionError: if `format` is none of `FORMATS` or not that of `source`, `task` is given for a source that
            is not of LaMP, or `user_id` or `roles` for one that holds no conversations, or there is no such role.
        InvalidUserIdError: if `user_id` is not a legal id.
        UnknownTaskError: if there is no LaMP task called `task`.
    """
    if task is not None:
        lamp_task(task)
    name = os.fspath(source) if isinstance(source, str | PathLike) else _kind(source)
    given = not isinstance(source, str | PathLike) or name.startswith(HUB)
    format = _checked_format(name, "datasets" if given and format == "auto" else format, datasets=given)
    _check_options(name, format, task=task is not None, turns=user_id is not None or roles is not None)
    if format == "lamp":
        return RecordReader(name, format, _bounded(name, lamp_records(name, task=task), max_characters))
    rows: Iterable[tuple[str, Mapping[str, object]]]
    if format in KINDS:
        whose = Whose(user_id) if roles is None else Whose(user_id, tuple(roles))
        rows = _turns(name, format, whose)
    elif format in ("jsonl", "json"):
        rows = _objects(name, lines=format == "jsonl")
    elif format == "parquet":
        rows = _numbered(parquet_rows(name))
    else:
        rows = _numbered(_dataset_rows(_loaded(name) if isinstance(source, str | PathLike) else source, name))
    return RecordReader(name, format, _from_rows(name, rows, max_characters))


def _checked_format(name: str, format: str, *, datasets: bool) -> str:
    """The format of a source, found out where it is ``auto``; of one that `datasets` gives it is always the same."""
    check_one_of(FORMATS, format=format)
    if datasets and format != "datasets":
        raise InvalidOptionError(f"the format of {name} is 'datasets', was: {format!r}")
    return _format_of(name) if format == "auto" else format


def _check_options(name: str, format: str, *, task: bool, turns: bool) -> None:
    """Refuse options that are not for files of this format."""
    if task and format != "lamp":
        raise InvalidOptionError(f"a task is for LaMP's files, and {name} is of the form {format}: leave it out")
    if turns and format not in KINDS:
        raise InvalidOptionError(
            f"a user and roles are named for conversations, and {name} is of the form {format}: leave them out"
        )


def _format_of(path: str) -> str:
    if os.path.isdir(path):
        return "lamp"
    if path.endswith(_PARQUET_SUFFIXES):
        return "parquet"
    if (magic := _magic(path)) == _PARQUET_MAGIC:
        return "parquet"
    if magic == ZIP_MAGIC:
        first = next(read_elements(path, _ROWS, conversation_members(path)[0]), None)
        if (kind := kind_of(first)) is None:
            raise DataFormatError("the ZIP file must be an export of ChatGPT or Claude", source=path)
        return kind
    with open_text(path) as text:
        start = text.read(4096).lstrip()
    if path.endswith(_LINES_SUFFIXES):
        return _lines_format(path)
    if start.startswith("["):
        return _array_format(path)
    if start.startswith("{"):
        # LaMP's other form spreads one object over the file and begins with its name.
        return "lamp" if start[1:].lstrip().startswith(('"task"', '"golds"')) else _lines_format(path)
    raise DataFormatError(
        f"the file must be LaMP JSON, JSON lines or Parquet, begins with: {start[:20]!r}", source=path
    )


def _magic(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(len(_PARQUET_MAGIC))
    except (OSError, ValueError):
        return b""  # `open_text` says what is wrong


def _lines_format(path: str) -> str:
    """Whether lines of JSON are rows or conversations, by the first one."""
    _, line = next(read_lines(path))
    try:
        return kind_of(parse_json(line)) or "jsonl"
    except DataFormatError:
        return "jsonl"  # whose reader names the line


def _array_format(path: str) -> str:
    """Whether a JSON array is of conversations, of rows, or of LaMP's questions or outputs."""
    first = next(read_elements(path, _ROWS), None)
    if (kind := kind_of(first)) is not None:
        return kind
    return "json" if isinstance(first, dict) and not first.keys() & {"input", "profile", "output"} else "lamp"


def _bounded(source: str, pairs: Iterator[tuple[str, Record] | None], most: int) -> Iterator[tuple[str, Record] | None]:
    for pair in pairs:
        if pair is not None:
            with located(source, f"a record of {pair[0]!r:.80}"):
                check_size(pair[1], most)
        yield pair


def _from_rows(
    source: str, rows: Iterable[tuple[str, Mapping[str, object]]], most: int
) -> Iterator[tuple[str, Record] | None]:
    """Records of at most `most` characters from rows with their places."""
    first_seen: dict[bytes, tuple[str, bytes]] = {}  # of each id that is given: place and content
    place = None
    for place, row in rows:
        try:
            pair = record_of(row)
            if pair is not None:
                check_size(pair[1], most)
            if pair is not None and row.get("id") not in (None, ""):
                key = hashlib.blake2b(repr((pair[0], pair[1].id)).encode(), digest_size=16).digest()
                content = bytes.fromhex(pair[1].content_hash)
                before, its_content = first_seen.setdefault(key, (place, content))
                if content != its_content:
                    raise DataFormatError(
                        f"the ids of a user's records must differ, {pair[1].id!r:.80} is on {before} too"
                    )
        except (DataFormatError, InvalidUserIdError) as error:
            raise DataFormatError(str(error), source=source, place=place) from None
        yield pair
    if place is None:
        raise DataFormatError("there must be records, there is not one row", source=source)


def _turns(path: str, kind: str, whose: Whose) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The turns of all conversations, each with its place."""
    empty = True
    for where, conversation in _conversations(path):
        with located(path, where):
            turns = list(turns_of(conversation, kind, whose))
        for place, row in turns:
            empty = False
            yield f"{where}, {place}", row
    if empty:
        raise DataFormatError(f"there must be turns of {', '.join(whose.roles)}, there is none", source=path)


def _conversations(path: str) -> Iterator[tuple[str, object]]:
    """The conversations of a file or of an archive, each with its place."""
    if _magic(path) == ZIP_MAGIC:
        for member in conversation_members(path):
            for number, value in enumerate(read_elements(path, _ROWS, member)):
                yield f"{member}, element {number}", value
        return
    with open_text(path) as text:
        is_array = text.read(4096).lstrip().startswith("[")
    yield from _values(path, lines=not is_array)


def _values(path: str, *, lines: bool) -> Iterator[tuple[str, object]]:
    """The values in a file of JSON lines or in a JSON array, each with its place."""
    if not lines:
        yield from ((f"element {number}", value) for number, value in enumerate(read_elements(path, _ROWS)))
        return
    for number, line in read_lines(path):
        with located(path, f"line {number}"):
            value = parse_json(line)
        yield f"line {number}", value


def _objects(path: str, *, lines: bool) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The same, which must be rows."""
    what = "a line" if lines else "an element"
    for place, value in _values(path, lines=lines):
        with located(path, place):
            if not isinstance(value, dict):
                raise DataFormatError(f"{what} must be a JSON object, was: {described(value)}")
            check_fields(value)
        yield place, value


def _numbered(rows: Iterable[Mapping[str, object]]) -> Iterator[tuple[str, Mapping[str, object]]]:
    return ((f"row {number}", row) for number, row in enumerate(rows))


def _kind(source: Dataset | IterableDataset) -> str:
    """The name of a dataset's class.

    Raises:
        InvalidOptionError: if `source` is no dataset, or one of several splits.
    """
    # A caller with a dataset has loaded the library; others should not wait for its import.
    datasets = sys.modules.get("datasets")
    kind = f"{type(source).__module__.partition('.')[0]}.{type(source).__name__}"
    if datasets is not None and isinstance(source, datasets.DatasetDict | datasets.IterableDatasetDict):
        raise InvalidOptionError(f"a source must be one split, take one of: {', '.join(map(str, source))}")
    if datasets is None or not isinstance(source, datasets.Dataset | datasets.IterableDataset):
        raise InvalidOptionError(f"a source must be a path or a datasets.Dataset, was: {kind}")
    return kind


def _loaded(name: str) -> IterableDataset:
    """A dataset of the hub or in a folder, streamed: no copy of the histories stays in a cache."""
    import datasets

    path, _, split = name.removeprefix(HUB).partition(":") if name.startswith(HUB) else (name, "", "")
    try:
        splits = datasets.load_dataset(path, streaming=True)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataFormatError(f"the dataset cannot be loaded: {reason(error)}", source=name) from None
    if not split and len(splits) == 1:
        return next(iter(splits.values()))
    if split not in splits:
        every = ", ".join(map(str, splits))
        raise InvalidOptionError(f"a dataset is read by split, as in {HUB}{path}:{next(iter(splits))}: it has {every}")
    return splits[split]


def _dataset_rows(source: Dataset | IterableDataset, name: str) -> Iterator[Mapping[str, object]]:
    for batch in source.with_format(None).iter(batch_size=_BATCH):
        with located(name):
            check_fields(batch)
        yield from (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))
