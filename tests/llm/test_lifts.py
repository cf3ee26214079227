"""Lifts: what is added to the scores of an answer's tokens, for each row of a batch in its own way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from persona.errors import InvalidOptionError, UnsupportedChannelError
from persona.llm.lifts import TokenLifts
from persona.llm.load import load_llm
from persona.protocols import GenerationOptions, Request


class Falling:
    """Lifts of some tokens that fall with each token that was written."""

    fingerprint = "falling"

    def __init__(self, tokens: Sequence[int], value: float = 2.0) -> None:
        self.tokens = np.array(tokens, np.int64)
        self.value = value

    def after(self, written: Sequence[int]) -> NDArray[np.float32]:
        return np.full(len(self.tokens), self.value - len(written), np.float32)


@pytest.fixture(scope="module")
def llm(llama_folder: Path) -> Any:
    """With a byte tokenizer: a token is a letter."""
    return load_llm(llama_folder)


def test_lifts_are_added_to_the_scores_of_their_row() -> None:
    scores = torch.tensor([[0.0, -1.0, 2.0], [0.5, 0.25, -torch.inf], [1.0, 1.0, 1.0]])
    before = scores.clone()
    lifted = TokenLifts([{1: 2.0}, {2: 1.0, 0: 0.5}, None], num_beams=1)(torch.zeros(3, 1), scores)
    assert lifted.tolist() == [[0.0, 1.0, 2.0], [1.0, 0.25, -math.inf], [1.0, 1.0, 1.0]]
    assert torch.equal(scores, before)
    beams = TokenLifts([None, {0: 1.0}], num_beams=2)(torch.zeros(4, 1), torch.zeros(4, 2))
    assert beams.tolist() == [[0, 0], [0, 0], [1, 0], [1, 0]]


@pytest.mark.parametrize("forced", [0, 1])
def test_lifts_may_depend_on_what_was_written(forced: int) -> None:
    """A token that the model is made to write before an answer is no part of it."""
    processor = TokenLifts([None, Falling([1, 3])], num_beams=1, forced=forced)
    prompt, scores = torch.full((2, 3), 9), torch.zeros(2, 5)
    for written in range(4):
        lifted = processor(torch.cat((prompt, torch.ones(2, written, dtype=torch.long)), dim=1), scores)
        expected = 2.0 - (written - forced) if written >= forced else 0.0
        assert lifted.tolist() == [[0.0] * 5, [0.0, expected, 0.0, expected, 0.0]]


def test_beams_are_compared_by_log_probabilities() -> None:
    """With step lifts these are log-probabilities again; rows without lifts are left as they are, to the bit."""
    scores = torch.randn(4, 9, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    lifted = TokenLifts([None, Falling([1, 3])], num_beams=2)(torch.zeros(4, 3, dtype=torch.long), scores)
    assert torch.equal(lifted[:2], scores[:2])
    torch.testing.assert_close(lifted.logsumexp(-1), torch.zeros(4), rtol=0, atol=1e-5)
    assert not torch.equal(lifted[2:], scores[2:])


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_strong_lift_decides_and_neighbours_do_not_notice(llm: Any, num_beams: int) -> None:
    options = GenerationOptions(max_new_tokens=6, num_beams=num_beams)
    token = llm.target_ids(["z"])[0][0]
    plain = llm.generate([Request("one"), Request("two"), Request("three")], options)
    lifted = Request("one", lifts={token: 1000.0})
    mixed = llm.generate([Request("one"), lifted, Request("two"), Request("three"), Request("one", lifts={})], options)
    assert mixed[1] == "z" * 6
    assert [mixed[0], mixed[2], mixed[3], mixed[4]] == [*plain, plain[0]]
    # Alone or in a batch, a lifted answer is the same.
    gentle = [Request(prompt, lifts={token: 2.0}) for prompt in ("one", "two", "three")]
    assert llm.generate(gentle, options) == [llm.generate([each], options)[0] for each in gentle]


@pytest.mark.parametrize("lifts", [{10**6: 1.0}, Falling([10**6])])
def test_lifts_of_unknown_tokens_are_refused(llm: Any, lifts: Any) -> None:
    with pytest.raises(InvalidOptionError, match="token ids from 0 to"):
        llm.generate([Request("x", lifts=lifts)], GenerationOptions())


@pytest.mark.parametrize("lifts", [{3: math.nan}, Falling([3], math.nan)])
def test_lifts_must_be_finite(llm: Any, lifts: Any) -> None:
    with pytest.raises(InvalidOptionError, match="must be finite"):
        llm.generate([Request("x", lifts=lifts)], GenerationOptions())


def test_an_llm_without_scores_takes_no_lifts() -> None:
    with pytest.raises(UnsupportedChannelError, match="needs: lifts"):
        load_llm(lambda prompt: "").generate([Request("x", lifts={3: 1.0})], GenerationOptions())
