"""Ratings by the median of the LLM's distribution: against the definition, in batches, and where it cannot be had."""

from __future__ import annotations

import dataclasses
import math
import random
from pathlib import Path

import pytest
import torch

from persona.errors import InvalidOptionError
from persona.llm.load import load_llm
from persona.llm.logits import MedianDecoding
from persona.llm.transformers import TransformersLM
from persona.protocols import GenerationOptions, Request

SCORES = ("1", "2", "3", "4", "5")
MEDIAN = GenerationOptions(max_new_tokens=4, median_of=SCORES)


@pytest.fixture(scope="module")
def tiny() -> TransformersLM:
    loaded = load_llm("tiny")
    assert isinstance(loaded, TransformersLM)
    return loaded


@pytest.mark.parametrize("seed", range(20))
def test_it_has_the_least_expected_error(seed: int) -> None:
    draw = random.Random(seed)
    p = [draw.random() ** 4 for _ in SCORES]
    scores = torch.full((1, 20), draw.uniform(-3, 3))  # tokens of no answer count nothing
    scores[0, 10:15] = torch.tensor(p).log() + 7
    left = MedianDecoding([[10 + i, 2] for i in range(5)], max_new_tokens=1)(torch.zeros(1, 3), scores)
    risks = [sum(weight * abs(a - b) for b, weight in enumerate(p)) for a in range(5)]
    chosen = int(left.argmax()) - 10
    assert risks[chosen] == min(risks)
    # The runner-up is the second best by risk, and the distance is the border's log-odds.
    (other,) = (token - 10 for token in left[0].isfinite().nonzero().flatten().tolist() if token - 10 != chosen)
    border = min(chosen, other)
    below, above = sum(p[: border + 1]), sum(p[border + 1 :])
    assert left[0, 10 + chosen] == pytest.approx(abs(math.log(below / above)), rel=1e-4)
    assert left[0, 10 + other] == 0


def test_what_answers_share_is_written_first_and_the_rest_after_it() -> None:
    median = MedianDecoding([[7, 3, 2], [7, 4, 9, 2], [7, 5, 2]], max_new_tokens=4, forced=1)
    scores = torch.zeros(2, 10)
    scores[0, 3], scores[1, 4] = 5.0, 5.0
    rows = [median(torch.zeros(2, 1), scores).argmax(-1).tolist() for _ in range(5)]
    assert rows[1:] == [[7, 7], [3, 4], [2, 9], [2, 2]]  # the first was the model's own


@pytest.mark.parametrize(
    ("answers", "max_new_tokens", "said"),
    [
        ([[7, 3, 2], [7, 3, 4, 2], [7, 5, 2]], 8, "differ in the first token"),
        ([[7, 2]], 8, "at least two answers"),
        ([[7, 2], [8, 9, 2]], 1, "must be at least 2 for these answers, was: 1"),
    ],
)
def test_answers_that_begin_alike_and_too_little_room_are_refused(
    answers: list[list[int]], max_new_tokens: int, said: str
) -> None:
    with pytest.raises(InvalidOptionError, match=said):
        MedianDecoding(answers, max_new_tokens)


def test_an_answer_is_that_of_the_models_own_distribution_alone_and_in_a_batch(tiny: TransformersLM) -> None:
    question = "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 "
    prompts = [f"{question}without further explanation. review: {word}" for word in ("good", "a dull book", "it was")]
    answers = tiny.generate([Request(prompt) for prompt in prompts], MEDIAN)
    assert answers == [tiny.generate([Request(prompt)], MEDIAN)[0] for prompt in prompts]
    tokens = [ids[0] for ids in tiny.target_ids(SCORES)]
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor(tiny.prompt_ids([prompt]))
        with torch.inference_mode():
            p = tiny.model(ids).logits[0, -1, tokens].double().softmax(-1)
        assert answer == SCORES[int((p.cumsum(0) < 0.5).sum())]


@pytest.mark.shared
@pytest.mark.slow
def test_an_encoder_decoder_model_answers_one_of_them(shared: Path) -> None:
    llm = load_llm(shared / "models" / "frozen_llm")
    assert set(llm.generate([Request("review: a masterpiece"), Request("review: dull")], MEDIAN)) <= set(SCORES)


def test_beams_have_no_median(tiny: TransformersLM) -> None:
    with pytest.raises(InvalidOptionError, match="set `num_beams=1`"):
        tiny.generate([Request("x")], dataclasses.replace(MEDIAN, num_beams=2))
