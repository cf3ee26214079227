"""Whole files of every reader, mutated at random: a clear error that names the file, or questions that are right."""

from __future__ import annotations

import copy
import csv
import io
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from persona.errors import DataFormatError, EvaluationError
from persona.eval import Benchmark, load_benchmark
from persona.eval.benchmarks.registry import BENCHMARKS
from tests.eval.benchmarks.conversations.dialogues import (
    LOCOMO,
    LONGMEMEVAL,
    PERSONAMEM_1,
    PERSONAMEM_2,
    PERSONAMEM_3,
    PREFEVAL,
)
from tests.eval.benchmarks.profiles.test_judged import QUESTION, bespoke_tables
from tests.eval.benchmarks.profiles.test_longlamp import ABSTRACT
from tests.eval.benchmarks.profiles.test_probes import ANA, BEN
from tests.eval.benchmarks.profiles.test_rpeval import MULTI, SINGLE, TALK

MUTATIONS = 180
"""Of each case: 2,520 of all."""


@dataclass(frozen=True)
class Case:
    """A benchmark's small files: its name, file -> content, what is read, and with which options."""

    name: str
    files: Mapping[str, Any]
    path: str = "."
    options: Mapping[str, Any] = field(default_factory=dict)


_RPEVAL = {
    "explicit_preference/single_testset.json": SINGLE,
    "explicit_preference/multi_testset.json": MULTI,
    "implicit_preference/single_testset.json": [{**row, "implicit_persona": TALK} for row in SINGLE],
}
_HISTORIES = [
    {"user_id": user.user_id, "text": each.text, "target": each.target, "time": each.time}
    for user in (ANA, BEN)
    for each in user
]
CASES = (
    Case("locomo", {"locomo.json": LOCOMO}, "locomo.json"),
    Case("longmemeval", {"s.json": LONGMEMEVAL}, "s.json"),
    Case("personamem", PERSONAMEM_1),
    Case("personamem", PERSONAMEM_2),
    Case("personamem-v3", PERSONAMEM_3),
    Case("personamem-v3", PERSONAMEM_3, options={"task": "avoid"}),
    Case("prefeval", PREFEVAL, options={"filler": 1}),
    Case("prefeval", PREFEVAL, options={"form": "persona-driven", "task": "generation"}),
    Case("longlamp", {"x.json": [ABSTRACT, {**ABSTRACT, "name": "Ben"}]}, "x.json"),
    Case("lamp-qa", {"x.json": [QUESTION, {**QUESTION, "id": "q2"}]}, "x.json"),
    Case("rpeval", _RPEVAL, options={"preference": "implicit"}),
    Case("rpeval", _RPEVAL, options={"items": "multi", "asked": "generation"}),
    Case("bespoke", {}),  # its tables are written by the test
    Case("probes", {"x.jsonl": _HISTORIES}, "x.jsonl", {"kinds": ("last item", "count", "drift")}),
)


def written(content: Any, name: str) -> bytes:
    if name.endswith(".csv"):
        text = io.StringIO()
        csv.writer(text).writerows(content)
        return text.getvalue().encode()
    if name.endswith(".parquet"):
        table = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), table)
        return table.getvalue()
    if name.endswith(".jsonl") and isinstance(content, list):
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content).encode()
    return (json.dumps(content, ensure_ascii=False) + "\n").encode()


CANNOT_BE_WRITTEN = (pyarrow.ArrowException, TypeError, AttributeError, ValueError, KeyError, OverflowError, csv.Error)
VALUES: tuple[Any, ...] = (
    *(None, 0, -1, 1.5, 1e400, True, "", " ", "\x00", "\ud800", "x", "(a)"),
    *([], {}, [[]], [None], {"a": 1}, "9" * 30, "ä" * 5),
)
BYTES = (b"\xff", b"\x00", b'"', b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\\", b"\xef\xbb\xbf", b"-", b"null")


def changed(content: Any, chance: random.Random) -> Any:
    """`content` with one value, somewhere in it, replaced, scrambled, removed, doubled or under another name."""
    content = copy.deepcopy(content)
    at = content
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            return content
        key = chance.choice(keys)
        if isinstance(at[key], dict | list) and at[key] and chance.random() < 0.8:
            at = at[key]
            continue
        kind = chance.randrange(5)
        if kind == 0:
            del at[key]
        elif kind == 1 and isinstance(at, list):
            at.insert(key, copy.deepcopy(at[key]))
        elif kind == 1:
            at[f"{key}x"] = at.pop(key)
        elif kind == 2 and isinstance(at[key], str):  # some cells hold JSON
            at[key] = scrambled(at[key].encode(), chance).decode("utf-8", "replace")
        else:
            at[key] = chance.choice(VALUES)
        return content


def scrambled(raw: bytes, chance: random.Random) -> bytes:
    """`raw` with bytes put in, cut out, doubled, changed or cut off."""
    start = chance.randrange(len(raw) + 1)
    stop = min(len(raw), start + chance.choice((1, 2, 40)))
    return chance.choice(
        (
            raw[:start] + chance.choice(BYTES) + raw[start:],
            raw[:start] + raw[stop:],
            raw[:stop] + raw[start:stop] + raw[stop:],
            raw[:start] + bytes(byte ^ 1 << chance.randrange(8) for byte in raw[start : start + 1]) + raw[start + 1 :],
            raw[:start],
        )
    )


def check(benchmark: Benchmark) -> None:
    """What holds of all questions, whatever stood in the file."""
    assert len({question.id for question in benchmark.questions}) == len(benchmark.questions)
    for question in benchmark.questions:
        assert question.prompt.strip()
        assert question.query.strip()
        assert question.user_id
        assert question.gold is None or isinstance(question.gold, str)
        ids = [record.id for record in question.profile]
        assert len(set(ids)) == len(ids) or not question.evidence
        assert set(question.evidence) <= set(ids)
        if isinstance(question.choices, tuple):
            assert question.gold in question.choices
    json.dumps([[question.prompt, question.gold] for question in benchmark.questions]).encode()


def test_every_reader_is_mutated() -> None:
    assert {case.name for case in CASES} == set(BENCHMARKS)
    assert MUTATIONS * len(CASES) >= 2000


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_whole_files_mutated(case: Case, tmp_path: Path) -> None:
    chance = random.Random(7)
    contents = {tmp_path / name: content for name, content in case.files.items()}
    if case.name == "bespoke":
        bespoke_tables(tmp_path)
        contents = {path: pyarrow.parquet.read_table(path).to_pylist() for path in tmp_path.rglob("*.parquet")}
    originals = {path: written(content, path.name) for path, content in contents.items()}
    for path, raw in originals.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
    check(load_benchmark(case.name, tmp_path / case.path, **case.options))
    read, said = 0, list[str]()
    while read + len(said) < MUTATIONS:
        path = chance.choice(sorted(originals))
        try:
            whole = chance.random() < 0.6
            raw = written(changed(contents[path], chance), path.name) if whole else scrambled(originals[path], chance)
        except CANNOT_BE_WRITTEN:
            continue
        path.write_bytes(raw)
        try:
            benchmark = load_benchmark(case.name, tmp_path / case.path, **case.options)
        except DataFormatError as error:
            said.append(str(error))
        except EvaluationError:  # histories that can be read, and are too short to ask of
            if case.name != "probes":
                raise
            read += 1
        else:
            check(benchmark)
            read += 1
        path.write_bytes(originals[path])
    assert [each for each in said if str(tmp_path) not in each or "\n" in each] == []
    assert len(said) > MUTATIONS // 10
    assert read > 0
