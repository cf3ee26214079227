"""Writing of files, whole or not at all, or line by line where a run adds to one; an error says which file."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from persona.errors import ModelLoadError, PersonaError, reason


class JsonLines:
    """A file of JSON objects, one a line, that a run adds to as it goes, and that the next run reads.

    A line that a killed run has left half-written is passed over.

    Args:
        path: the file, which need not be there; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._whole = False  # whether the file is known to end in a whole line

    def read(self) -> Iterator[dict[str, Any]]:
        """What is in the file."""
        if self._path is None or not self._path.exists():
            return
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                content = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(content, dict):
                yield content

    def add(self, *lines: Mapping[str, Any]) -> None:
        """Write `lines`, so that they stay even if the run is killed next.

        Raises:
            OSError: if the file cannot be written.
        """
        if self._path is None:
            return
        begin, self._whole = "" if self._whole else "\n", False
        with naming(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(begin + "".join(json.dumps(line) + "\n" for line in lines))
        self._whole = True


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


def save_learned(folder: Path, name: str, arrays: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Write what was learned into `folder`, which is made: ``NAME.safetensors``, and then ``NAME.json``.

    Args:
        folder: where.
        name: of both files.
        arrays: of numpy.
        config: JSON; its ``format`` is checked by `learned`.
    """
    from safetensors.numpy import save

    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{name}.safetensors") as path:
        path.write_bytes(save(dict(arrays)))
    write_atomically(folder / f"{name}.json", json.dumps(config, indent=2) + "\n")


@contextmanager
def learned(folder: Path, name: str, form: int, hint: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The arrays and the config that `save_learned` wrote, to be put together in the block.

    Args:
        folder: where.
        name: of both files.
        form: the ``format`` that is read.
        hint: what the folder should hold, and how to make it.

    Raises:
        ModelLoadError: if there is nothing, or nothing that fits together.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        config = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        if config["format"] != form:
            raise ValueError(f"it is of format {config['format']}, this persona reads {form}")
        yield load_file(folder / f"{name}.safetensors"), config
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelLoadError(f"{folder} holds no {hint} ({reason(error)})") from error


def make_ordinary(path: Path) -> None:
    """Give a file the mode of new files; `mkstemp` and safetensors create files that only their owner can read."""
    path.chmod(0o666 & ~_umask())


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
