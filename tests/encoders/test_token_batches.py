"""Batches hold every text once, the longest first, within the budget and with little padding."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from persona.encoders.token_batches import plan_batches


@given(st.lists(st.integers(0, 300), max_size=200), st.integers(1, 2000))
def test_batches_are_full_sorted_and_tight(lengths: list[int], budget: int) -> None:
    batches = [batch.tolist() for batch in plan_batches(lengths, budget)]
    order = [place for batch in batches for place in batch]
    assert order == sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    for batch in batches:
        size = len(batch) * lengths[batch[0]]
        assert batch
        assert len(batch) == 1 or size <= budget
        assert size - sum(lengths[place] for place in batch) <= budget // 8
    for batch, following in pairwise(batches):
        one_more = [*batch, following[0]]
        size = len(one_more) * lengths[batch[0]]
        padding = size - sum(lengths[place] for place in one_more)
        assert size > budget or padding > budget // 8


def test_no_texts_are_no_batches() -> None:
    assert plan_batches([], 100) == []
