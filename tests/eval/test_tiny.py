"""The embedded language model `tiny`: its folder, that it loads as any model does, and that history helps it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

import persona
from examples.world.bounds import no_user_score, oracle_score
from examples.world.world import WORLD_TASKS, World, WorldQuestion
from persona.eval import LampBenchmark, LampOptions, evaluate_lamp
from persona.eval.bootstrap import Bootstrap
from persona.eval.demo.world import tiny_user_embedders
from persona.eval.metrics import METRICS, Samples, score_lamp
from persona.lamp.prompts import lamp_prompt
from persona.lamp.tasks import LampSplit, lamp_task
from persona.llm.load import load_llm
from persona.llm.tokenizers import HuggingFaceTokenizer
from persona.records import Profile, Record
from persona.retrievers import BM25Retriever

FOLDER = Path(persona.__file__).parent / "tiny"
USERS = 100


@dataclass(frozen=True, slots=True)
class Tiny:
    model: Any
    tokenizer: Any


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32, local_files_only=True)
    model.eval()  # type: ignore[no-untyped-call]
    return Tiny(model, AutoTokenizer.from_pretrained(FOLDER, local_files_only=True))


# ------------------------------------------------------------------------------------------------------- the folder


def test_the_weights_are_small_16_bit_and_safe() -> None:
    weights = FOLDER / "model.safetensors"
    with safe_open(weights, framework="pt") as tensors:
        shapes = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118

    assert weights.stat().st_size <= 16 * 2**20
    assert {tensor.dtype for tensor in shapes.values()} == {torch.bfloat16}
    assert sum(tensor.numel() for tensor in shapes.values()) <= 8_000_000
    assert not list(FOLDER.glob("*.bin")) + list(FOLDER.glob("*.pkl")) + list(FOLDER.glob("*.py"))


def test_it_is_a_plain_llama_with_special_tokens(tiny: Tiny) -> None:
    assert type(tiny.model) is LlamaForCausalLM
    assert tiny.tokenizer.is_fast
    assert tiny.tokenizer.padding_side == "left"
    assert tiny.model.config.max_position_embeddings >= 512
    for role in ("pad", "bos", "eos"):
        number = getattr(tiny.tokenizer, f"{role}_token_id")
        assert number == getattr(tiny.model.config, f"{role}_token_id") is not None
        assert number == getattr(tiny.model.generation_config, f"{role}_token_id")


def test_the_card_says_how_it_was_made_and_what_it_scores() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")

    for word in ("pretrain", "seed", "steps", "hardware", "time", "oracle", "no user", *WORLD_TASKS):
        assert word in card
    assert json.loads((FOLDER / "training.json").read_text(encoding="utf-8")).keys() >= {"data", "seed", "time"}


# ---------------------------------------------------------------------------------------------------- the tokenizer


@given(st.text())
def test_any_text_comes_back_from_the_tokenizer(text: str) -> None:
    _comes_back(text)


@pytest.mark.parametrize(
    "text",
    [
        'the tag for the movie: "A wise man" is "sci-fi" , and "Bold" is "x" . Which tag',
        'How Harbour Council Opens "the" Bridge... ',
        '⇧A ⇧a ⇧ ⇧. A. "⇧" "" " "" ',
        "\ue000 \ue000\ue001 \ue000\ue002 ⇧\ue001",
        "ÉCOLE naïve ſß 日本語 🎉\u200b\n\n tab\t two  blanks ",
        "",
        " ",
    ],
)
def test_marks_quotes_and_other_scripts_come_back(text: str) -> None:
    _comes_back(text)


@given(st.lists(st.integers(0, 2574), max_size=12))
def test_no_mark_of_the_tokenizers_own_leaves_it(ids: list[int]) -> None:
    tokenizer = _tokenizer()
    assume(not any("\u00ee" in token for token in tokenizer.convert_ids_to_tokens(ids)))  # bytes of a private character
    assert "⇧" not in tokenizer.decode([*ids, tokenizer.convert_tokens_to_ids("âĩ§")], skip_special_tokens=True)


def _comes_back(text: str) -> None:
    tokenizer = _tokenizer()
    ids = tokenizer(text)["input_ids"]
    if not any(token in text for token in tokenizer.all_special_tokens):
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert ids[0] == tokenizer.bos_token_id


_LOADED: list[Any] = []


def _tokenizer() -> Any:
    if not _LOADED:
        _LOADED.append(AutoTokenizer.from_pretrained(FOLDER, local_files_only=True))
    return _LOADED[0]


def test_a_word_is_one_token_wherever_it_stands() -> None:
    tokenizer = _tokenizer()
    forms = ["bridge", "the bridge", "The Bridge", '"Bridge"', "Bridge!"]
    word = tokenizer("bridge", add_special_tokens=False)["input_ids"]

    assert len(word) == 1
    assert all(word[0] in tokenizer(form)["input_ids"] for form in forms)


@pytest.mark.parametrize("task", WORLD_TASKS)
def test_every_word_of_the_world_is_known_and_four_records_fit(task: str) -> None:
    tokenizer = _tokenizer()
    for asked in World(11).questions(task, "test", 100, 4):
        prompt = lamp_prompt(
            lamp_task(task),
            asked.question.input,
            asked.question.profile.records,
            HuggingFaceTokenizer(tokenizer),
            max_length=512,
        )
        words = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(
            tokenizer.backend_tokenizer.normalizer.normalize_str(prompt.text)
        )
        ids = tokenizer(prompt.text)["input_ids"]
        assert len(ids) == len(words) + 2
        assert len(ids) <= 300


# ---------------------------------------------------------------------------------------------------- what it learnt


def _answers(tiny: Tiny, prompts: list[str]) -> list[str]:
    answers = []
    for start in range(0, len(prompts), 50):
        encoded = tiny.tokenizer(prompts[start : start + 50], return_tensors="pt", padding=True)
        with torch.no_grad():
            generated = tiny.model.generate(**encoded, max_new_tokens=40, do_sample=False)
        new = generated[:, encoded["input_ids"].shape[1] :]
        answers += tiny.tokenizer.batch_decode(new, skip_special_tokens=True)
    return answers


def _prompt(task: str, asked: WorldQuestion, records: tuple[Record, ...], tokenizer: Any) -> str:
    measure = HuggingFaceTokenizer(tokenizer)
    return lamp_prompt(lamp_task(task), asked.question.input, records, measure, max_length=512).text


def _searched(task: str, asked: WorldQuestion, profile: Profile, k: int) -> tuple[Record, ...]:
    found = BM25Retriever().retrieve(profile, lamp_task(task).query(asked.question.input), k)
    return tuple(scored.record for scored in found)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "share"), [("LaMP_2", 0.35), ("LaMP_3", 0.2), ("LaMP_4", 0.65)])
def test_the_users_own_history_helps_and_another_users_does_not(tiny: Tiny, task: str, share: float) -> None:
    """The share of the gap is measured on more users, in the model card."""
    asked = list(World(0).questions(task, "dev", USERS))
    users = [one.question.user_id for one in asked]
    golds = {one.question.id: one.gold for one in asked}
    metric = METRICS[lamp_task(task).metrics[0]]
    no_user = float(np.mean([no_user_score(one.content) for one in asked]))
    oracle = float(np.mean([oracle_score(one.content, one.user.traits) for one in asked]))

    def scored(records: list[tuple[Record, ...]]) -> Samples:
        prompts = [_prompt(task, one, given, tiny.tokenizer) for one, given in zip(asked, records, strict=True)]
        return score_lamp(task, golds, dict(zip(golds, _answers(tiny, prompts), strict=True))).samples

    own = scored([_searched(task, one, one.question.profile, 4) for one in asked])
    shifted = [*asked[1:], asked[0]]
    others = scored(
        [_searched(task, one, other.question.profile, 4) for one, other in zip(asked, shifted, strict=True)]
    )
    none = scored([() for _ in asked])

    bootstrap = Bootstrap(users)
    assert bootstrap.gap_share(metric, own, floor=no_user, ceiling=oracle).value >= share
    gain = bootstrap.paired(metric, own, none)
    assert gain.low > 0 if metric.higher_is_better else gain.high < 0
    assert bootstrap.gap_share(metric, others, floor=no_user, ceiling=oracle).value <= 0.05


def test_an_answer_is_an_answer(tiny: Tiny) -> None:
    """With and without history the model answers in the task's form and stops."""
    forms = {"LaMP_2": "|".join(lamp_task("LaMP_2").labels or ()), "LaMP_3": "[1-5]", "LaMP_4": r"\S+( \S+){3,15}"}
    for task, form in forms.items():
        asked = list(World(2).questions(task, "test", 20))
        bare = _answers(tiny, [one.question.input for one in asked])
        helped = _answers(
            tiny, [_prompt(task, one, _searched(task, one, one.question.profile, 2), tiny.tokenizer) for one in asked]
        )
        assert np.mean([re.fullmatch(form, answer) is not None for answer in bare + helped]) > 0.9


# ---------------------------------------------------------------------------------------------------- user embedders


@pytest.mark.slow
@pytest.mark.parametrize(("task", "share"), [("LaMP_2", 0.4), ("LaMP_3", 0.35), ("LaMP_4", 0.65)])
def test_its_user_embedders_know_the_user(task: str, share: float) -> None:
    """How much the soft tokens win is measured on more users, in docs/results/user-embedders.md."""
    asked = list(World(0).questions(task, "dev", 36))
    golds = {one.question.id: one.gold for one in asked}
    split = LampSplit(lamp_task(task), tuple(one.question for one in asked), golds, lamp_task(task).labels)
    options = LampOptions(
        methods=("none", "user-embedder"), ks=(1,), resamples=200, user_embedders=(tiny_user_embedders()[task],)
    )
    report = evaluate_lamp(LampBenchmark(split), load_llm("tiny"), options)
    no_user = float(np.mean([no_user_score(one.content) for one in asked]))
    oracle = float(np.mean([oracle_score(one.content, one.user.traits) for one in asked]))
    scores = {row.name: row.scores[lamp_task(task).metrics[0]].value for row in report.rows}
    shares = {name: (score - no_user) / (oracle - no_user) for name, score in scores.items()}
    assert shares["user-embedder"] >= share
    assert shares["user-embedder + bm25-lamp k=1"] >= share
    assert shares["user-embedder, other user"] <= 0.05
