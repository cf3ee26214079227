"""Valid files, mutated at random: each one is read rightly or refused clearly, and a store is never half-written.

What is right is said by the standard library's `json` on the whole file: where the readers accept a file, it must
accept it too, and the two must agree on who wrote what.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from persona.errors import DataFormatError, PersonaError
from persona.lamp.tasks import TASKS
from persona.readers import read_lamp, read_records
from persona.records import Record
from persona.store.profile_store import ProfileStore, StoreCounts

STORES, FILES = 3, 150
"""Stores for each kind of file, and mutated files offered to each store."""

USERS = ["ada", "bob", "çelik", "d/../d", "😀"]
WORDS = ["quiet", "'old'", "café", '"film"', "\\", "42", "tab\tline\n", "😀", "[end]", "{of}", "a:", "b,"]


def sentence(chance: random.Random) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(1, 9)))


def time(chance: random.Random) -> str | int:
    if chance.random() < 0.5:
        return chance.randint(1990, 2024)
    return f"20{chance.randint(10, 24)}-0{chance.randint(1, 9)}-1"


def questions(chance: random.Random) -> list[dict[str, Any]]:
    return [
        {
            "id": f"10{number}",
            "input": TASKS["LaMP_3"].make_input(sentence(chance)),
            "profile": [
                {
                    "id": f"{number}{index}",
                    "text": sentence(chance),
                    "score": str(chance.randint(1, 5)),
                    "date": time(chance),
                }
                for index in range(chance.randint(0, 4))
            ],
            "user_id": chance.choice(USERS),
            "date": time(chance),
        }
        for number in range(chance.randint(1, 5))
    ]


def rows(chance: random.Random) -> list[dict[str, Any]]:
    made = []
    for _ in range(chance.randint(1, 9)):
        optional: dict[str, Any] = {
            "target": chance.choice([sentence(chance), chance.randint(1, 5)]),
            "time": time(chance),
            "id": chance.choice([chance.randint(0, 10**6), f"r{chance.randint(0, 10**6)}"]),
            "metadata": {"title": sentence(chance), "year": chance.randint(1990, 2024)},
            "role": chance.choice(["user", "assistant"]),
            "expires": time(chance),
        }
        given = chance.sample(sorted(optional), k=chance.randint(2, len(optional)))
        row = {"user_id": chance.choice(USERS), "text": sentence(chance)}
        made.append({**row, **{name: optional[name] for name in given}})
    return made


def lamp_file(value: Any, chance: random.Random) -> bytes:
    indent = chance.choice([None, 0, 2])
    return json.dumps(value, indent=indent, ensure_ascii=chance.random() < 0.3).encode(errors="surrogatepass")


def lines_file(value: Any, chance: random.Random) -> bytes:
    lines = [json.dumps(line, ensure_ascii=chance.random() < 0.3) for line in value]
    return "\n".join(lines).encode(errors="surrogatepass")


ODD_VALUES: list[object] = [None, True, 0, -1, 3.5, 1e300, 10**30, "", " ", "x", "\x00", "\ud800", [], {}, ["x"]]
ODD_BYTES = [b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\n", b"\r", b'"', b"\\"]
ODD_BYTES += [b"{", b"}", b"[", b"]", b",", b":", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"[" * 5000]
ODD_BYTES += [b"<html>", b"\\ud800"]


def mutate_value(value: Any, chance: random.Random) -> None:
    """Replace, remove, rename or repeat one thing in `value`."""
    places: list[tuple[Any, Any]] = []

    def walk(inner: Any) -> None:
        for key in range(len(inner)) if isinstance(inner, list) else list(inner):
            places.append((inner, key))
            if isinstance(inner[key], list | dict):
                walk(inner[key])

    walk(value)
    container, key = chance.choice(places)
    act = chance.choice(["replace", "replace", "remove", "rename", "repeat"])
    if act == "replace":
        container[key] = chance.choice(ODD_VALUES)
    elif act == "remove":
        del container[key]
    elif isinstance(container, list):
        container.insert(chance.randint(0, len(container)), container[key])
    else:
        container[f"{key}x" if act == "rename" else chance.choice(["text", "id", "user_id"])] = container[key]
        if act == "rename":
            del container[key]


def mutated_bytes(data: bytes, chance: random.Random) -> bytes:
    """`data` with some of it flipped, lost, put in, cut off or moved."""
    at, to = sorted(chance.choices(range(len(data) + 1), k=2))
    lines = data.split(b"\n")
    first, second = chance.choices(range(len(lines)), k=2)
    swapped = [*lines]
    swapped[first], swapped[second] = lines[second], lines[first]
    return chance.choice(
        [
            data[:at] + bytes(byte ^ 1 << chance.randrange(8) for byte in data[at : at + 1]) + data[at + 1 :],
            data[:at],
            data[:at] + data[min(to, at + 20) :],
            b"\n".join(swapped),
            b"\n".join([*lines[:first], lines[second], *lines[first:]]),
            data[:at] + data[to : to + 30] + data[at:],
            data[:at] + chance.choice(ODD_BYTES) + data[at:],
        ]
    )


def pairs_of_questions(data: bytes) -> list[tuple[str, str]]:
    """(user, text) of each record, as the standard library reads them."""
    value = json.loads(data.decode("utf-8-sig"))
    return [
        (str(asked.get("user_id", asked["id"])), entry["text"])
        for asked in (value if isinstance(value, list) else value["golds"])
        for entry in asked["profile"]
        if entry["text"] is not None and entry["text"].strip()
    ]


def pairs_of_rows(data: bytes) -> list[tuple[str, str]]:
    read = [json.loads(line) for line in data.decode("utf-8-sig").split("\n") if line.strip()]
    return [(str(row["user_id"]), row["text"]) for row in read if str(row["text"] or "").strip() not in ("", "nan")]


KINDS: dict[str, tuple[str, Callable[..., Any], Callable[..., bytes], Callable[[bytes], list[tuple[str, str]]]]] = {
    "lamp": ("q.json", questions, lamp_file, pairs_of_questions),
    "jsonl": ("h.jsonl", rows, lines_file, pairs_of_rows),
    "auto": ("h", rows, lines_file, pairs_of_rows),
}


def mutated_file(format: str, chance: random.Random) -> bytes:
    """A file with one value mutated, or with some bytes mutated."""
    _, make, write, _ = KINDS[format]
    value = make(chance)
    if chance.random() < 0.5:
        mutate_value(value, chance)
        return write(value, chance)
    data = write(value, chance)
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        data = mutated_bytes(data, chance)
    return data


def contents(store: ProfileStore, users: set[str]) -> tuple[StoreCounts, dict[str, list[tuple[str, str]]]]:
    """How much there is in all, and what there is of `users`."""
    held = {user_id: [(record.id, record.content_hash) for record in store.profile(user_id)] for user_id in users}
    return store.counts(), held


@pytest.mark.slow
@pytest.mark.parametrize("format", KINDS)
def test_a_mutated_file_is_read_rightly_or_refused(tmp_path: Path, format: str) -> None:
    chance = random.Random(f"mutations of {format}")
    name, make, write, _ = KINDS[format]
    path = tmp_path / name
    refused = 0
    for number in range(STORES):
        with ProfileStore(f"sqlite:///{tmp_path / f'{number}.db'}") as store:
            path.write_bytes(write(make(chance), chance))
            store.upsert(read_records(path, format=format))
            users = set(USERS)
            before = contents(store, users)
            for _ in range(FILES):
                path.write_bytes(mutated_file(format, chance))
                try:
                    read = list(read_records(path, format=format))
                except PersonaError as error:
                    check_refused(path, error)
                    with pytest.raises(DataFormatError):
                        store.upsert(read_records(path, format=format))
                    assert contents(store, users) == before
                    refused += 1
                    continue
                check_read(path, format, read)
                store.upsert(read_records(path, format=format))
                users.update(user_id for user_id, _ in read)
                before = contents(store, users)
                now = datetime.now(UTC).isoformat()
                kept = [(user_id, record) for user_id, record in read if record.expires is None or record.expires > now]
                assert all((record.id, record.content_hash) in before[1][user_id] for user_id, record in kept)
    assert 0.1 < refused / (STORES * FILES) < 0.9


def check_read(path: Path, format: str, read: list[tuple[str, Record]]) -> None:
    """Assert that the records are those that the standard library finds."""
    data = path.read_bytes()
    expected = KINDS[format][3](data)
    found = [(user_id, record.text) for user_id, record in read]
    if format != "lamp":
        assert found == expected
        return
    assert set(found) == set(expected)
    assert len(read) == len(set(read))
    ids = [str(asked["id"]) for asked in json.loads(data.decode("utf-8-sig"))]
    if len(set(ids)) == len(ids):
        asked = read_lamp(path, task="LaMP_3").questions
        assert [(question.user_id, record.text) for question in asked for record in question.profile] == expected
    else:
        with pytest.raises(DataFormatError, match="the ids of questions must differ"):
            read_lamp(path, task="LaMP_3")


def check_refused(path: Path, error: PersonaError) -> None:
    """Assert that the error is one short line that begins with the place."""
    assert isinstance(error, DataFormatError)
    assert str(error).startswith(str(path))
    assert "\n" not in str(error)
    assert len(str(error)) < len(str(path)) + 500
