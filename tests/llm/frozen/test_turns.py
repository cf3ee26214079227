"""Turns at a model."""

from __future__ import annotations

import threading
import time

from persona.llm.frozen.turns import Turns


def test_who_waits_is_let_in_between_two_turns_of_a_loop_and_in_order() -> None:
    turns, order, stop = Turns(), list[str](), threading.Event()

    def loop() -> None:
        while not stop.is_set():
            with turns:
                order.append("loop")
                with turns:  # its holder may take it again
                    time.sleep(0.005)

    def wait(name: str) -> None:
        with turns:
            order.append(name)

    looping = threading.Thread(target=loop)
    waiting = [threading.Thread(target=wait, args=(name,)) for name in "abc"]
    with turns:
        looping.start()
        for thread in waiting:
            while len(turns._waiting) <= waiting.index(thread):
                time.sleep(0.001)
            thread.start()
        while len(turns._waiting) < 4:
            time.sleep(0.001)
    for thread in waiting:
        thread.join()
    stop.set()
    looping.join()
    assert order[:4] == ["loop", "a", "b", "c"]
    assert turns._holder is None


def test_an_error_gives_the_turn_back() -> None:
    turns = Turns()
    try:
        with turns:
            raise ValueError
    except ValueError:
        pass
    taken = threading.Thread(target=turns.__enter__)
    taken.start()
    taken.join(5)
    assert not taken.is_alive()
