"""Conversations become records: the user's turns, from JSON lines and from the exports of two assistants."""

from __future__ import annotations

import json
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from persona.errors import DataFormatError, InvalidOptionError, InvalidUserIdError
from persona.formats import unpacking
from persona.readers import read_records
from persona.records import Record
from persona.store.profile_store import ProfileStore

EXPORTS = Path(__file__).parent / "exports"

TALK: dict[str, Any] = {
    "user_id": "ada",
    "conversation_id": "c-1",
    "title": "Tea",
    "time": "2024-05-01",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Tea or coffee?", "name": "Ada"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "assistant", "content": "Tea."},
        {"role": "user", "content": [{"type": "text", "text": "Which?"}, {"type": "image_url"}], "time": "2024-05-02"},
    ],
}


def write_lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def zipped(path: Path, name: str = "conversations.json", export: str = "chatgpt", **more: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("chat.html", "<html>")
        # As it is: the library itself would clean the name.
        archive.writestr(zipfile.ZipInfo(name), (EXPORTS / f"{export}.json").read_text())
        for other, text in more.items():
            archive.writestr(other, text)
    return path


@pytest.mark.parametrize("as_array", [False, True])
def test_messages_become_the_users_turns(tmp_path: Path, as_array: bool) -> None:
    path = write_lines(tmp_path / "talks.jsonl", TALK, {"messages": TALK["messages"][1:2], "user_id": 7})
    if as_array:
        path.write_text(json.dumps([json.loads(line) for line in path.read_text().splitlines()]))
        path = path.rename(tmp_path / "talks.json")
    reader = read_records(path)
    assert reader.format == "messages"
    about = {"conversation": "c-1", "title": "Tea"}
    assert list(reader) == [
        ("ada", Record("Tea or coffee?", time="2024-05-01", role="user", speaker="Ada", metadata=about)),
        ("ada", Record("Which?", time="2024-05-02", role="user", metadata=about)),
        ("7", Record("Tea or coffee?", role="user", speaker="Ada")),
    ]


def test_others_turns_come_only_if_they_are_asked_for(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "talks.jsonl", TALK)
    reader = read_records(path, roles=("assistant", "system"))
    assert [(record.role, record.text) for _, record in reader] == [("system", "Be brief."), ("assistant", "Tea.")]
    assert reader.skipped == 1  # a call of a tool has no text
    with pytest.raises(InvalidOptionError, match="`roles` must be of user, assistant, system, were: user, tool"):
        read_records(path, roles=("user", "tool"))


def test_the_export_of_chatgpt_is_the_path_to_the_current_message() -> None:
    reader = read_records(EXPORTS / "chatgpt.json", user_id="ada")
    assert reader.format == "chatgpt"
    records = [record for user_id, record in reader if user_id == "ada"]
    assert [(record.text, record.time) for record in records] == [
        ("My sourdough is too sour.\nI prove it for 18 hours.", "2024-06-01T09:01:00+00:00"),
        ("Is this crumb right?", "2024-06-01T09:09:50+00:00"),
        ("Remind me to feed the starter.", "2024-06-02T03:46:41+00:00"),
    ]
    bread = "bread000-0000-4000-8000-000000000000"
    assert records[0].metadata == {"conversation": bread, "title": "Sourdough too sour"}
    assert (records[0].id, records[0].role) == (f"{bread}:aaa00000-0000-4000-8000-000000000005", "user")
    both = read_records(EXPORTS / "chatgpt.json", user_id="ada", roles=("user", "assistant"))
    assert [record.text for _, record in both if record.role == "assistant"] == [
        "Prove it for 8 hours, in a cooler place."
    ]


def test_the_export_of_claude_is_the_branch_of_the_last_message() -> None:
    reader = read_records(EXPORTS / "claude.json", user_id="ada", roles=("user", "assistant"))
    assert reader.format == "claude"
    found = [(record.role, record.text, record.time) for _, record in reader]
    assert found == [
        ("user", "Which shoes for muddy trails?", "2025-03-04T18:20:01+00:00"),
        ("assistant", "Deep lugs help.", "2025-03-04T18:20:09+00:00"),
        ("user", "And for icy roads?", "2025-03-04T18:23:00+00:00"),
        ("user", "I ran 12 km before breakfast.", "2024-05-01T07:00:01+00:00"),
        ("assistant", "Well done!", "2024-05-01T07:00:05+00:00"),
    ]
    assert reader.skipped == 1


@pytest.mark.parametrize("export", ["chatgpt", "claude"])
@pytest.mark.parametrize("name", ["conversations.json", "data-2025/conversations.json", "conversations-000.json"])
def test_an_archive_is_read_like_what_is_in_it(tmp_path: Path, export: str, name: str) -> None:
    path = zipped(tmp_path / "export.zip", name, export)
    reader = read_records(path, user_id="ada")
    assert (reader.format, list(reader)) == (export, list(read_records(EXPORTS / f"{export}.json", user_id="ada")))
    assert [each.name for each in tmp_path.iterdir()] == ["export.zip"], "nothing is unpacked to disk"


def test_parts_of_an_archive_are_read_in_their_order(tmp_path: Path) -> None:
    first, second = json.loads((EXPORTS / "chatgpt.json").read_text())
    path = tmp_path / "export"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("conversations-001.json", json.dumps([second]))
        archive.writestr("conversations-000.json", json.dumps([first]))
    assert list(read_records(path, user_id="ada")) == list(read_records(EXPORTS / "chatgpt.json", user_id="ada"))


def test_an_export_read_again_changes_nothing_in_the_store(tmp_path: Path) -> None:
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        for added in (3, 0):
            done = store.upsert(read_records(zipped(tmp_path / "export.zip"), user_id="ada"))
            assert (done.added, done.changed) == (added, 0)
        assert {record.role for record in store.profile("ada")} == {"user"}


@pytest.mark.parametrize("folder", ["../", "/", "a/b/", "..\\", "a/../../", "my_"])
def test_an_archive_without_conversations_in_its_place_is_refused(tmp_path: Path, folder: str) -> None:
    name = f"{folder}conversations.json"
    with pytest.raises(DataFormatError, match=r"must be an export with conversations\.json in it"):
        read_records(zipped(tmp_path / "export.zip", name), user_id="ada")


def test_an_archive_that_unpacks_for_ever_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "ALWAYS", 1 << 20)
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conversations.json", "[" + " " * (8 << 20) + "]")
    with pytest.raises(DataFormatError, match="may unpack to 300 times its size"):
        read_records(path, user_id="ada")
    # One that lies about what it unpacks to is not read beyond that.
    lying = bytearray(path.read_bytes())
    at = lying.rindex(b"PK\x01\x02") + 24
    lying[at : at + 4] = struct.pack("<I", 100)
    path.write_bytes(lying)
    with pytest.raises(DataFormatError, match=r"bomb\.zip"):
        list(read_records(path, user_id="ada"))


def test_a_broken_or_locked_archive_is_one_line(tmp_path: Path) -> None:
    path = zipped(tmp_path / "export.zip")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataFormatError, match="the ZIP file is broken: File is not a zip file"):
        read_records(path, user_id="ada")
    middle = data.index(b"conversations.json") + 200
    path.write_bytes(data[:middle] + bytes(100) + data[middle + 100 :])
    with pytest.raises(DataFormatError, match="the ZIP file is broken"):
        list(read_records(path, user_id="ada", format="chatgpt"))
    flags = data.rindex(b"PK\x01\x02") + 8
    path.write_bytes(data[:flags] + b"\x01" + data[flags + 1 :])
    with pytest.raises(DataFormatError, match=r"cannot be unpacked: .* password"):
        read_records(path, user_id="ada")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user_id": None}, "line 1: nobody says whose conversation this is: name the user"),
        ({"messages": {}}, "line 1: `messages` must be a list, was: {}"),
        ({"messages": ["Hi"]}, "line 1: message 1 must be an object with a `role`, was: 'Hi'"),
        ({"messages": [{"role": "user", "content": 7}]}, "line 1: the content of message 1 must be text or a list"),
        ({"messages": [{"role": "user", "content": "a\x00"}]}, "line 1, message 1: `text` must not hold NUL"),
        ({"messages": [{"role": "user", "content": "a", "time": 1717}, {"role": "user"}]}, None),
        ({"messages": [{"role": "user", "content": "a", "time": "soon"}]}, "line 1, message 1: a time must be like"),
        ({"messages": []}, "there must be turns of user, there is none"),
        ({"lang": "en"}, "line 1: a conversation may have messages, .*, and has lang"),
    ],
)
def test_what_is_broken_is_named_with_its_place(tmp_path: Path, change: dict[str, Any], message: str | None) -> None:
    path = write_lines(tmp_path / "talks.jsonl", {**TALK, **change})
    if message is None:
        assert len(list(read_records(path))) == 1
        return
    with pytest.raises(DataFormatError, match=message) as caught:
        list(read_records(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("export", "change", "message"),
    [
        ("chatgpt", {"mapping": []}, "element 0: `mapping` must be an object of nodes, was: \\[\\]"),
        ("chatgpt", {"current_node": "gone"}, "element 0: the last message 'gone' must be one of"),
        (
            "chatgpt",
            {"mapping": {"a": {"parent": "a"}}, "current_node": "a"},
            "must be a tree, 'a' comes before itself",
        ),
        (
            "chatgpt",
            {"mapping": {"a": {"message": {}}}, "current_node": "a"},
            "message a must be an object with a `role`",
        ),
        ("claude", {"chat_messages": [7]}, "element 0: message 1 must be an object, was: 7"),
        (
            "claude",
            {"chat_messages": [{"sender": "bot"}]},
            "the sender of message 1 must be human or assistant, was: 'bot'",
        ),
    ],
)
def test_a_broken_export_is_named_with_its_place(
    tmp_path: Path, export: str, change: dict[str, Any], message: str
) -> None:
    first, *rest = json.loads((EXPORTS / f"{export}.json").read_text())
    path = tmp_path / "conversations.json"
    path.write_text(json.dumps([{**first, **change}, *rest]))
    with pytest.raises(DataFormatError, match=message):
        list(read_records(path, user_id="ada"))


def test_a_time_that_is_none_is_refused(tmp_path: Path) -> None:
    text = (EXPORTS / "chatgpt.json").read_text().replace("1717232460.25", "1e300")
    (tmp_path / "conversations.json").write_text(text)
    with pytest.raises(DataFormatError, match="element 0: `create_time` must be Unix seconds, was: 1e"):
        list(read_records(tmp_path / "conversations.json", user_id="ada"))


def test_whose_they_are_must_be_said_once(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "talks.jsonl", TALK)
    assert len(list(read_records(path, user_id="ada"))) == 2
    with pytest.raises(DataFormatError, match="the conversation is of 'ada', and was to be of 'bob'"):
        list(read_records(path, user_id="bob"))
    with pytest.raises(DataFormatError, match="nobody says whose conversation this is"):
        list(read_records(EXPORTS / "claude.json"))
    with pytest.raises(InvalidUserIdError):
        read_records(path, user_id="")
    rows = write_lines(tmp_path / "rows.jsonl", {"user_id": "ada", "text": "Hi."})
    with pytest.raises(InvalidOptionError, match=r"a user and roles are named for conversations, .* jsonl"):
        read_records(rows, user_id="ada")


def test_the_format_can_be_named(tmp_path: Path) -> None:
    path = shutil.copy(EXPORTS / "claude.json", tmp_path / "export.txt")
    assert len(list(read_records(path, format="claude", user_id="ada"))) == 3
    with pytest.raises(DataFormatError, match="element 0: a conversation must have `mapping`, has: uuid, name"):
        list(read_records(path, format="chatgpt", user_id="ada"))
