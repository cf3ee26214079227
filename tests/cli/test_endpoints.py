"""Commands over an endpoint that fails: what came is kept, what did not is listed, and there is a way to finish."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.llm.endpoint.server import AT_ONCE, Reply, refusal, serving, turn

ASK = (
    "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 without further "
    "explanation. review: film number "
)
LAMP = ("eval", "lamp", "data", "--methods", "none", "--k", "1", "--no-controls")


@pytest.fixture(autouse=True)
def _data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    (tmp_path / "data").mkdir()
    profiles = [[{"id": "a", "text": text, "score": "4"}] for text in ("fine", "good", "fair")]
    questions = [
        {"id": str(index), "user_id": f"u{index % 3}", "input": f"{ASK}{index}", "profile": profiles[index % 3]}
        for index in range(12)
    ]
    golds = {"task": "LaMP_3", "golds": [{"id": str(index), "output": "4"} for index in range(12)]}
    Path("data/dev_questions.json").write_text(json.dumps(questions))
    Path("data/dev_outputs.json").write_text(json.dumps(golds))


def test_one_refused_question_costs_no_other(run: Run) -> None:
    filtering = True

    def answer(path: str, body: dict[str, Any]) -> Reply:
        bad = filtering and "film number 5" in body["messages"][-1]["content"]
        return refusal(400, "content filter") if bad else turn("4")

    with serving(answer) as server:
        lamp = (*LAMP, "--llm", f"openai:m@{server.url}", "--out", "a", "--json")
        first = run(*lamp)
        assert (first.code, len(server.received)) == (1, 12)
        warned, *listed = first.err.splitlines()
        assert warned.endswith("ignores the constraint 'json_schema': from now on its answers are read")
        assert listed[0].startswith("persona: error: 1 questions were not answered; what was is kept")
        assert listed[1].startswith("  5 of 'none': openai:m@")
        assert listed[1].endswith("refused the request (400): content filter")
        assert [each["question"] for each in json.loads(first.out)["failures"]] == ["5"]
        second = run(*lamp)
        assert (second.code, len(server.received)) == (1, 13)
        assert second.out == first.out
        filtering = False
        third = run(*lamp).json
        assert (third["failures"], len(server.received)) == ([], 14)
    row = next(row for row in third["rows"] if row["name"] == "none")
    assert row["scores"]["MAE"]["value"] == 0
    kept = [json.loads(line) for line in Path("a/answers.jsonl").read_text().splitlines() if line]
    assert sum("text" in line for line in kept) == 12


def test_a_key_that_is_refused_is_one_line(run: Run) -> None:
    with serving(lambda path, body: refusal(401, "Incorrect API key provided: x.")) as server:
        said = run(*LAMP, "--llm", f"openai:m@{server.url}", "--out", "a").error
    assert "refused the key (401): set OPENAI_API_KEY" in said
    assert "did not answer" not in said


def test_a_dry_run_counts_and_asks_nothing(run: Run) -> None:
    with serving(lambda path, body: turn("4")) as server:
        asked = ("eval", "lamp", "data", "--methods", "none,bm25-lamp,summary", "--k", "1", "--out", "a")
        lamp = (*asked, "--llm", f"openai:m@{server.url}", "--set", "calibration=none")
        said = run(*lamp, "--dry-run").out
        cost = run(*lamp, "--dry-run", "--json").json
        assert server.received == []
        assert not Path("a").exists()
        assert f"dry run, nothing was asked: {cost['requests']} requests, about " in said
        done = run(*lamp)
        assert (done.code, "ignores the constraint" in done.err) == (0, True)
        assert len(server.received) == cost["requests"]
        assert run(*lamp, "--dry-run", "--json").json == {"requests": 0, "prompt_tokens": 0, "answer_tokens": 0}
        received = len(server.received)
        assert run("ingest", "data").code == 0
        summarize = ("summarize", "--llm", f"openai:m@{server.url}")
        assert run(*summarize, "--dry-run", "--json").json["requests"] == 3
        assert len(server.received) == received
        assert run(*summarize, "--json").json["written"] == 3
        assert len(server.received) == received + 3
        assert run(*summarize, "--dry-run", "--json").json["requests"] == 0
    assert "trains nothing" in run("eval", "lamp", "data", "--methods", "lora", "--adapters", "x", "--dry-run").error


def test_how_an_endpoint_is_asked_are_settings(run: Run) -> None:
    with serving(lambda path, body: refusal(503, "busy", **AT_ONCE)) as server:
        few = ("--set", "retries=1", "--set", "max_concurrency=2", "--set", "system=Be brief.", "--limit", "2")
        done = run(*LAMP, "--llm", f"openai:m@{server.url}", "--out", "a", *few)
        assert done.code == 1
        assert "2 questions were not answered" in done.err
    assert len(server.received) == 4
    assert server.received[0][1]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert "was given: retries" in run(*LAMP, "--llm", "tiny", "--set", "retries=1").error
