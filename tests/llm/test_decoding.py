"""Margins of decisions, against margins computed by hand and against the books that transformers keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from persona.llm.decoding import BeamMargin, GreedyMargin
from persona.llm.load import load_llm


def test_a_greedy_margin_is_the_least_gap_of_the_open_steps() -> None:
    watch = GreedyMargin(3, torch.tensor([9]))
    steps = [
        ([1, 1, 1], [[0.0, 5.0, 3.0], [0.0, 1.0, 8.0], [2.0, 2.5, -torch.inf]]),
        ([1, 2, 1], [[4.0, 0.0, 3.5], [0.0, 1.0, 3.0], [0.0, 7.0, 1.0]]),
        ([0, 9, 1], [[4.0, 0.0, 3.0], [0.0, 1.0, 1.0], [0.0, 7.0, 6.75]]),  # The second row has ended.
    ]
    for last, scores in steps:
        given = torch.tensor(scores)
        assert watch(torch.tensor(last)[:, None], given) is given
    assert watch.margins.tolist() == [0.5, 2.0, 0.25]


def test_scores_that_are_not_numbers_show() -> None:
    nan = torch.full((2, 4), torch.nan)
    greedy, beams = GreedyMargin(2, torch.tensor([3])), BeamMargin(1, 2, 5, torch.tensor([3]))
    greedy(torch.zeros(2, 1, dtype=torch.long), nan)
    beams(torch.zeros(2, 1, dtype=torch.long), nan)
    assert greedy.margins.isnan().all()
    assert beams.margins.isnan().all()


def beam_margin(*steps: list[list[float]], begins: list[list[list[int]]]) -> float:
    """The margin of a search with two beams over the tokens 0, 1, 2 and the end token 3.

    Scores need not be probabilities here. `begins` has what the two beams are before each step but the first.
    """
    watch = BeamMargin(1, 2, 3, torch.tensor([3]))
    nothing: list[list[int]] = [[], []]
    for scores, begin in zip(steps, [nothing, *begins], strict=True):
        watch(torch.tensor([[7, *tokens] for tokens in begin]), torch.tensor(scores).expand(2, -1))
    return watch.margins.item()


FIRST = [[-1.0, -2.0, -4.0, -8.0]]


def test_the_beams_that_go_on() -> None:
    # -2 goes on, -4 does not.
    assert beam_margin(FIRST, begins=[]) == 2.0
    # Of -1.5, -2.25 (ended), -2.75, -3.0 and less, -1.5 and -2.75 go on.
    second = [[-0.5, -1.75, -6.0, -1.25], [-1.0, -8.0, -9.0, -2.5]]
    assert beam_margin(FIRST, second, begins=[[[0], [1]]]) == 0.25
    # The order of the beams does not matter.
    assert beam_margin(FIRST, second, begins=[[[1], [0]]]) != 0.25
    assert beam_margin(FIRST, second[::-1], begins=[[[1], [0]]]) == 0.25


def test_the_ended_ones_among_the_best() -> None:
    # -2.625 (ended) is one of the best two, and -2.75 is not.
    inside = [[-0.5, -1.75, -6.0, -1.625], [-3.0, -8.0, -9.0, -9.0]]
    assert beam_margin(FIRST, inside, begins=[[[0], [1]]]) == 0.125
    # -2.875 (ended) is not, and -2.75 is.
    outside = [[-0.5, -1.75, -6.0, -1.875], [-3.0, -8.0, -9.0, -9.0]]
    assert beam_margin(FIRST, outside, begins=[[[0], [1]]]) == 0.125


def test_the_winner() -> None:
    second = [[-0.5, -4.5, -6.0, -1.25], [-3.0, -8.0, -9.0, -9.0]]
    # Finished: -2.25 after 2 steps, a mean of -1.125. Running: -1.5 and -5. Then all end, the best with -3.75 / 3.
    third = [[-2.25, -4.0, -5.0, -9.0], [-9.0, -9.0, -9.0, -9.0]]
    before = beam_margin(FIRST, second, begins=[[[0], [1]]])
    assert beam_margin(FIRST, second, third, begins=[[[0], [1]], [[0, 0], [1, 0]]]) == 0.125 < before


def test_whether_a_beam_can_still_win() -> None:
    # Both beams end next: -2.0 / 2 and -3.0 / 2 fill the pool; the best that runs has -3.5 / 2.
    second = [[-2.5, -6.0, -9.0, -1.0], [-3.5, -9.0, -9.0, -1.0]]
    assert beam_margin(FIRST, second, begins=[[[0], [1]]]) == 0.25


@pytest.mark.parametrize("num_beams", [2, 4])
def test_the_books_are_those_of_transformers(llama_folder: Path, num_beams: int) -> None:
    llm: Any = load_llm(llama_folder)
    # Answers of many lengths: several tokens end one.
    ends = torch.tensor([1, *range(40, 90)])
    prompts = torch.tensor([[0, 50, 60], [0, 70, 80], [0, 90, 100], [0, 110, 120], [0, 130, 140]])
    watch = BeamMargin(len(prompts), num_beams, 8, ends)
    output = llm.model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        num_beams=num_beams,
        num_return_sequences=num_beams,
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=ends.tolist(),
        pad_token_id=1,
        logits_processor=[watch],
        return_dict_in_generate=True,
        output_scores=True,
    )
    theirs = output.sequences_scores.view(len(prompts), num_beams)
    torch.testing.assert_close(watch._finished, theirs)
    lengths = (output.sequences[:, 3:] != 1).sum(dim=1)
    assert lengths.min() < lengths.max()
    assert (watch.margins > 0).all()
