"""Files of text and of JSON: what is wrong with one is one clear error, and none fills the memory."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from persona.errors import DataFormatError
from persona.formats import text_files
from persona.formats.text_files import parse_json, read_elements, read_lines
from persona.lamp.outputs import read_golds

LIST = [{"id": str(number), "text": f"Café {number}", "more": [None, {"a": 1.5}]} for number in range(9)]
DATA = json.dumps(LIST, ensure_ascii=False).encode()

READERS: list[Callable[[Path], object]] = [
    lambda path: list(read_lines(path)),
    lambda path: list(read_elements(path, "golds")),
    read_golds,
]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("name", ["file", "file.gz", "file.json"])
def test_the_bytes_tell_what_a_file_is(tmp_path: Path, name: str, pack: Callable[[bytes], bytes], mark: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(pack(mark + DATA))
    assert list(read_elements(path, "golds")) == LIST
    assert list(read_lines(path)) == [(1, DATA.decode())]


def test_lines_end_in_line_feeds_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes("\ufeff\r\n\n one\u2028two\x85three\r\n\t\nfour".encode())
    lines = [(number, line.strip(" ")) for number, line in read_lines(tmp_path / "file")]
    assert lines == [(3, "one\u2028two\x85three"), (5, "four")]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b" \n\t\n " * 1000, "the file is empty"),
        (b"\xef\xbb\xbf", "the file is empty"),
        (gzip.compress(b"", mtime=0), "the file is empty"),
        (b"\n<!DOCTYPE html><html></html>", "the file is an HTML page: the download went wrong"),
        (gzip.compress(b"<html></html>", mtime=0), "the file is an HTML page"),
        (json.dumps(LIST).encode("utf-16"), "must be UTF-8 text, byte 0xff is not: convert it"),
        ("[\n\n{'café'".encode("latin-1"), "must be UTF-8 text, byte 0xe9 is not"),
        ('\n["caf\N{EURO SIGN}'.encode()[:-1], "must be UTF-8 text, byte 0xe2 is not"),
        (gzip.compress(DATA, mtime=0)[:-9], "the gzip file ends early"),
        (gzip.compress(DATA, mtime=0)[:5], "the gzip file ends early"),
        (gzip.compress(DATA, mtime=0)[:-8] + bytes(8), "the gzip file is broken: CRC check failed"),
        (gzip.compress(DATA, mtime=0) + b"more", "the gzip file is broken: Not a gzipped file"),
        (b"\x1f\x8b\x08\x00" + bytes(range(100)), "the gzip file is broken"),
    ],
)
def test_files_that_are_no_text_are_refused(
    tmp_path: Path, data: bytes, message: str, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(DataFormatError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", READERS)
def test_what_cannot_be_opened_is_a_clear_error(tmp_path: Path, read: Callable[[Path], object]) -> None:
    for path, message in (
        (tmp_path / "nowhere", "No such file"),
        (tmp_path, "directory"),
        (Path("a\x00b"), "null byte"),
    ):
        with pytest.raises(DataFormatError, match=f"the file cannot be read: .*{message}"):
            read(path)


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "MAX_LINE", 1000)
    path = tmp_path / "file"
    path.write_text("x" * 800 + "\n" + "y" * 100_000)
    lines = read_lines(path)
    assert next(lines) == (1, "x" * 800)
    with pytest.raises(DataFormatError, match="line 2: a line must have less than 1000 characters"):
        next(lines)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    value=st.lists(
        st.recursive(
            st.one_of(
                st.none(),
                st.booleans(),
                st.integers(),
                st.floats(allow_nan=False, allow_infinity=False),
                st.text(st.characters(exclude_categories=["Cs"])),
            ),
            lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text('ab"\\\n'), inner)),
            max_leaves=8,
        )
    ),
    block=st.integers(1, 40),
    indent=st.sampled_from([None, 0, 1, 50]),
    ascii=st.booleans(),
    key=st.sampled_from([None, "golds"]),
)
def test_an_array_read_in_blocks_is_the_array(
    tmp_path: Path, value: list[Any], block: int, indent: int | None, ascii: bool, key: str | None
) -> None:
    whole = value if key is None else {"task": "x", key: value, "after": {"a": [1, 2]}}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(whole, indent=indent, ensure_ascii=ascii), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        # The first block must hold what stands before the list.
        patch.setattr(text_files, "BLOCK", block if key is None else block + 150)
        assert list(read_elements(path, "golds")) == value


def by_json(text: str) -> object:
    """The value by the standard library, or what it says is wrong."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        return error.msg


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    block=st.integers(1, 300),
    at=st.integers(1, 500),
    data=st.sampled_from(["", "}", '"', "\\", ",", "x", "[", "]", "\n"]),
)
def test_a_flaw_is_found_wherever_the_blocks_end(tmp_path: Path, block: int, at: int, data: str) -> None:
    text = DATA.decode()
    broken = text[:at] + data + text[at + 1 :]
    path = tmp_path / "a.json"
    path.write_text(broken, encoding="utf-8")

    def outcome() -> object:
        try:
            return list(read_elements(path, "golds"))
        except DataFormatError as error:
            return str(error)

    whole = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "BLOCK", block)
        assert outcome() == whole
    expected = by_json(broken)
    assert whole == expected if isinstance(expected, list) else f"broken JSON: {expected}" in str(whole)


@pytest.mark.parametrize("rest", [" x", "[2]", "]", ".5", ", 3"])
def test_nothing_may_follow_the_list(tmp_path: Path, rest: str) -> None:
    path = tmp_path / "a.json"
    for whole in (f"[1, 2]{rest}", f'{{"golds": [1, 2]{rest}', f'{{"golds": [1, 2]}}{rest}'):
        path.write_text(whole)
        with pytest.raises(DataFormatError, match="after the list: broken JSON"):
            list(read_elements(path, "golds"))


def test_one_element_may_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "BLOCK", 100)
    monkeypatch.setattr(text_files, "MAX_ELEMENT", 1000)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(["x" * 500, "y" * 50_000]))
    elements = read_elements(path, "golds")
    assert next(elements) == "x" * 500
    with pytest.raises(DataFormatError, match="element 1: broken JSON: an element must have at most 1000 characters"):
        next(elements)


@pytest.mark.parametrize("text", ["[" * 100_000, '[{"a":' * 100_000, '{"golds": ' + "[" * 100_000])
def test_deep_nesting_is_a_clear_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataFormatError, match="nested too deeply"):
        list(read_elements(path, "golds"))
    with pytest.raises(DataFormatError, match="nested too deeply"):
        parse_json(text)
