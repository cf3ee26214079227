"""What is kept in memory is dropped with a user, as long as whoever keeps it lives."""

from __future__ import annotations

import gc

from persona import caches


class Slots:
    def __init__(self) -> None:
        self.kept = {"ana": 2}

    def drop(self, user_id: str) -> int:
        return self.kept.pop(user_id, 0)


def test_all_that_live_are_reached() -> None:
    one, other = Slots(), Slots()
    caches.register(one, "slots of a test")
    caches.register(other, "slots of a test")
    assert caches.drop("ben")["slots of a test"] == 0
    assert caches.drop("ana")["slots of a test"] == 4
    assert caches.drop("ana")["slots of a test"] == 0
    del one, other
    gc.collect()
    assert "slots of a test" not in caches.drop("ana")


def test_a_cache_of_texts_makes_anew_what_it_dropped() -> None:
    made: list[str] = []

    def length(text: str) -> int:
        made.append(text)
        return len(text)

    cache = caches.TextCache("lengths of a test", length, 2)
    assert [cache("abc"), cache("abc"), cache("d"), cache("e")] == [3, 3, 1, 1]
    assert caches.drop("anybody")["lengths of a test"] == 2  # the first made room
    assert (cache("e"), made) == (1, ["abc", "d", "e", "e"])
