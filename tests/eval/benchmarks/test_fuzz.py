"""Whole files of every reader, mutated at random: a clear error that names the file, or questions that are right."""

from __future__ import annotations

import copy
import csv
import io
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from persona.errors import DataFormatError
from persona.eval import Benchmark, load_benchmark
from tests.eval.benchmarks.conversations.dialogues import LOCOMO, LONGMEMEVAL, PERSONAMEM_1, PERSONAMEM_2, PREFEVAL
from tests.eval.benchmarks.profiles.test_judged import QUESTION, bespoke_tables
from tests.eval.benchmarks.profiles.test_longlamp import ABSTRACT, REVIEW
from tests.eval.benchmarks.profiles.test_rpeval import MULTI, SINGLE

MUTATIONS = 225
"""Of each reader: 2,000 and more of all."""


@dataclass(frozen=True)
class Case:
    """A benchmark's small files: its name, file -> content, what is read, and with which options."""

    name: str
    files: Mapping[str, Any]
    path: str = "."
    options: Mapping[str, Any] = field(default_factory=dict)
    tables: Callable[[Path], None] | None = None


_RPEVAL = {
    f"{kind}_preference/{items}_testset.json": rows
    for kind in ("explicit",)
    for items, rows in (("single", SINGLE), ("multi", MULTI))
}
CASES = (
    Case("locomo", {"locomo.json": LOCOMO}, "locomo.json"),
    Case("longmemeval", {"s.json": LONGMEMEVAL}, "s.json"),
    Case("personamem", PERSONAMEM_1),
    Case("personamem", PERSONAMEM_2),
    Case("prefeval", PREFEVAL, options={"filler": 1}),
    Case("prefeval", PREFEVAL, options={"form": "persona-driven", "task": "generation"}),
    Case("longlamp", {"x.json": [ABSTRACT, REVIEW][:1]}, "x.json"),
    Case("lamp-qa", {"x.json": [QUESTION]}, "x.json"),
    Case("rpeval", _RPEVAL),
    Case("bespoke", {}, tables=bespoke_tables),
)


def written(content: Any, name: str) -> bytes:
    if name.endswith(".csv"):
        text = io.StringIO()
        csv.writer(text).writerows(content)
        return text.getvalue().encode()
    return (json.dumps(content, ensure_ascii=False) + "\n").encode()


VALUES: tuple[Any, ...] = (
    None,
    0,
    -1,
    1.5,
    True,
    "",
    " ",
    "\x00",
    "\ud800",
    "x",
    "(a)",
    [],
    {},
    [[]],
    [None],
    {"a": 1},
    "9" * 30,
)
BYTES = (b"\xff", b"\x00", b'"', b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\\", b"\xef\xbb\xbf", b"-", b"null")


def changed(content: Any, chance: random.Random) -> Any:
    """`content` with one value, somewhere in it, replaced, removed or doubled."""
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
        kind = chance.randrange(4)
        if kind == 0:
            del at[key]
        elif kind == 1 and isinstance(at, list):
            at.insert(key, copy.deepcopy(at[key]))
        else:
            at[key] = chance.choice(VALUES)
        return content


def scrambled(raw: bytes, chance: random.Random) -> bytes:
    """`raw` with bytes put in, cut out, doubled or cut off."""
    start = chance.randrange(len(raw) + 1)
    stop = min(len(raw), start + chance.choice((1, 2, 40)))
    return chance.choice(
        (
            raw[:start] + chance.choice(BYTES) + raw[start:],
            raw[:start] + raw[stop:],
            raw[:stop] + raw[start:stop] + raw[stop:],
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


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_whole_files_mutated(case: Case, tmp_path: Path) -> None:
    chance = random.Random(7)
    if case.tables is not None:
        case.tables(tmp_path)
    whole = {name: written(content, name) for name, content in case.files.items()}
    for name, raw in whole.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(raw)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    originals = {path: path.read_bytes() for path in files}
    check(load_benchmark(case.name, tmp_path / case.path, **case.options))
    read, said = 0, []
    for _ in range(MUTATIONS):
        path = chance.choice(files)
        content = case.files.get(str(path.relative_to(tmp_path)))
        if content is not None and chance.random() < 0.6:
            try:
                path.write_bytes(written(changed(content, chance), path.name))
            except (UnicodeEncodeError, TypeError, ValueError, csv.Error):
                continue
        else:
            path.write_bytes(scrambled(originals[path], chance))
        try:
            benchmark = load_benchmark(case.name, tmp_path / case.path, **case.options)
        except DataFormatError as error:
            said.append(str(error))
        else:
            check(benchmark)
            read += 1
        path.write_bytes(originals[path])
    assert [each for each in said if str(tmp_path) not in each or "\n" in each] == []
    assert len(said) > MUTATIONS // 10
    assert read + len(said) > MUTATIONS // 2
