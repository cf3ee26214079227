"""What a user embedder copies: features by hand and by brute force, and the lifts while an answer is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from persona.errors import InvalidOptionError
from persona.llm.answers.choices import chosen
from persona.llm.load import load_llm
from persona.llm.loss import TargetLoss
from persona.llm.transformers import TransformersLM
from persona.protocols import Choices, GenerationOptions, Request
from persona.records import Profile, Record
from persona.soft_prompts.copying import FEATURES, Copying, CopySource, TokenizedTexts, vocabulary_of
from tests.soft_prompts.splits import fresh

TEXTS = st.lists(st.integers(1, 5), max_size=6)


def copying(llama: TransformersLM, **weights: float) -> Copying:
    """Every token has an idf of 1."""
    idf = np.ones(vocabulary_of(llama), np.float32)
    return Copying(llama, idf, np.array([weights.get(name, 0.0) for name in FEATURES], np.float32))


def test_features_by_hand(llama: TransformersLM) -> None:
    ana = Profile("ana", (Record("x", target="abc"), Record("abd"), Record("y", target="ca")))
    (source,) = copying(llama).sources([ana], ["bdb"])
    letters = {letter: llama.target_ids([letter])[0][0] for letter in "abcd"}
    columns = {letter: source.tokens.tolist().index(token) for letter, token in letters.items()}
    end = llama.target_ids([""])[0][-1]
    assert sorted(source.tokens.tolist()) == sorted([*letters.values(), end])

    def nonzero(written: str, letter: str) -> dict[str, float]:
        row = source.features([letters[each] for each in written])[columns[letter]]
        return {name: float(value) for name, value in zip(FEATURES, row, strict=True) if value}

    def log1p(x: float) -> Any:
        return pytest.approx(math.log1p(x))

    # Three answers: a in all of them and twice at the beginning, b in two, c in two, d in one.
    assert nonzero("", "a") == {"user": log1p(1), "user_pair": log1p(2 / 4)}
    assert nonzero("", "b") == {"user": log1p(2 / 3), "question": log1p(1), "both": log1p(2 / 3)}
    # Behind a stands b twice, both times at the beginning; "ca" ends with a, which has nothing behind it.
    assert nonzero("a", "b") == {**nonzero("", "b"), "user_pair": log1p(2 / 3), "user_triple": log1p(2 / 3)}
    assert nonzero("ab", "c") == {"user": log1p(2 / 3), "user_pair": log1p(1 / 3), "user_triple": log1p(1 / 3)}
    # Written already, and last; the question has b behind d.
    assert nonzero("bd", "b") == {"written": 1, "question_pair": log1p(1 / 2), "question_triple": log1p(1 / 2)}
    assert nonzero("bd", "d") == {"written": 1, "again": 1}
    last = source.features([letters["a"]])[source.tokens.tolist().index(end)]
    assert dict(zip(FEATURES, last.tolist(), strict=True)) == {name: float(name == "end") for name in FEATURES}


def brute_force(
    answers: list[list[int]], question: list[int], idf: Any, written: list[int], token: int
) -> dict[str, float]:
    """The table of `persona.soft_prompts.copying`, word for word."""

    def share(texts: list[list[int]], last: Sequence[int]) -> float:
        following = [
            text[start + len(last)]
            for text in texts
            for start in range(len(text) - len(last))
            if text[start : start + len(last)] == list(last)
        ]
        return following.count(token) / (len(following) + 1)

    before = [-1, *written]
    users = [[-1, *answer] for answer in answers]
    x = dict.fromkeys(FEATURES, 0.0)
    if token not in written:
        x["user"] = math.log1p(sum(token in answer for answer in answers) / max(1, len(answers)) * idf[token])
        x["question"] = math.log1p(idf[token]) if token in question else 0.0
        x["both"] = x["user"] if token in question else 0.0
    else:
        x["written"] = 1.0
        x["again"] = float(written[-1] == token)
    for name, texts in (("user", users), ("question", [question])):
        x[f"{name}_pair"] = math.log1p(share(texts, before[-1:]) * idf[token])
        if len(before) > 1:
            x[f"{name}_triple"] = math.log1p(share(texts, before[-2:]) * idf[token])
    return x


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=4), TEXTS, TEXTS)
def test_features_are_those_of_the_table(answers: list[list[int]], question: list[int], written: list[int]) -> None:
    idf = np.linspace(0.5, 3, 8, dtype=np.float32)
    source = CopySource(TokenizedTexts.of(answers, (-1,)), TokenizedTexts.of([question]), idf, 7)
    tokens = sorted({token for text in (*answers, question) for token in text})
    assert source.tokens.tolist() == [*tokens, 7]
    x = source.features(written)
    for column, token in enumerate(tokens):
        expected = brute_force(answers, question, idf, written, token)
        assert x[column].tolist() == pytest.approx([expected[name] for name in FEATURES], abs=1e-6), token


def test_what_is_copied_is_named(llama: TransformersLM) -> None:
    """The cache of an evaluation keeps answers under it: what differs must have another name."""
    ana, bo = (Profile(name, (Record("x", target=word),)) for name, word in (("ana", "ab"), ("bo", "ba")))
    made = copying(llama, user=1.0)
    first, same, other, asked = made.lifts([ana, ana, bo, ana], ["q", "q", "q", "r"])
    heavier = copying(llama, user=2.0).lifts([ana], ["q"])[0]
    assert first and same and other and asked and heavier  # noqa: PT018
    assert first.fingerprint == same.fingerprint
    # "ab" and "ba" have the same letters, and differ in what stands behind what.
    assert len({each.fingerprint for each in (first, other, asked, heavier)}) == 4
    assert copying(llama).lifts([ana], ["q"]) == [None]


def test_long_histories_and_questions_are_cut(llama: TransformersLM, monkeypatch: pytest.MonkeyPatch) -> None:
    new, old, older = (
        Record("x", target=target, time=time) for target, time in (("bb", "2003"), ("a", "2002"), ("z", "2001"))
    )
    ana = Profile("ana", (new, older, old))  # in no order

    def copied() -> set[int]:
        (source,) = copying(llama).sources([ana], ["cde"])
        return set(source.tokens.tolist()) - {llama.target_ids([""])[0][-1]}

    monkeypatch.setattr("persona.soft_prompts.copying.MOST_RECORDS", 2)
    assert copied() == {llama.target_ids([letter])[0][0] for letter in "abcde"}
    monkeypatch.setattr("persona.soft_prompts.copying.MOST_TOKENS", 2)
    assert copied() == {llama.target_ids([letter])[0][0] for letter in "bcd"}
    # A text that is longer than all that is read is cut, and not left out.
    ana = Profile("ana", (Record("xyz", time="2001"),))
    assert copied() == {llama.target_ids([letter])[0][0] for letter in "xycd"}


def test_special_tokens_are_no_part_of_a_text(llama: TransformersLM) -> None:
    end = llama.target_ids([""])[0][-1]
    name = llama._tokenizer.convert_ids_to_tokens(end)
    (source,) = copying(llama).sources([Profile("ana", (Record("x", target=f"a{name}b"),))], ["q"])
    a, b = (llama.target_ids([letter])[0][0] for letter in "ab")
    x = source.features([a])
    assert x[source.tokens.tolist().index(end)].tolist() == [float(name == "end") for name in FEATURES]
    assert x[source.tokens.tolist().index(b), FEATURES.index("user_pair")] > 0


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("soft", [False, True])
def test_lifts_follow_what_was_written_and_neighbours_do_not_notice(
    llama: TransformersLM, num_beams: int, soft: bool
) -> None:
    options = GenerationOptions(max_new_tokens=6, num_beams=num_beams)
    prompt = torch.randn(2, llama.hidden_size, generator=torch.Generator().manual_seed(0)) if soft else None
    ana = Profile("ana", (Record("x", target="zebra"),))
    (strong,) = copying(llama, user_pair=1000.0, end=-1000.0).lifts([ana], ["one"])
    (gentle,) = copying(llama, user=3.0, user_pair=5.0, question=1.0).lifts([ana], ["two"])
    plain = llama.generate([Request(text, prompt) for text in ("one", "two")], options)
    asked = [
        Request(text, prompt, lifts=lifts)
        for text, lifts in (("one", None), ("one", strong), ("two", None), ("two", gentle))
    ]
    mixed = llama.generate(asked, options)
    assert mixed[1].startswith("zebra")  # a pair leads from letter to letter
    assert [mixed[0], mixed[2]] == plain
    assert mixed == [llama.generate([each], options)[0] for each in asked]


def test_an_llm_that_does_not_say_its_vocabulary_is_refused() -> None:
    silent: Any = SimpleNamespace(fingerprint="silent", model=SimpleNamespace(config=SimpleNamespace()))
    with pytest.raises(InvalidOptionError, match="does not say how many tokens"):
        vocabulary_of(silent)
    silent.model.config.text_config = SimpleNamespace(vocab_size=7)
    assert vocabulary_of(silent) == 7


def test_an_encoder_decoder_copies_as_in_training(shared: Path) -> None:
    """Greedy decoding goes the way of the highest lifted score, as the training's loss sees it."""
    loaded = load_llm(shared / "models" / "frozen_llm", overlong="truncate")
    assert isinstance(loaded, TransformersLM)
    weights = {"user": 2.0, "user_pair": 3.0, "user_triple": 2.0, "question": 1.0, "again": -3.0, "written": -1.0}
    idf = np.full(vocabulary_of(loaded), 3.0, np.float32)
    made = Copying(loaded, idf, np.array([weights.get(name, 0.0) for name in FEATURES], np.float32))
    ana = Profile("ana", (Record("x", target="Parsing the Zulu of the mountains"),))
    prompt = "Generate a title for the following abstract of a paper: We parse sentences with a small grammar."
    (lifts,) = made.lifts([ana], [prompt])
    assert lifts is not None
    (answer,) = loaded.generate([Request(prompt, lifts=lifts)], GenerationOptions(max_new_tokens=8))
    (target,) = loaded.target_ids([answer])
    (log_p,) = TargetLoss(loaded).log_probabilities(loaded.prompt_ids([prompt]), [target])
    for position, token in enumerate(target[:-1]):
        scores = log_p[position].clone()
        scores[torch.from_numpy(lifts.tokens)] += torch.from_numpy(lifts.after(target[:position]))
        assert int(scores.argmax()) == token, position
    assert answer != loaded.generate([Request(prompt)], GenerationOptions(max_new_tokens=8))[0]


def test_the_median_of_ratings_is_that_of_the_lifted_scores(tiny: Any) -> None:
    scores = ("1", "2", "3", "4", "5")
    choices = Choices(scores, ordered=True)
    idf = np.full(tiny.model.config.vocab_size, 3.0, np.float32)
    made = Copying(tiny, idf, np.array([50.0 * (name == "user") for name in FEATURES], np.float32))
    profiles = [Profile("ana", (Record("x", target=score),)) for score in scores]
    prompts = ["What is the score of the following review? review: The battery is superb."] * 5
    requests = [
        Request(prompt, lifts=each, choices=choices)
        for prompt, each in zip(prompts, made.lifts(profiles, prompts), strict=True)
    ]
    assert [chosen(each, choices) for each in tiny.choice_scores(requests)] == list(scores)


def test_an_embedder_in_half_precision_copies(tiny: Any, encoder: Any) -> None:
    ana = Profile("ana", (Record("x", target="superb"),))
    embedder = fresh(tiny, encoder, copies=True)
    assert embedder.copying is not None
    embedder.copying.weights.copy_(torch.linspace(-1, 1, len(FEATURES)))
    exact = embedder.copying.of(tiny).lifts([ana], ["Q"])[0]
    rounded = embedder.bfloat16().copying.of(tiny).lifts([ana], ["Q"])[0]  # type: ignore[union-attr]
    assert exact is not None
    assert rounded is not None
    assert np.allclose(exact.after([]), rounded.after([]), atol=0.1)
