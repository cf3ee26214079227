"""Scores of choices: equal to one pass for each pair, with soft prompts, adapters and lifts, alone and in a batch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, MistralConfig, MistralForCausalLM

from persona.errors import InvalidOptionError
from persona.llm.load import load_llm
from persona.llm.loss import TargetLoss
from persona.llm.transformers import TransformersLM
from persona.protocols import Choices, Request

WORDS = ("red", "a small house", "the", "1", "king and queen of a far country", "it was")


SHARED = [pytest.param(name, marks=pytest.mark.shared) for name in ("stories260K", "frozen_llm")]


@pytest.fixture(scope="module", params=["tiny", "window", *SHARED])
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TransformersLM:
    """Models in float64: decoder-only, encoder-decoder, and one whose cache has a window and cannot be repeated."""
    name: Any = request.param
    if name in ("stories260K", "frozen_llm"):
        name = request.getfixturevalue("shared") / "models" / name
    elif name == "window":
        folder = tmp_path_factory.mktemp("window")
        tiny = load_llm("tiny")
        assert isinstance(tiny, TransformersLM)
        torch.manual_seed(0)
        sizes: dict[str, Any] = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        }
        model: Any = MistralForCausalLM(
            MistralConfig(
                vocab_size=tiny.model.config.vocab_size,
                num_key_value_heads=2,
                sliding_window=8,
                initializer_range=0.5,
                **sizes,
            )
        )
        model.save_pretrained(folder)
        tiny._tokenizer.save_pretrained(folder)
        name = folder
    loaded = load_llm(name, dtype="float64")
    assert isinstance(loaded, TransformersLM)
    return loaded


def drawn(number: int, llm: TransformersLM, *, soft: bool) -> list[Request]:
    draw = random.Random(number)
    requests = []
    for index in range(number):
        texts = draw.sample(WORDS, draw.randint(1, len(WORDS)))
        vectors = torch.randn(draw.randint(1, 4), llm.hidden_size, generator=torch.Generator().manual_seed(index))
        prompt = " ".join(draw.choices(["once", "upon", "a", "time", "there", "was", "nobody"], k=draw.randint(1, 20)))
        requests.append(Request(prompt, vectors * 0.1 if soft and index % 2 else None, choices=Choices(tuple(texts))))
    return requests


def one_by_one(llm: TransformersLM, request: Request) -> list[float]:
    """A pass for each choice."""
    assert request.choices is not None
    soft = None if request.soft_prompt is None else request.soft_prompt[None].to(llm.model.dtype)
    prompt = llm.prompt_ids([request.prompt])
    targets = llm.target_ids(request.choices.texts)
    return [-float(TargetLoss(llm)(prompt, [target], soft)[0]) * len(target) for target in targets]


def test_scores_are_those_of_a_pass_for_each_choice(llm: TransformersLM) -> None:
    requests = drawn(6, llm, soft=True)
    for request, scores in zip(requests, llm.choice_scores(requests), strict=True):
        assert scores == pytest.approx(one_by_one(llm, request), abs=1e-9)
        assert llm.choice_scores([request])[0] == pytest.approx(scores, abs=1e-9)


def test_each_row_is_scored_with_its_own_adapter() -> None:
    llm = load_llm("tiny", dtype="float64")
    assert isinstance(llm, TransformersLM)
    seen: list[list[str | None]] = []

    class Bank:
        slots = 8

        @contextmanager
        def named(self, names: Sequence[str | None]) -> Iterator[None]:
            seen.append(list(names))
            yield

    llm.attach_adapters(Bank())
    choices = Choices(("red", "a small house"))
    plain = llm.choice_scores([Request("once", choices=choices)])
    scores = llm.choice_scores(
        [Request("once", adapter="ana@1", choices=choices), Request("once", adapter="bob@2", choices=choices)]
    )
    assert scores == [pytest.approx(plain[0], abs=1e-9)] * 2
    assert seen[-2:] == [["ana@1", "bob@2"], ["ana@1", "ana@1", "bob@2", "bob@2"]]


def test_lifts_are_added_before_the_scores_are_normalised() -> None:
    llm = load_llm("tiny", dtype="float64")
    assert isinstance(llm, TransformersLM)
    choices = Choices(("red", "the"))
    (red, *_), _ = llm.target_ids(choices.texts)
    plain, lifted = llm.choice_scores(
        [Request("once", choices=choices), Request("once", choices=choices, lifts={red: 3.0})]
    )
    (log_p,) = TargetLoss(llm).log_probabilities(llm.prompt_ids(["once"]), [llm.target_ids(["red"])[0]])
    assert lifted[0] - lifted[1] > plain[0] - plain[1] + 2
    expected = 0.0
    for row, token in zip(log_p.double(), llm.target_ids(["red"])[0], strict=True):
        changed = row.clone()
        changed[red] += 3.0
        expected += float(changed.log_softmax(-1)[token])
    assert lifted[0] == pytest.approx(expected, abs=1e-5)  # `log_probabilities` are float32


def test_a_request_without_choices_is_refused() -> None:
    llm = load_llm("tiny")
    assert isinstance(llm, TransformersLM)
    assert llm.choice_scores([]) == []
    with pytest.raises(InvalidOptionError, match="request 1 has none"):
        llm.choice_scores([Request("a", choices=Choices(("b",))), Request("a")])


@pytest.mark.parametrize(
    ("name", "questions"),
    [
        pytest.param("stories260K", 200, marks=[pytest.mark.shared, pytest.mark.slow]),
        pytest.param("smollm2", 12, marks=pytest.mark.real),
    ],
)
def test_scores_are_those_of_lm_evaluation_harness(
    name: str, questions: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Given the same token ids, the end token included."""
    from lm_eval.models.huggingface import HFLM

    if name == "smollm2":
        llm, folder = request.getfixturevalue("smollm2"), tmp_path
        llm.model.save_pretrained(folder)
        llm._tokenizer.save_pretrained(folder)
    else:
        folder = request.getfixturevalue("shared") / "models" / name
        llm = load_llm(folder)
    assert isinstance(llm, TransformersLM)
    requests = drawn(questions, llm, soft=False)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    harness: Any = HFLM(model, tokenizer=tokenizer, backend="causal", batch_size=16, device="cpu")
    pairs = [
        ((request.prompt, text), ids, target)
        for request in requests
        for ids, texts in [(llm.prompt_ids([request.prompt])[0], (request.choices or Choices(("",))).texts)]
        for text, target in zip(texts, llm.target_ids(texts), strict=True)
    ]
    theirs = iter([score for score, _ in harness._loglikelihood_tokens(pairs, disable_tqdm=True)])
    for scores in llm.choice_scores(requests):
        expected = [next(theirs) for _ in scores]
        assert scores == pytest.approx(expected, abs=1e-4)
        assert max(scores) - scores[expected.index(max(expected))] <= 1e-4
