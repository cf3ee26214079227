"""Margins of decisions, against margins computed by hand and against the books that transformers keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from persona.decoding import BeamMargin, GreedyMargin
from persona.models import load_llm


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


def test_a_beam_margin_by_hand() -> None:
    # Two beams over the tokens 0, 1, 2 and the end token 3; log-probabilities need not sum to one here.
    watch = BeamMargin(1, 2, 3, torch.tensor([3]))
    start = torch.tensor([[7], [7]])
    first = torch.tensor([[-1.0, -2.0, -4.0, -8.0]])
    watch(start, first.expand(2, -1))
    assert watch.margins.tolist() == [1.0]  # -1 before -2.
    # Beam 0 is -1, beam 1 is -2; candidates: -1.5, -2.25 (ends), -2.75, -3.0, -4.5 (ends), ...
    second = torch.tensor([[-0.5, -1.75, -6.0, -1.25], [-1.0, -8.0, -9.0, -2.5]])
    watch(torch.tensor([[7, 0], [7, 1]]), second)
    assert watch.margins.tolist() == [0.25]  # -2.75 before -3.0.
    # The finished answer is worth -2.25 / 2; it is kept apart from the beams, which are now [0, 0] and [0, 1].
    third = torch.tensor([[-3.0, -4.0, -5.0, -3.125], [-9.0, -9.0, -9.0, -9.0]])
    watch(torch.tensor([[7, 0, 0], [7, 0, 1]]), third)
    # All end here, and finished answers compare by their mean: -4.5 / 3 is kept, -4.625 / 3 is not.
    assert watch.margins.tolist() == pytest.approx([0.125 / 3])


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
