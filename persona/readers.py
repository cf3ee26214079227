"""Histories in any format are read here, and become records.

>>> from pathlib import Path
>>> size = Path("posts.jsonl").write_text('{"user_id": "ada", "text": "Moody and stylish.", "target": 5}\\n')
>>> reader = read_records("posts.jsonl")
>>> [(user_id, record.text, record.target) for user_id, record in reader]
[('ada', 'Moody and stylish.', '5')]
>>> reader.skipped  # rows without text
0

LaMP's questions, JSON lines, Parquet and `datasets` are read in parts. What cannot be read raises a `DataFormatError`
that names the file and the line, when the reader gets there; a store that takes the records in one transaction holds
all of a file or nothing. Whole LaMP splits are read by
`read_split` and `read_lamp`, answers by `read_golds`.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from typing import TYPE_CHECKING

from persona.errors import DataFormatError, InvalidOptionError, InvalidUserIdError
from persona.formats.fields import described
from persona.formats.json_text import parse_line
from persona.formats.rows import check_fields, record_of
from persona.formats.text_source import TextSource
from persona.lamp.outputs import read_golds, write_predictions
from persona.lamp.questions import has_split, lamp_records, read_lamp, read_split
from persona.lamp.tasks import lamp_task
from persona.records import Record

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

FORMATS = ("auto", "lamp", "jsonl", "parquet", "datasets")
"""The forms of histories."""

_PARQUET_MAGIC = b"PAR1"
_PARQUET_SUFFIXES = (".parquet", ".pq")
_LINES_SUFFIXES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
_BATCH = 1024
_PANDAS_INDEX = "__index_level_0__"


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
    source: str | PathLike[str] | Dataset | IterableDataset, *, format: str = "auto", task: str | None = None
) -> RecordReader:
    """Open `source` and read its records one after the other.

    Args:
        source: a LaMP questions file or a folder with LaMP's ``{train,dev,test}_questions.json``; a file of
            JSON lines; a Parquet file; or a `datasets.Dataset` or `IterableDataset`. JSON may be gzipped. For
            the rows of the last three see `persona.formats.rows`.
        format: one of `FORMATS`; ``auto`` looks at the name's ending and the first bytes.
        task: for LaMP files whose fields do not tell the task.

    Returns:
        An iterator over (user id, record). LaMP repeats a user's records in each question, here they come
        once. Rows come as they are; without ids they are named by their content: a store keeps one of equals.

    Raises:
        DataFormatError: if the source is missing, empty, of no known form, or broken; partly while iterating.
        InvalidOptionError: if `format` is none of `FORMATS` or not that of `source`, or `task` is given for a source
            that is not of LaMP.
        UnknownTaskError: if there is no LaMP task called `task`.
    """
    if format not in FORMATS:
        raise InvalidOptionError(f"a format must be one of {', '.join(FORMATS)}, was: {format!r}")
    if task is not None:
        lamp_task(task)
    if not isinstance(source, str | PathLike):
        return _read_dataset(source, format)
    path = os.fspath(source)
    if format == "auto":
        format = _format_of(path)
    if task is not None and format != "lamp":
        raise InvalidOptionError(f"a task is for LaMP's files, and {path} is of the form {format}: leave it out")
    if format == "lamp":
        return RecordReader(path, format, lamp_records(path, task=task))
    if format == "parquet":
        return RecordReader(path, format, _from_rows(path, "row", _parquet_rows(path)))
    if format == "jsonl":
        return RecordReader(path, format, _from_rows(path, "line", _json_rows(path)))
    raise InvalidOptionError(f"the format 'datasets' is for a datasets.Dataset, the source was: {path!r}")


def _format_of(path: str) -> str:
    if os.path.isdir(path):
        return "lamp"
    if path.endswith(_PARQUET_SUFFIXES):
        return "parquet"
    try:
        with open(path, "rb") as file:
            if file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC:
                return "parquet"
    except (OSError, ValueError):
        pass  # `TextSource` says what is wrong
    with TextSource(path) as text:
        start = text.start
    if path.endswith(_LINES_SUFFIXES):
        return "jsonl"
    if start.startswith("["):
        return "lamp"
    if start.startswith("{"):
        # LaMP's other form spreads one object over the file and begins with its name.
        return "lamp" if start[1:].lstrip().startswith(('"task"', '"golds"')) else "jsonl"
    raise DataFormatError(
        f"the file must be LaMP JSON, JSON lines or Parquet, begins with: {start[:20]!r}", source=path
    )


def _from_rows(
    source: str, unit: str, rows: Iterable[tuple[int, Mapping[str, object]]]
) -> Iterator[tuple[str, Record] | None]:
    """Records of numbered rows; a row is a line of JSON or of a table, as `unit` says."""
    ids = _GivenIds()
    empty = True
    for number, row in rows:
        empty = False
        try:
            pair = record_of(row)
            if pair is not None and row.get("id") not in (None, ""):
                before = ids.clash(*pair, number)
                if before is not None:
                    raise DataFormatError(
                        f"the ids of a user's records must differ, {pair[1].id!r:.80} is on {unit} {before} too"
                    )
        except (DataFormatError, InvalidUserIdError) as error:
            raise DataFormatError(str(error), source=source, place=f"{unit} {number}") from None
        yield pair
    if empty:
        raise DataFormatError("there must be records, there is not one row", source=source)


class _GivenIds:
    """Where each given id was first seen, in about 130 bytes."""

    def __init__(self) -> None:
        self._seen: dict[bytes, int] = {}

    def clash(self, user_id: str, record: Record, number: int) -> int | None:
        """The number of the earlier row on which `user_id` has this id with other content, if any."""
        key = hashlib.blake2b(repr((user_id, record.id)).encode(), digest_size=16).digest()
        content = int(record.content_hash[:16], 16)
        before = self._seen.setdefault(key, number << 64 | content)
        return before >> 64 if before & (1 << 64) - 1 != content else None


def _json_rows(path: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    with TextSource(path) as source:
        for number, line in source.lines():
            row = parse_line(source, number, line)
            if not isinstance(row, dict):
                raise source.error(f"a line must be a JSON object, was: {described(row)}", number)
            try:
                check_fields(row)
            except DataFormatError as error:
                raise source.error(str(error), number) from None
            yield number, row


def _parquet_rows(path: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if name != _PANDAS_INDEX]
            _check_columns(names, path)
            for batch in file.iter_batches(batch_size=_BATCH, columns=names):
                for row in batch.to_pylist():
                    yield number, row
                    number += 1
    except DataFormatError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise DataFormatError(
            f"the Parquet file cannot be read: {reason:.300}",
            source=path,
            place=f"row {number}" if number else None,
        ) from None


def _read_dataset(source: Dataset | IterableDataset, format: str) -> RecordReader:
    # Whoever holds a dataset has loaded the library; nobody else should wait for it.
    datasets = sys.modules.get("datasets")
    kind = f"{type(source).__module__.partition('.')[0]}.{type(source).__name__}"
    if datasets is not None and isinstance(source, datasets.DatasetDict | datasets.IterableDatasetDict):
        raise InvalidOptionError(f"a source must be one split, take one of: {', '.join(map(str, source))}")
    if datasets is None or not isinstance(source, datasets.Dataset | datasets.IterableDataset):
        raise InvalidOptionError(f"a source must be a path or a datasets.Dataset, was: {kind}")
    if format not in ("auto", "datasets"):
        raise InvalidOptionError(f"the format of a {kind} is 'datasets', was: {format!r}")
    if source.column_names is not None:
        _check_columns(source.column_names, kind)
    return RecordReader(kind, "datasets", _from_rows(kind, "row", _dataset_rows(source, kind)))


def _dataset_rows(source: Dataset | IterableDataset, kind: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    number = 0
    for batch in source.with_format(None).iter(batch_size=_BATCH):
        if number == 0:
            _check_columns(batch, kind)
        for values in zip(*batch.values(), strict=True):
            yield number, dict(zip(batch, values, strict=True))
            number += 1


def _check_columns(names: Iterable[str], source: str) -> None:
    try:
        check_fields(names)
    except DataFormatError as error:
        raise DataFormatError(str(error), source=source) from None
