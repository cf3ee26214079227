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
# Of -1.5, -2.25 (ended), -2.75, -3.0 and less, -1.5 and -2.75 go on.
GOES_ON = [[-0.5, -1.75, -6.0, -1.25], [-1.0, -8.0, -9.0, -2.5]]
IN_ORDER: list[list[int]] = [[0], [1]]


@pytest.mark.parametrize(
    ("steps", "begins", "margin"),
    [
        pytest.param([FIRST], [], 2.0, id="-2 goes on, -4 does not"),
        pytest.param([FIRST, GOES_ON], [IN_ORDER], 0.25, id="-2.75 goes on, -3 does not"),
        pytest.param([FIRST, GOES_ON[::-1]], [IN_ORDER[::-1]], 0.25, id="the same with the beams in another order"),
        pytest.param(
            [FIRST, [[-0.5, -1.75, -6.0, -1.625], [-3.0, -8.0, -9.0, -9.0]]],
            [IN_ORDER],
            0.125,
            id="-2.625 has ended and is one of the best two, -2.75 is not",
        ),
        pytest.param(
            [FIRST, [[-0.5, -1.75, -6.0, -1.875], [-3.0, -8.0, -9.0, -9.0]]],
            [IN_ORDER],
            0.125,
            id="-2.875 has ended and is not among the best two, -2.75 is",
        ),
        pytest.param(
            [FIRST, [[-2.5, -6.0, -9.0, -1.0], [-3.5, -9.0, -9.0, -1.0]]],
            [IN_ORDER],
            0.25,
            id="both beams ended with -2 / 2 and -3 / 2, the best that runs has -3.5 / 2",
        ),
    ],
)
def test_a_beam_margin_is_that_of_the_closest_decision(
    steps: list[list[list[float]]], begins: list[list[list[int]]], margin: float
) -> None:
    assert beam_margin(*steps, begins=begins) == margin


def test_a_beam_margin_of_the_winner() -> None:
    second = [[-0.5, -4.5, -6.0, -1.25], [-3.0, -8.0, -9.0, -9.0]]
    # Finished: -2.25 after 2 steps, a mean of -1.125. Running: -1.5 and -5. Then all end, the best with -3.75 / 3.
    third = [[-2.25, -4.0, -5.0, -9.0], [-9.0, -9.0, -9.0, -9.0]]
    before = beam_margin(FIRST, second, begins=[IN_ORDER])
    assert beam_margin(FIRST, second, third, begins=[IN_ORDER, [[0, 0], [1, 0]]]) == 0.125 < before


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
