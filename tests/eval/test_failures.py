"""An endpoint that fails: what can be had is asked once and kept; what cannot is counted, named and asked again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from persona.errors import EndpointError, EvaluationError
from persona.eval import Benchmark, EvaluationOptions, Question, Report, evaluate
from persona.eval.metrics import ACCURACY
from persona.llm.load import load_llm
from persona.personalizer import Personalizer
from persona.records import Profile, Record
from persona.store.profile_store import ProfileStore
from persona.summaries.stored import summarize_users
from tests.llm.endpoint.server import AT_ONCE, Faulty, Server, refusal, serving, turn

QUESTIONS = 60


def number(prompt: str) -> int:
    return int(re.findall(r"number(\d+)", prompt)[0])


def never(prompt: str) -> bool:
    return number(prompt) % 10 == 3


def once(prompt: str) -> bool:
    return number(prompt) % 5 == 1


class Numbers(Benchmark):
    name, metrics = "numbers", (ACCURACY,)
    questions = tuple(
        Question(str(index), f"u{index}", Profile(f"u{index}"), f"number{index}?", "", gold="yes")
        for index in range(QUESTIONS)
    )


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    return ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}")


def run(server: Server, store: ProfileStore, out: Path | None = None, **options: Any) -> Report:
    llm = load_llm(f"openai:m@{server.url}", api_key="k", retries=2)
    chosen = EvaluationOptions(resamples=50, at_once=16, **options)
    methods = {name: Personalizer(llm, store, ()) for name in ("none", "again")}
    return evaluate(Numbers(), methods, [], options=chosen, out=out)


def test_an_evaluation_has_everything_that_can_be_had_and_asks_it_once(store: ProfileStore, tmp_path: Path) -> None:
    faulty, out = Faulty(lambda prompt: "yes", never, once), tmp_path / "out"
    with serving(faulty) as server:
        report = run(server, store, out)
        asked = dict(faulty.asked)
        faulty.asked.clear()
        second = run(server, store, out)
    lost = {index for index in range(QUESTIONS) if index % 10 == 3}
    assert asked == {
        f"number{index}?": 3 if index in lost else 2 if index % 5 == 1 else 1 for index in range(QUESTIONS)
    }
    for each in (report, second):
        assert {(failure.row, int(failure.question)) for failure in each.failures} == {
            (row, index) for row in ("none", "again") for index in lost
        }
        assert all("failed (500): internal error" in failure.reason for failure in each.failures)
        assert each["none"].scores["accuracy"].value == pytest.approx(0.9)
        assert each["none"].outcomes == {"generate": 54, "failed": 6, "cut": 0, "refused": 0, "empty": 0, "thinking": 0}
    assert faulty.asked.keys() == {f"number{index}?" for index in lost}
    assert "| 6 failed |" in report.markdown()
    written = json.loads((out / "results.json").read_text())
    assert len(written["failures"]) == 12
    assert written["rows"][0]["outcomes"]["failed"] == 6


def test_what_was_not_answered_may_be_left_out_of_every_row(store: ProfileStore) -> None:
    with serving(Faulty(lambda prompt: "yes", never, lambda prompt: False)) as server:
        report = run(server, store, failures="left-out")
    assert (report["none"].scores["accuracy"].value, report.left_out) == (1, 6)
    assert len(report["none"].predictions) == QUESTIONS
    with serving(lambda path, body: refusal(400, "no")) as server, pytest.raises(EvaluationError, match="no question"):
        run(server, store, failures="left-out")


def test_cut_refused_and_empty_answers_are_told_apart(store: ProfileStore) -> None:
    replies = {
        0: turn("yes and", "length"),
        1: turn(None, refusal="I cannot help with that."),
        2: turn("", "content_filter"),
        3: turn(""),
        4: turn(None, "length"),
    }
    with serving(lambda path, body: replies[number(body["messages"][-1]["content"]) % 5]) as server:
        row = run(server, store)["none"]
    each = QUESTIONS // 5
    assert row.outcomes == {
        "generate": QUESTIONS,
        "failed": 0,
        "cut": 2 * each,
        "refused": 2 * each,
        "empty": each,
        "thinking": 0,
    }
    assert row.predictions["0"] == "yes and"


@pytest.mark.parametrize(
    ("status", "message", "said"),
    [(401, "bad key", r"refused the key \(401\): set OPENAI_API_KEY"), (404, "m?", "knows no such model or address")],
)
def test_what_every_request_would_be_refused_for_ends_the_whole(
    store: ProfileStore, status: int, message: str, said: str
) -> None:
    with serving(lambda path, body: refusal(status, message)) as server, pytest.raises(EndpointError, match=said):
        run(server, store)
    assert len(server.received) <= 8  # those that were under way


def test_an_endpoint_that_goes_down_ends_the_whole_and_what_came_is_kept(store: ProfileStore, tmp_path: Path) -> None:
    def down(path: str, body: dict[str, Any]) -> Any:
        return turn("yes") if len(server.received) <= 20 else refusal(503, "gone", **AT_ONCE)

    with serving(down) as server, pytest.raises(EndpointError, match=r"16 requests in a row were not answered; .*503"):
        run(server, store, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines() if line]
    assert sum("text" in line for line in lines) == 20
    assert len(server.received) < 100  # not three for each of sixty


def test_summaries_that_fail_are_named_and_asked_again_alone(store: ProfileStore) -> None:
    users = [f"user{index:02}" for index in range(QUESTIONS)]
    store.upsert((user, Record(f"number{index} is fine")) for index, user in enumerate(users))
    faulty = Faulty(lambda prompt: "Writes of numbers.", never, once)
    with serving(faulty) as server:
        llm = load_llm(f"openai:m@{server.url}", api_key="k", retries=2)
        report = summarize_users(store, llm)
        assert sum(faulty.asked.values()) == 60 + 12 + 2 * 6
        faulty.asked.clear()
        second = summarize_users(store, llm)
        assert len(faulty.asked) == 6
    assert report.failures.keys() == {user for index, user in enumerate(users) if index % 10 == 3}
    assert (report.written, second.written, second.fresh, len(second.failures)) == (54, 0, 54, 6)


def test_a_refusal_is_no_summary(store: ProfileStore) -> None:
    store.upsert([("ana", Record("number1 is fine"))])
    with serving(lambda path, body: turn(None, refusal="I cannot help with that.")) as server:
        report = summarize_users(store, load_llm(f"openai:m@{server.url}", api_key="k"))
    assert "refused to write: I cannot help with that." in report.failures["ana"]
    assert report.written == 0
