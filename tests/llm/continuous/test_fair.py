"""The fair queue against what it promises."""

from __future__ import annotations

import random
from collections import Counter

from persona.llm.continuous.fair import FairQueue


def test_clients_that_always_wait_are_served_the_same_number_of_tokens() -> None:
    chance, queue, served = random.Random(0), FairQueue[tuple[str, int]](), Counter[str]()
    sizes = {"short": 10, "long": 300, "many": 50}
    for client, size in sizes.items():
        for _ in range(3000 // size):
            queue.put(client, (client, size), size)
    for _ in range(60):
        client, size = queue.take()
        left = chance.randint(0, size // 2)
        served[client] += size - left
        queue.give_back(client, left)
    assert max(served.values()) - min(served.values()) <= 600


def test_nobody_saves_up_turns_and_nothing_is_remembered() -> None:
    queue = FairQueue[str]()
    busy = [f"busy {n}" for n in range(6)]
    for each in busy:
        queue.put("busy", each, 100)
    taken = [queue.take() for _ in range(3)]
    queue.put("new", "new 0", 100)
    queue.put("new", "new 1", 100)
    order = [queue.take() for _ in range(4)]
    assert taken == ["busy 0", "busy 1", "busy 2"]
    assert sorted(order[:2]) == ["busy 3", "new 0"]
    assert queue.waiting("busy") == 1
    assert queue.remove("busy", busy[5])
    assert not queue.remove("busy", busy[5])
    for client in ["busy"] * 5 + ["new"] * 2:
        queue.give_back(client, 0)
    assert (len(queue), queue.first(), queue._served, queue._taken, queue._waiting) == (0, None, {}, {}, {})
