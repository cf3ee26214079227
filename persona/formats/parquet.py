"""The rows of a Parquet file, a few at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from persona.errors import DataFormatError, located, reason
from persona.formats.rows import check_fields
from persona.formats.unpacking import check_unpacked, most_bytes

_AT_ONCE = 64
"""Rows that are unpacked together. A string that a file holds once may stand in every row."""

_PANDAS_INDEX = "__index_level_0__"


def parquet_rows(path: str, check: Callable[[Iterable[str]], object] = check_fields) -> Iterator[Mapping[str, object]]:
    """The rows of a file, as fields by name.

    Args:
        path: the file.
        check: raises `DataFormatError` for a file with the wrong fields; by default those of records are right.

    Raises:
        DataFormatError: if the file is none, has other fields than rows may have, holds a value that Python has no
            number or date for, or unpacks to far more than its size.
    """
    import pyarrow
    import pyarrow.parquet

    row = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if name != _PANDAS_INDEX]
            with located(path):
                check(names)
            unpacked, most = 0, most_bytes(os.path.getsize(path))
            groups = (file.metadata.row_group(number) for number in range(file.metadata.num_row_groups))
            check_unpacked(max((group.total_byte_size for group in groups), default=0), most, path)
            for batch in file.iter_batches(batch_size=_AT_ONCE, columns=names):
                unpacked += batch.nbytes
                check_unpacked(unpacked, most, path)
                yield from _values(batch, path, row)
                row += len(batch)
    except DataFormatError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataFormatError(f"the Parquet file cannot be read: {reason(error)}", source=path) from None


def _values(batch: Any, path: str, first: int) -> list[dict[str, object]]:
    """The rows of `batch`; the error about a value that Python cannot hold names its row and field."""
    with suppress(ValueError, OverflowError):
        rows: list[dict[str, object]] = batch.to_pylist()
        return rows
    for row in range(len(batch)):
        for name in batch.schema.names:
            try:
                batch[name][row].as_py()
            except (ValueError, OverflowError) as error:
                message = f"`{name}` holds a value that cannot be read: {reason(error)}"
                raise DataFormatError(message, source=path, place=f"row {first + row}") from None
    raise DataFormatError("a value cannot be read", source=path, place=f"row {first}")
