"""A file is replaced as a whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from persona.errors import ModelLoadError
from persona.files import naming, replacing, write_atomically


def test_the_new_content_is_there_after_the_block_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_atomically(path, "old ü")
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_text(encoding="utf-8") == "old ü"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["result.json"]


def test_it_is_an_ordinary_file_for_others(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "result.json", "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "result.json").stat().st_mode) == 0o640


def test_an_interruption_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_atomically(path, "old")

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.json"]


def test_an_error_of_writing_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OSError, match=r"No space left on device: .*result\.json"), naming(path):
        Path("/dev/full").write_text("x" * 100_000)

    def fails(error: OSError) -> None:
        with replacing(path):
            raise error

    with pytest.raises(OSError, match=r"100 requested and 8 written: .*result\.json"):
        fails(OSError("100 requested and 8 written"))
    with pytest.raises(FileNotFoundError, match="other"):
        fails(FileNotFoundError(2, "No such file", "other"))
    with pytest.raises(ModelLoadError, match=r"^no model$"):
        fails(ModelLoadError("no model"))
    assert os.listdir(tmp_path) == []
