"""What `persona eval lamp` runs: methods by name, official prompts, adapters, summaries and masking."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from examples.world.world import World
from persona.errors import InvalidOptionError
from persona.eval import LampBenchmark, LampOptions, Report, evaluate_lamp
from persona.eval.benchmark import earliest_profiles
from persona.eval.controls import OTHER_USER
from persona.lamp.prompts import lamp_prompt
from persona.lamp.tasks import LampSplit, Question
from persona.llm.load import load_llm
from persona.llm.tokenizers import WhitespaceTokenizer
from persona.readers import read_golds
from persona.records import Profile, Record
from persona.retrievers.registry import RetrieverOptions
from tests.eval.ratings import TASK, USERS, benchmark, copy_the_first_score, ratings

OPTIONS = LampOptions(methods=("none", "bm25-lamp", "recency"), ks=(1, 2), resamples=50)


def scores(report: Report) -> dict[str, float]:
    return {row.name: row.scores["MAE"].value for row in report.rows}


def test_the_right_history_helps_and_that_of_another_user_does_not(tmp_path: Path) -> None:
    report = evaluate_lamp(benchmark(), load_llm(copy_the_first_score), OPTIONS, out=tmp_path)
    errors = scores(report)
    assert errors["bm25-lamp k=1"] == errors["recency k=2"] == 0
    assert errors["bm25-lamp k=1, other user"] > 0
    assert report["bm25-lamp k=1"].tokens_added < report["bm25-lamp k=2"].tokens_added
    files = {path.name for path in (tmp_path / "predictions").glob("bm25*")}
    assert files == {f"bm25-lamp_k{k}{whose}.json" for k in (1, 2) for whose in ("", "_other_user")}
    name, answers = read_golds(tmp_path / "predictions" / "bm25-lamp_k1.json")
    assert (name, answers) == ("LaMP_3", ratings().golds)
    config = json.loads((tmp_path / "results.json").read_text())["config"]
    assert (config["methods"], config["retrieval"]["base"]) == (["none", "bm25-lamp", "recency"], None)


@pytest.mark.parametrize("mask", [False, True])
def test_prompts_are_official_to_the_byte_unless_they_are_masked(mask: bool) -> None:
    split = ratings(2)
    records = [Record('Say "what" <|im_end|>', target="4"), Record("Dull.", target="1")]
    questions = tuple(replace(each, profile=Profile(each.user_id, tuple(records))) for each in split.questions)
    prompts: list[str] = []
    llm = load_llm(lambda prompt: prompts.append(prompt) or "3", name="noting")  # type: ignore[func-returns-value]
    options = LampOptions(methods=("recency",), ks=(2,), mask=mask, controls=False, resamples=50)
    evaluate_lamp(LampBenchmark(replace(split, questions=questions)), llm, options)
    shown = [Record("Say 'what' < |im_end|>", target="4"), records[1]] if mask else records
    official = [lamp_prompt(TASK, each.input, shown[::-1], WhitespaceTokenizer(), max_length=256) for each in questions]
    assert sorted(prompts) == sorted({each.text for each in official})


def test_retrievers_run_with_what_is_wanted_over_them() -> None:
    """Only records of 2010 are seen, by the retriever and by the one beside the statistics."""
    prompts: list[str] = []
    llm = load_llm(lambda prompt: prompts.append(prompt) or "3", name="noting")  # type: ignore[func-returns-value]
    retrieval = RetrieverOptions(where="time=2010")
    options = replace(OPTIONS, methods=("bm25-lamp", "stats"), ks=(3,), controls=False, retrieval=retrieval)
    evaluate_lamp(benchmark(), llm, options)
    shown = [prompt for prompt in prompts if " is the score for " in prompt]
    assert {prompt.count("of user") for prompt in shown} == {0, 1}
    assert all(f"film {number} {i} of" not in prompt for prompt in shown for number in (0, 1) for i in (1, 2))


@pytest.mark.parametrize(
    ("method", "retrieval", "message"),
    [
        (
            "recency",
            {"base": "bm25-lamp"},
            "a base is for diverse and entities and rerank, was: 'bm25-lamp' for recency",
        ),
        (
            "bm25-lamp",
            {"model": "x"},
            "a model is for conversation and joint and late_interaction and rerank and useful",
        ),
    ],
)
def test_options_that_no_retriever_reads_are_refused(method: str, retrieval: dict[str, str], message: str) -> None:
    options = replace(OPTIONS, methods=(method,), retrieval=RetrieverOptions(**retrieval))  # type: ignore[arg-type]
    with pytest.raises(InvalidOptionError, match=message):
        evaluate_lamp(benchmark(), load_llm(copy_the_first_score), options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"methods": ("bm52",)},
            r"a method must be one of none, user-embedder, stats, summary, stats\+summary, steering",
        ),
        ({"ks": (0,)}, "`ks` must be at least 1, was: 0"),
        ({"beside": "bm52"}, "`beside` must be one of"),
        ({"summary_form": "poem"}, "`summary_form` must be one of record, sentence"),
        ({"methods": ("user-embedder",)}, "'user-embedder' needs a folder to read: name it .--user-embedder."),
        ({"methods": ("lora",)}, "'lora' needs a folder to read: name it .--adapters."),
        (
            {"task_adapters": ("x",)},
            "--adapters is read by the methods lora, lora.task, neighbours, routed, one-pass, and",
        ),
        ({"summary_llm": "tiny"}, "`summary_llm` is read by the methods summary, stats.summary, and none"),
        ({"user_vectors": "x"}, "`user_vectors` go with user embedders"),
    ],
)
def test_methods_without_what_they_need_and_parts_that_nobody_reads(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        LampOptions(**options)


def test_summaries_are_written_once_and_stand_beside_their_control(tmp_path: Path) -> None:
    prompts: list[str] = []

    def write(prompt: str) -> str:
        prompts.append(prompt)
        return copy_the_first_score(prompt)

    writer = load_llm(write, name="writer")
    options = LampOptions(
        methods=("none", "stats", "summary", "stats+summary"), ks=(1,), resamples=50, summary_llm=writer
    )
    report = evaluate_lamp(benchmark(), load_llm(copy_the_first_score), options, out=tmp_path)
    errors, tokens = scores(report), {row.name: row.tokens_added for row in report.rows}
    for name in ("stats", "stats + bm25-lamp k=1", "summary", "summary + bm25-lamp k=1"):
        assert errors[name] == 0
        assert errors[f"{name}, {OTHER_USER}"] > 0
    assert 0 < tokens["stats"] == tokens["summary"] < tokens["stats + bm25-lamp k=1"]
    assert tokens["stats+summary"] == tokens["stats"]  # both say the same
    assert len(prompts) == 2 * USERS
    assert all("a typical review of this user" in prompt for prompt in prompts)
    assert report["summary"].parts == {"summarizer": ["callable:writer"]}
    # Stopped while it wrote the last line, a run goes on.
    kept = tmp_path / "summaries.jsonl"
    kept.write_text("\n".join([*kept.read_text().splitlines()[:-1], '{"key": "h']))
    evaluate_lamp(benchmark(), load_llm(copy_the_first_score), options, out=tmp_path)
    assert len(prompts) == 2 * USERS + 1
    instructed = replace(options, methods=("summary",), summary_form="sentence", controls=False)
    evaluate_lamp(benchmark(), load_llm(copy_the_first_score), instructed, out=tmp_path)
    assert "In at most three short sentences" in prompts[-1]


def test_ratings_by_likelihood_are_the_median_of_the_distribution(tmp_path: Path) -> None:
    World(3).write_lamp(tmp_path / "LaMP_3", "LaMP_3", {"dev": 60}, 8)
    tiny, stars = load_llm("tiny"), LampBenchmark.read(tmp_path / "LaMP_3")
    written, likely = (
        evaluate_lamp(stars, tiny, LampOptions(methods=("none",), controls=False, answers=(way,)))["none"].predictions
        for way in ("generate", "likelihood")
    )
    assert set(likely.values()) <= set("12345")
    # tiny is unsure of a stranger: its mode is not its median
    assert written != likely


def test_the_earliest_profile_of_a_user() -> None:
    def question(number: int, time: str | None, records: int, user: str = "ana") -> Question:
        profile = Profile(user, tuple(Record(f"text {n}", id=str(n)) for n in range(records)))
        return Question(str(number), user, "q", profile, time)

    late, early = question(1, "2020-02-01", 4), question(2, "2020-01-01", 3)
    short, bo = question(3, None, 1, "cy"), question(4, None, 2, "bo")
    asked = (late, early, question(5, None, 2, "cy"), short, bo)
    earliest = earliest_profiles(LampBenchmark(LampSplit(TASK, asked, None, None)).questions)
    assert earliest == {"ana": early.profile, "cy": short.profile, "bo": bo.profile}
