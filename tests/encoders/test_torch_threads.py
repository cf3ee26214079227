"""Workers use one thread each, work at the same time, and leave the process as it was."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from persona.encoders.torch_threads import one_thread_workers


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def threads_of_a_new_thread() -> int:
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return seen[0]


def test_each_worker_has_one_thread_and_nobody_else_is_changed() -> None:
    together = threading.Barrier(2)

    def look(_: int) -> tuple[int, str]:
        together.wait(60)  # which two workers pass only at the same time
        return torch.get_num_threads(), threading.current_thread().name

    with one_thread_workers(2) as workers:
        seen = list(workers.map(look, range(2)))
        assert torch.get_num_threads() == threads_of_a_new_thread() == 3
    assert [threads for threads, _ in seen] == [1, 1]
    assert len({name for _, name in seen}) == 2
    assert torch.get_num_threads() == threads_of_a_new_thread() == 3


def test_an_interruption_does_not_wait_for_what_has_not_begun() -> None:
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        time.sleep(0.05)

    def interrupted() -> None:
        with one_thread_workers(2) as workers:
            for number in range(1000):
                workers.submit(work, number)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(begun) < 100
    assert torch.get_num_threads() == 3
