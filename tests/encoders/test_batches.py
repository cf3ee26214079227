"""Batches hold every text once, within the budget; workers use one thread each and leave the process as it was."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from persona.encoders.batches import one_thread_workers, plan_batches


@given(st.lists(st.integers(0, 300), max_size=200), st.integers(1, 2000))
def test_batches_are_full_sorted_and_tight(lengths: list[int], budget: int) -> None:
    batches = [batch.tolist() for batch in plan_batches(lengths, budget)]
    order = [row for batch in batches for row in batch]
    assert order == sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    for batch in batches:
        size = len(batch) * lengths[batch[0]]
        assert batch
        assert len(batch) == 1 or size <= budget
        assert size - sum(lengths[row] for row in batch) <= budget // 8
    for batch, following in pairwise(batches):
        one_more = [*batch, following[0]]
        size = len(one_more) * lengths[batch[0]]
        padding = size - sum(lengths[row] for row in one_more)
        assert size > budget or padding > budget // 8


def test_no_texts_are_no_batches() -> None:
    assert plan_batches([], 100) == []


@pytest.fixture
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


@pytest.mark.usefixtures("three_threads")
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


@pytest.mark.usefixtures("three_threads")
def test_an_interruption_does_not_wait_for_pending_calls() -> None:
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
