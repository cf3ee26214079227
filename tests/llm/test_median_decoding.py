"""Ratings by the median of the LLM's distribution: against the definition, in batches, and where it cannot be had."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from pathlib import Path

import pytest
import torch

from persona.errors import InvalidOptionError
from persona.eval.lamp import run_lamp
from persona.eval.lamp_config import LampConfig
from persona.eval.world.world import World
from persona.llm.load import load_llm
from persona.llm.logits import MedianDecoding
from persona.llm.transformers import TransformersLM
from persona.protocols import GenerationOptions, Request
from persona.readers import read_split

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
    answers = [[10 + place, 2] for place in range(5)]
    scores = torch.full((1, 20), draw.uniform(-3, 3))  # what belongs to no answer counts nothing
    scores[0, 10:15] = torch.tensor(p).log() + 7
    left = MedianDecoding(answers, max_new_tokens=1)(torch.zeros(1, 3), scores)
    risks = [sum(weight * abs(a - b) for b, weight in enumerate(p)) for a in range(5)]
    chosen = int(left.argmax()) - 10
    assert risks[chosen] == min(risks)
    # The runner-up is the second best by risk, and the distance is the border's log-odds.
    finite = left[0].isfinite().nonzero().flatten().tolist()
    other = next(token - 10 for token in finite if token - 10 != chosen)
    border = min(chosen, other)
    below, above = sum(p[: border + 1]), sum(p[border + 1 :])
    assert left[0, 10 + chosen] == pytest.approx(abs(math.log(below / above)), rel=1e-4)
    assert left[0, 10 + other] == 0


def test_what_answers_share_is_written_first_and_the_rest_after_it() -> None:
    watch = MedianDecoding([[7, 3, 2], [7, 4, 9, 2], [7, 5, 2]], max_new_tokens=4, forced=1)
    scores = torch.zeros(2, 10)
    scores[0, 3], scores[1, 4] = 5.0, 5.0
    rows = [watch(torch.zeros(2, 1), scores).argmax(-1).tolist() for _ in range(5)]
    assert rows[1:] == [[7, 7], [3, 4], [2, 9], [2, 2]]  # the first was the model's own


def test_answers_that_begin_alike_and_too_little_room_are_refused() -> None:
    with pytest.raises(InvalidOptionError, match="differ in the first token"):
        MedianDecoding([[7, 3, 2], [7, 3, 4, 2], [7, 5, 2]], max_new_tokens=8)
    with pytest.raises(InvalidOptionError, match="at least two answers"):
        MedianDecoding([[7, 2]], max_new_tokens=8)
    with pytest.raises(InvalidOptionError, match="must be at least 2 for these answers, was: 1"):
        MedianDecoding([[7, 2], [8, 9, 2]], max_new_tokens=1)


def test_an_answer_is_that_of_the_models_own_distribution_alone_and_in_a_batch(tiny: TransformersLM) -> None:
    task_input = "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 "
    prompts = [f"{task_input}without further explanation. review: {word}" for word in ("good", "a dull book", "it was")]
    answers = tiny.generate([Request(prompt) for prompt in prompts], MEDIAN)
    assert answers == [tiny.generate([Request(prompt)], MEDIAN)[0] for prompt in prompts]
    tokens = [ids[0] for ids in tiny.target_ids(SCORES)]
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([tiny.prompt_ids([prompt])[0]])
        with torch.inference_mode():
            p = tiny.model(ids).logits[0, -1, tokens].double().softmax(-1)
        assert answer == SCORES[int((p.cumsum(0) < 0.5).sum())]


@pytest.mark.shared
@pytest.mark.slow
def test_an_encoder_decoder_model_answers_one_of_them(shared: Path) -> None:
    llm = load_llm(shared / "models" / "frozen_llm")
    assert set(llm.generate([Request("review: a masterpiece"), Request("review: dull")], MEDIAN)) <= set(SCORES)


def test_who_cannot_say(tiny: TransformersLM) -> None:
    with pytest.raises(InvalidOptionError, match="set `num_beams=1`"):
        tiny.generate([Request("x")], dataclasses.replace(MEDIAN, num_beams=2))
    with pytest.raises(InvalidOptionError, match="does not give its scores"):
        load_llm(lambda prompt: "3").generate([Request("x")], MEDIAN)


@pytest.mark.slow
def test_an_evaluation_of_ratings_and_of_nothing_else(tiny: TransformersLM, tmp_path: Path) -> None:
    for task in ("LaMP_2", "LaMP_3"):
        World(3).write_lamp(tmp_path / task, task, {"dev": 60}, 8)
    split = read_split(tmp_path / "LaMP_3", "dev")
    config = LampConfig(methods=("none",), controls=False)
    rows = [
        run_lamp(split, tiny, dataclasses.replace(config, mbr=mbr), out=tmp_path / str(mbr)).rows[0]
        for mbr in (False, True)
    ]
    plain, median = (list(row.runs[0].values()) for row in rows)
    assert set(median) <= set(SCORES)
    assert sum(map(int, plain)) != sum(map(int, median))  # tiny is unsure of a stranger: its mode is not its median
    assert json.loads((tmp_path / "True" / "results.json").read_text())["config"]["mbr"] is True
    with pytest.raises(InvalidOptionError, match=r"LaMP_2 asks for none"):
        run_lamp(read_split(tmp_path / "LaMP_2", "dev"), tiny, dataclasses.replace(config, mbr=True))
