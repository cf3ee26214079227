"""How requests with choices are answered, by LLMs that score them, are held to them, or only write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from persona.errors import InvalidOptionError
from persona.llm.answers.modes import answer_mode, answers
from persona.llm.load import load_llm
from persona.llm.tokenizers import WhitespaceTokenizer
from persona.llm.transformers import TransformersLM
from persona.protocols import TEXT, Answer, Choices, GenerationOptions, LanguageModel, Mode, Request

TAGS = Choices(("comedy", "true story"))


@pytest.fixture(scope="module")
def tiny() -> TransformersLM:
    loaded = load_llm("tiny")
    assert isinstance(loaded, TransformersLM)
    return loaded


class Held:
    """An LLM that can be held to choices, gives no scores, and answers one by one."""

    channels, fingerprint, tokenizer, constrains, chats = frozenset({TEXT}), "held", WhitespaceTokenizer(), True, True

    def __init__(self) -> None:
        self.asked: list[GenerationOptions] = []

    def generate(self, requests: Sequence[Request], options: GenerationOptions) -> list[str]:
        return [text for _, text in self.generate_each(requests, options)]

    def generate_each(self, requests: Sequence[Request], options: GenerationOptions) -> Iterator[tuple[int, str]]:
        self.asked.append(options)
        for index, request in reversed(list(enumerate(requests))):
            yield index, "anything" if request.choices is None else request.choices.texts[-1]


@pytest.mark.parametrize(
    ("wanted", "mode"),
    [("generate", "generate"), ("likelihood", "constrained"), ("constrained", "constrained"), ("auto", "constrained")],
)
def test_an_llm_without_scores_is_held_to_the_choices(wanted: str, mode: Mode) -> None:
    llm = Held()
    requests = [Request("a"), Request("b", choices=TAGS)]
    answered = dict(answers(llm, requests, GenerationOptions(answers=wanted)))
    assert answered == {0: Answer("anything"), 1: Answer("true story", mode=mode)}
    assert [options.answers for options in llm.asked] == ["constrained" if mode == "constrained" else "generate"]


def test_an_llm_that_only_writes_is_read() -> None:
    said = {"a": "It is a **True story**.", "b": "comedy or true story"}
    llm = load_llm(lambda prompt: said[prompt], name="said")
    requests = [Request(prompt, choices=TAGS) for prompt in said]
    options = GenerationOptions(answers="likelihood")
    assert answer_mode(llm, options) == "read"
    said_of = dict(answers(llm, requests, options))
    assert said_of == {0: Answer("true story", mode="read"), 1: Answer("comedy or true story", mode="read")}
    # It is asked for its own words: nothing is read into them.
    plain = GenerationOptions(answers="generate")
    assert list(answers(llm, requests[:1], plain)) == [(0, Answer("It is a **True story**."))]
    # It has no chat template, so that is the default.
    assert answer_mode(llm, GenerationOptions()) == "generate"


@pytest.mark.parametrize("beams", [1, 3])
def test_a_constrained_answer_is_a_choice_alone_and_in_a_batch(tiny: TransformersLM, beams: int) -> None:
    requests = [Request(f"Once {word}", choices=TAGS) for word in ("upon", "a", "the")] + [Request("Once")]
    options = GenerationOptions(12, num_beams=beams, answers="constrained")
    together = tiny.generate(requests, options)
    assert together == [tiny.generate([request], options)[0] for request in requests]
    assert set(together[:3]) <= set(TAGS.texts)
    assert together[3] == tiny.generate([Request("Once")], GenerationOptions(12, num_beams=beams))[0]
    with pytest.raises(InvalidOptionError, match="`max_new_tokens` must be at least"):
        tiny.generate(requests, GenerationOptions(1, answers="constrained"))


def test_a_likely_answer_is_one_of_the_choices(tiny: TransformersLM) -> None:
    requests = [Request("Once", choices=TAGS), Request("Once"), Request("upon", choices=TAGS)]
    found: Any = dict(answers(tiny, requests, GenerationOptions(4, answers="likelihood")))
    assert [found[index].mode for index in range(3)] == ["likelihood", "generate", "likelihood"]
    scores = tiny.choice_scores([requests[0]])[0]
    assert found[0].text == TAGS.texts[scores.index(max(scores))]
    assert found[1].text == tiny.generate([Request("Once")], GenerationOptions(4))[0]


def test_a_base_model_answers_in_its_own_words_by_default(tiny: TransformersLM) -> None:
    assert not tiny.chats
    assert answer_mode(tiny, GenerationOptions()) == "generate"
    llm: LanguageModel = Held()
    assert answer_mode(llm, GenerationOptions()) == "constrained"
