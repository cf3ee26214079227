"""Tables as benchmarks are published: the same rows as JSON, JSON lines or Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike, fspath
from pathlib import Path

from persona.errors import DataFormatError
from persona.eval.benchmarks.reading import Part, read_json, read_json_lines
from persona.formats.fields import listed
from persona.formats.parquet import parquet_rows

ENDINGS = (".json", ".jsonl", ".parquet")


def table_rows(path: str | PathLike[str]) -> Iterator[Part]:
    """The rows of a file, each an object with its place.

    Raises:
        DataFormatError: if the file has another ending than `ENDINGS`, or cannot be read.
    """
    ending = Path(path).suffix
    if ending == ".json":
        yield from read_json(path).parts
    elif ending == ".jsonl":
        yield from read_json_lines(path)
    elif ending == ".parquet":
        rows = parquet_rows(fspath(path), check=lambda names: None)
        yield from (Part(row, fspath(path), f"row {number}") for number, row in enumerate(rows))
    else:
        raise DataFormatError(f"a table must end in {', '.join(ENDINGS)}, was: {ending!r}", source=fspath(path))


def table_files(path: str | PathLike[str], name: str) -> list[Path]:
    """The files of a table: `path` itself, or the files in that folder whose name is `name`, or begins with it.

    Several parts of a table (``test-00000-of-00002.parquet``) come in order.

    Raises:
        DataFormatError: if there is none, or the same table lies there in two forms.
    """
    place = Path(path)
    if not place.is_dir():
        return [place]
    found = sorted(
        each
        for each in place.rglob(f"{name}*")
        if each.suffix in ENDINGS and each.name.removeprefix(name)[:1] in (".", "-", "_")
    )
    if not found:
        there = listed(sorted(each.name for each in place.iterdir()))
        raise DataFormatError(f"the folder must hold {name}.json, .jsonl or .parquet, holds: {there}", source=place)
    if len({each.suffix for each in found}) > 1:
        names = listed(each.name for each in found)
        raise DataFormatError(f"a table must lie there in one form, {name} lies there as {names}", source=place)
    return found
