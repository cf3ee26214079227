"""The memory of what the user did: attention by hand, and what it is matched on."""

from __future__ import annotations

import math

import pytest

from persona.encoders.hashing import HashingEncoder
from persona.errors import InvalidOptionError
from persona.records import Profile, Record
from persona.retrievers import KeyValueRetriever
from tests.retrievers.cases import ids
from tests.retrievers.vectors.written import Written, at


def test_the_memory_is_read_by_value() -> None:
    """Row 57 of docs/papers.md: cosines .5, .4, .3 at temperature .1 are e^2 : e^1 : 1 = .665 : .245 : .090."""
    keys = [at(math.degrees(math.acos(cosine)), target) for cosine, target in ((0.5, "2"), (0.4, "5"), (0.3, "5"))]
    profile = Profile("ana", (*keys, Record("1 0"), Record("1 0", target="", id="empty")))
    retriever = KeyValueRetriever(Written(), temperature=0.1)
    assert dict(retriever.values(profile, "1 0")) == {
        "2": pytest.approx(0.665, abs=2e-3),
        "5": pytest.approx(0.335, abs=2e-3),
    }
    found = retriever.retrieve(profile, "1 0", 9)
    # The nearest text has no target: it says nothing of what the user does.
    assert [scored.record.target for scored in found] == ["2", "5", "5"]
    # A greater temperature listens to all: the value that is there twice comes first, its nearest key before the other.
    warm = KeyValueRetriever(Written(), temperature=1.0).retrieve(profile, "1 0", 9)
    assert [scored.record for scored in warm] == [keys[1], keys[2], keys[0]]


def test_the_memory_is_matched_on_the_key_alone() -> None:
    profile = Profile(
        "ana",
        (Record("penguins on ice", target="nature", id="key"), Record("a tax return", target="penguins", id="value")),
    )
    found = KeyValueRetriever(HashingEncoder(dim=256)).retrieve(profile, "penguins", 2)
    assert ids(found) == ["key", "value"]


def test_where_all_values_differ_the_order_is_that_of_the_keys() -> None:
    profile = Profile("ana", tuple(at(10 * number, f"title {number}") for number in range(9)))
    assert ids(KeyValueRetriever(Written()).retrieve(profile, at(40).text, 3))[0] == "40"
    with pytest.raises(InvalidOptionError, match="`temperature` must be a number above 0, was: 0"):
        KeyValueRetriever(Written(), temperature=0)


def test_a_user_who_did_nothing_has_no_answers() -> None:
    assert KeyValueRetriever(Written()).retrieve(Profile("ana", (Record("1 0"),)), "1 0", 3) == ()
    assert KeyValueRetriever(Written()).values(Profile("ana", (Record("1 0"),)), "1 0") == ()
