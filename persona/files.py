"""Atomic writing: a reader finds the old file or the new one, never half of it; an error says which file."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from persona.errors import PersonaError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, to be written in the block; at its end it replaces `path`.

    If the block raises, `path` is unchanged and the temporary file is removed.

    Raises:
        OSError: if the folder cannot be written.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    temporary = Path(name)
    try:
        with naming(path):
            yield temporary
        make_ordinary(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def naming(file: Path | str) -> Iterator[None]:
    """Have an `OSError` in the block say which file it is about: that of a write, as on a full disk, does not."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or isinstance(error, PersonaError):
            raise
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(file)) from error


def write_atomically(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path`, atomically.

    Raises:
        OSError: if the folder cannot be written; `path` is then unchanged.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def make_ordinary(path: Path) -> None:
    """Give a file the mode of new files; `mkstemp` and safetensors create files that only their owner can read."""
    path.chmod(0o666 & ~_umask())


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
