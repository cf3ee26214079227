"""Exports in a ZIP archive: their ``conversations.json`` is read from within it, and nothing is unpacked to a disk."""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import IO

from persona.errors import DataFormatError
from persona.formats.unpacking import check_unpacked, most_bytes

ZIP_MAGIC = b"PK\x03\x04"

_CONVERSATIONS = re.compile(r"(?:[^/\\.][^/\\]*/)?conversations(?:-\d+)?\.json")


def conversation_members(path: str | PathLike[str]) -> list[str]:
    """The names of the files with conversations in an archive, in their order: one, or numbered parts.

    Raises:
        DataFormatError: if it is no archive, there is none in it, or they unpack to far more than its size.
    """
    with _opened(path) as archive:
        found = sorted(
            (member for member in archive.infolist() if _CONVERSATIONS.fullmatch(member.filename)),
            key=lambda member: member.filename,
        )
        if not found:
            raise DataFormatError("the ZIP file must be an export with conversations.json in it", source=path)
        # A member is never read beyond the size that the archive gives for it.
        check_unpacked(sum(member.file_size for member in found), most_bytes(os.path.getsize(path)), path)
        return [member.filename for member in found]


@contextmanager
def open_member(path: str | PathLike[str], member: str) -> Iterator[IO[bytes]]:
    """The bytes of a file in an archive.

    Raises:
        DataFormatError: here and while reading, if the archive is broken or locked.
    """
    with _opened(path) as archive, archive.open(member) as file:
        yield file


@contextmanager
def _opened(path: str | PathLike[str]) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataFormatError(f"the ZIP file is broken: {error}", source=path) from None
    except NotImplementedError as error:
        raise DataFormatError(f"the ZIP file cannot be unpacked here: {error}", source=path) from None
    except RuntimeError as error:  # so does zipfile say that a password is needed
        raise DataFormatError(
            f"the ZIP file cannot be unpacked: {' '.join(str(error).split()):.200}", source=path
        ) from None
