"""PersonaMem version 3: what happened before a question, rankings and leaks by hand, both layouts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from persona.errors import DataFormatError, InvalidOptionError
from persona.eval import load_benchmark
from persona.eval.benchmarks.conversations.personamem_v3 import Interest, Wanted, official_leak, ranked
from persona.eval.judging.judge import Verdict
from persona.eval.judging.prompts import JudgedItem
from tests.eval.benchmarks.conversations.dialogues import PERSONAMEM_3
from tests.eval.benchmarks.conversations.test_personamem import written


def test_a_question_sees_what_happened_before_it_in_all_apps(tmp_path: Path) -> None:
    benchmark = load_benchmark("personamem-v3", written(tmp_path, PERSONAMEM_3))
    first, second = benchmark.questions
    assert [(each.id, each.text, each.target) for each in first.profile] == [
        ("instagram:0", "A cold lake In at six. WildSwimming", "Liked it"),
        ("chatbot:0", "user: Is 8 degrees too cold?", None),
        ("chatbot:1", "friend_1: Coming along?", None),
    ]
    assert (len(second.profile), second.profile[3].text) == (4, "opera")
    assert not any("Likes cold water" in each.text for each in second.profile)
    assert (first.user_id, first.gold, first.kind) == ("7", "1", "personalized_recommendation")
    assert "[1] River dips WildSwimming" in first.prompt
    assert "system prompt" not in first.prompt
    (asked,) = load_benchmark("personamem-v3", tmp_path, task="avoid").questions
    assert asked.prompt == "What is good for a sore throat?"
    assert load_benchmark("personamem-v3", tmp_path, kinds=("slate_ranking",)).questions[0].id == "7:1"


NEW, OLD = Wanted(8, 3, frozenset({1})), Wanted(8, 0, frozenset({1}), filled=True)


@pytest.mark.parametrize(
    ("wanted", "answer", "values"),
    [
        # recall@1, recall@5, nDCG@5, MRR, negative first, official recall@1
        (NEW, "3, 1, 2", (1, 1, 1, 1, 0, 0)),  # published: no JSON, no ranking
        (NEW, '{"ranked_indexes": [3, 0, 1, 2, 4, 5, 6, 7]}', (1, 1, 1, 1, 0, 1)),
        (NEW, '{"ranked_indexes": [1, 0, 3], "reasoning": "5 of 7"}', (0, 1, 0.5, 1 / 3, 1, 0)),
        (NEW, "0 1 2 4 5 3", (0, 0, 0, 1 / 6, 0, 0)),
        (NEW, "9, 99, 3, 3", (1, 1, 1, 1, 0, 0)),
        (NEW, "I cannot say.", (0, 0, 0, 0, 0, 0)),
        (OLD, "I cannot say.", (0, 0, 0, 0, 0, 1)),  # published: the slate's own order, and the first one is right
        (OLD, '{"ranked_indices": [1, 0, 2, 3, 4, 5, 6, 7]}', (0, 1, 0.6309, 0.5, 1, 0)),
    ],
)
def test_rankings_by_hand(wanted: Wanted, answer: str, values: tuple[float, ...]) -> None:
    assert list(ranked(wanted, answer).values()) == pytest.approx(values, abs=1e-4)


def test_slates_are_scored_and_not_judged(tmp_path: Path) -> None:
    benchmark = load_benchmark("personamem-v3", written(tmp_path, PERSONAMEM_3))
    order = benchmark.baselines(benchmark.questions)["the slate's order"]
    samples = benchmark.score(benchmark.questions, order)
    values = {metric.name: metric.value(samples) for metric in benchmark.metrics}
    assert values["MRR"] == 0.5
    assert values["negative first"] == 1
    with pytest.raises(InvalidOptionError, match="personamem-v3 are not judged"):
        load_benchmark("personamem-v3", tmp_path, judges=[ByWords()])


class ByWords:
    """A judge by rules: an interest is brought up by one of its longer words; of "?" nothing is known."""

    name = "rules/1"

    def verdicts(self, items: Sequence[JudgedItem]) -> list[Verdict]:
        return [Verdict(None, "?") if "?" in item.answer else self._verdict(item) for item in items]

    def _verdict(self, item: JudgedItem) -> Verdict:
        assert item.kind == "surfaced"
        longer = [word.strip(".") for word in item.rubric["Interest"].split() if len(word) > 4]
        return Verdict(float(any(word in item.answer for word in longer)), "")


@pytest.mark.parametrize(
    ("answer", "leaked", "served", "official"),
    [
        ("Tea, and no swim in lakes.", (0, 1), (1, 1), (0, 1)),
        ("As one who fears every dentist, drink tea.", (1, 1), (0, 1), (1, 1)),
        ("", (0, 1), (0, 1), (0, 1)),
        ("Tea?", (0, 0), (0, 0), (0, 1)),
    ],
)
def test_leaks_by_hand(
    answer: str, leaked: tuple[int, int], served: tuple[int, int], official: tuple[int, int], tmp_path: Path
) -> None:
    benchmark = load_benchmark("personamem-v3", written(tmp_path, PERSONAMEM_3), task="avoid", judges=[ByWords()])
    samples = benchmark.score(benchmark.questions, [answer])
    assert samples["leaked"].tolist() == [list(leaked)]
    assert samples["served"].tolist() == [list(served)]
    assert samples["official leaked"].tolist() == [list(official)]


def test_the_published_leak_by_hand() -> None:
    tagged = [Interest("Fears the dentist.", ("dentist", "MarlonWayans", "fear"))]
    assert official_leak(tagged, "marlon went to the DENTIST")  # two of three
    assert not official_leak([Interest("Collects stamps of Peru.", ("dentist", "stamps", "peru"))], "a dentist")
    assert official_leak([Interest("Sings in the shower.")], "You like singing in the shower.")  # a cosine above .5
    assert not official_leak([Interest("Sings in the shower.")], "")


def test_the_older_layout_and_what_is_refused(tmp_path: Path) -> None:
    items: Any = PERSONAMEM_3["backend/7/test.json"]
    header = ["query_id", "task_type", "ts", "query_text", "instance_json"]
    rows = [
        [each["query_id"], each["task_type"], str(each["ts"]), each["user_query"], json.dumps(each["instance_full"])]
        for each in items
    ]
    files = {name: content for name, content in PERSONAMEM_3.items() if not name.endswith("test.json")}
    csv = {"benchmark/7/queries.csv": [["# queries_csv_version=2"], header, *rows]}
    older = load_benchmark("personamem-v3", written(tmp_path / "older", files | csv)).questions
    newer = load_benchmark("personamem-v3", written(tmp_path / "newer", PERSONAMEM_3)).questions
    assert [(each.id, each.prompt, len(each.profile)) for each in older] == [
        (each.id, each.prompt, len(each.profile)) for each in newer
    ]
    with pytest.raises(DataFormatError, match=r"must hold backend/USER/test\.json, holds none"):
        load_benchmark("personamem-v3", written(tmp_path / "none", files))
    wrong = [{**items[0], "instance_full": {**items[0]["instance_full"], "held_out_idx": 3}}]
    with pytest.raises(DataFormatError, match="0, instance_full, held_out_idx: it must be one of 3 candidates, was: 3"):
        load_benchmark("personamem-v3", written(tmp_path / "wrong", files | {"backend/7/test.json": wrong}))
    with pytest.raises(InvalidOptionError, match="`task` must be one of slate, avoid"):
        load_benchmark("personamem-v3", tmp_path / "newer", task="chat")
