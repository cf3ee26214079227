"""Turns with their neighbours: of the same conversation, and searched by the beginnings of words."""

from __future__ import annotations

import pytest

from persona.errors import InvalidOptionError
from persona.records import Profile, Record
from persona.retrievers.conversation.passages import PassageRetriever, conversations, passages
from tests.retrievers.cases import ids
from tests.retrievers.conversation.talk import LINES, TALK


def test_a_passage_ends_where_the_conversation_does() -> None:
    said = [record.view("turn") for record in TALK]
    assert said[1] == f"Ben, 8 May 2023: {LINES[1][3]}"
    assert passages(TALK, 1) == ["\n".join(said[a:b]) for a, b in ((0, 2), (0, 3), (1, 3), (3, 5), (3, 5), (5, 6))]
    assert passages(TALK, 0) == said


def test_conversations_are_told_apart_by_name_then_by_day_and_what_is_no_turn_stands_alone() -> None:
    named = [Record("x", id=n, time="2023", metadata={"conversation": n[0]}) for n in ("a1", "b1", "a2", "b2")]
    assert conversations(Profile("ana", tuple(named))) == [[0, 2], [1, 3]]
    assert conversations(TALK) == [[0, 1, 2], [3, 4], [5]]
    assert conversations(Profile("ana", (Record("x", id="1"), Record("x", id="2")))) == [[0], [1]]


def test_a_turn_is_found_by_what_was_said_before_it_and_by_another_form_of_a_word() -> None:
    assert set(ids(PassageRetriever(neighbours=1).retrieve(TALK, "kayaks", 2))) == {"1", "2"}
    assert ids(PassageRetriever(neighbours=0).retrieve(TALK, "Who paints?", 2)) == ["4", "5"]
    assert PassageRetriever().scores(TALK, "weir").tolist().count(0.0) == 3
    with pytest.raises(InvalidOptionError, match="`k` must be at least 0, was: -1"):
        PassageRetriever(neighbours=-1)
