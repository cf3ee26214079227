"""Broken files of the benchmarks on profiles: an error that says where, or a result."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from persona.errors import DataFormatError, EvaluationError, PersonaError
from persona.eval import Question, load_benchmark
from tests.eval.benchmarks.profiles.test_judged import QUESTION, bespoke_tables
from tests.eval.benchmarks.profiles.test_longlamp import ABSTRACT
from tests.eval.benchmarks.profiles.test_probes import ANA, BEN
from tests.eval.benchmarks.profiles.test_rpeval import MULTI, SINGLE, TALK

MUTATIONS = 250
"""Of each reader."""

RPEVAL: list[dict[str, Any]] = [*SINGLE, *MULTI]
HISTORIES = [
    {"user_id": user.user_id, "text": each.text, "target": each.target, "time": each.time}
    for user in (ANA, BEN)
    for each in user
]
ODD: tuple[Any, ...] = (
    None,
    "",
    " ",
    0,
    -1,
    1.5,
    True,
    [],
    {},
    [None],
    "\x00",
    "\ud800",
    "ä" * 5,
    "A",
    {"id": 3},
    1e400,
)


def mutated(value: Any, draw: random.Random) -> Any:
    """A copy with one part replaced, left out, doubled or renamed."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(list(value))
        way = draw.random()
        if way < 0.15:
            return {name: each for name, each in value.items() if name != key}
        if way < 0.25:
            return {(f"{name}x" if name == key else name): each for name, each in value.items()}
        return {**value, key: mutated(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.85:
        place = draw.randrange(len(value))
        if draw.random() < 0.1:
            return [*value, value[place]]
        return [*value[:place], mutated(value[place], draw), *value[place + 1 :]]
    return draw.choice(ODD)


def broken_text(text: str, draw: random.Random) -> bytes:
    """The bytes of a text with some cut off, changed or put in."""
    content = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(draw.randrange(1, 4)):
        place = draw.randrange(len(content))
        way = draw.randrange(3)
        if way == 0:
            content[place] = draw.randrange(256)
        elif way == 1:
            content[place:place] = draw.choice((b"[", b'"', b"\xff", b"{}", b",", b"\n"))
        else:
            del content[place : place + draw.randrange(1, 40)]
            content = content or bytearray(b" ")
    return bytes(content)


def files(rows: Any, draw: random.Random, lines: bool) -> Iterator[bytes]:
    """Broken files: half of them with a wrong value, half with wrong bytes."""
    for number in range(MUTATIONS):
        content = mutated(rows, draw) if number % 2 else rows
        some = content if isinstance(content, list) else [content]
        text = "".join(json.dumps(row) + "\n" for row in some) if lines else json.dumps(content)
        yield text.encode() if number % 2 else broken_text(text, draw)


@pytest.mark.parametrize(
    ("name", "rows", "options"),
    [
        ("longlamp", [ABSTRACT, ABSTRACT], {}),
        ("lamp-qa", [QUESTION, {**QUESTION, "id": "q2"}], {}),
        ("rpeval", [{**row, "implicit_persona": TALK} for row in RPEVAL], {"preference": "implicit"}),
        ("rpeval", RPEVAL, {"asked": "generation"}),
        ("probes", HISTORIES, {"kinds": ("last item", "count", "drift")}),
    ],
)
def test_a_broken_file_gives_an_error_with_its_place_or_questions(
    name: str, rows: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / ("x.jsonl" if name == "probes" else "x.json")
    read = 0
    for content in files(rows, random.Random(name), name == "probes"):
        path.write_bytes(content)
        found = outcome(name, path, **options)
        if isinstance(found, PersonaError):
            # Histories that can be read may still have too few labels to be asked of.
            assert isinstance(found, DataFormatError) or name == "probes"
            assert "\n" not in str(found)
            assert path.name in str(found) or isinstance(found, EvaluationError)
        else:
            read += 1
            assert all(question.prompt.strip() and question.gold is not None for question in found)
    assert 0 < read < MUTATIONS


def outcome(name: str, path: Path, **options: Any) -> Sequence[Question] | PersonaError:
    """What reading gives: questions, or the error."""
    try:
        return load_benchmark(name, path, **options).questions
    except PersonaError as error:
        return error


def test_a_broken_table_of_bespoke_gives_an_error_with_its_place(tmp_path: Path) -> None:
    bespoke_tables(tmp_path)
    draw = random.Random(5)
    tables = {
        path: (path.read_bytes(), pyarrow.parquet.read_table(path).to_pylist()) for path in tmp_path.rglob("*.parquet")
    }
    for number in range(MUTATIONS):
        path = draw.choice(sorted(tables))
        content, rows = tables[path]
        if number % 3 == 0:
            broken = bytearray(content)
            broken[draw.randrange(len(broken))] ^= 1 << draw.randrange(8)
            path.write_bytes(bytes(broken))
        else:
            changed = mutated(rows, draw)
            column = next((key for key in rows[0] if key.endswith("_value")), None)
            if number % 3 == 1 and column:
                changed = [{**rows[0], column: broken_text(rows[0][column], draw).decode("utf-8", "replace")}]
            if not written(path, changed):
                continue
        found = outcome("bespoke", tmp_path)
        assert not isinstance(found, PersonaError) or isinstance(found, DataFormatError)
        assert "\n" not in str(found)
        path.write_bytes(content)


def written(path: Path, rows: Any) -> bool:
    """Write rows as a table; whether a table can hold them."""
    try:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    except (pyarrow.ArrowException, TypeError, AttributeError, ValueError, KeyError, OverflowError):
        return False
    return True
