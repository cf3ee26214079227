"""`persona eval lamp | score | restraint` and `persona demo`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from persona.cli.evaluate import short_name
from tests.cli.conftest import SMALL_FILTER, Run, settings

SHORT = settings("max_new_tokens=2")


@pytest.mark.parametrize(
    ("llm", "name"),
    [
        ("tiny", "tiny"),
        ("models/small/", "small"),
        ("owner/name", "name"),
        ("openai:gpt", "openai-gpt"),
        # The end of the URL, "v1", would be one folder for all models of a server.
        ("vllm:Qwen/Qwen2.5@http://127.0.0.1:8000/v1", "vllm-Qwen2.5"),
    ],
)
def test_the_folder_of_an_evaluation_is_named_after_the_llm(llm: str, name: str) -> None:
    assert short_name(llm) == name


def test_retrievers_in_eval_lamp(run: Run, films: Path) -> None:
    methods = "none,diverse,key_value,hybrid"
    lamp = ("eval", "lamp", films, *SHORT, "--json", "--limit", "3", "--k", "2")
    report = run(*lamp, "--methods", methods, "--out", "run", *settings("relevance=untrained")).json
    found = {row["name"] for row in report["rows"]}
    assert {"diverse k=2", "key_value k=2, other user", "hybrid k=2"} <= found
    Path("lamp.toml").write_text('methods = ["none", "diverse"]\nbase = "bm25-lamp"\nwhere = "label=3"\n')
    assert run(*lamp, "--config", "lamp.toml", "--out", "run2", "--no-controls").json["rows"]
    config = json.loads(Path("run2/results.json").read_text())["config"]
    retrieval = config["retrieval"]
    assert (retrieval["base"], retrieval["where"], config["controls"]) == ("bm25-lamp", "label=3", False)
    nothing = run(*lamp, "--methods", "none,bm25-lamp", *settings("where=label=9"), "--out", "run3").json
    (row,) = [row for row in nothing["rows"] if row["name"] == "bm25-lamp k=2"]
    assert row["tokens_added"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--user-embedder", "nope"), "--user-embedder is read by the methods user-embedder"),
        (("--adapters", "nope"), "--adapters is read by the methods lora"),
        (settings("summary_llm=tiny"), "`summary_llm` is read by the methods summary, stats+summary"),
        (settings("user_embedder_controls=nope"), "`user_vectors` go with user embedders: name some (--user-embedder)"),
        (settings("user_vectors=nope"), "`user_vectors` go with user embedders: name some (--user-embedder)"),
        (("--encoder", "hashing"), "--encoder is for what compares vectors, and none,bm25-lamp does not"),
    ],
)
def test_an_option_that_no_method_reads_is_refused(
    run: Run, films: Path, options: tuple[str, ...], message: str
) -> None:
    assert message in run("eval", "lamp", films, "--methods", "none,bm25-lamp", *options).error


def test_answers_made_elsewhere_are_scored_and_what_the_official_rouge_cannot_read_is_said(run: Run) -> None:
    golds = {"task": "LaMP_4", "golds": [{"id": "1", "output": "北京今天下大雪"}]}
    Path("g.json").write_text(json.dumps(golds), encoding="utf-8")
    score = ("eval", "lamp", "g.json", *settings("files.predictions=g.json"))
    shown = run(*score)
    assert "rouge-1    0.0000" in shown.out
    assert shown.err.startswith("persona: warning: the official ROUGE has no token for 1 of 1 golds")
    assert "rouge-1    1.0000" in run(*score, *settings("files.rouge_words=all-scripts")).out


def test_answers_made_elsewhere_get_the_official_values(run: Run) -> None:
    golds = [{"id": "0", "output": "4"}, {"id": "1", "output": "2"}]
    answers = [{"id": "0", "output": "5"}, {"id": "1", "output": "nan"}]
    Path("g.json").write_text(json.dumps({"task": "LaMP_3", "golds": golds}))
    Path("p.json").write_text(json.dumps({"task": "LaMP_3", "golds": answers}))
    score = ("eval", "lamp", "g.json", *settings("files.predictions=p.json"))
    assert run(*score, "--json").json == {"task": "LaMP_3", "questions": 2, "MAE": 2.0, "RMSE": 5**0.5}
    assert "MAE        2.0000" in run(*score).out
    Path("p.json").write_text(json.dumps({"task": "LaMP_3", "golds": answers[:1]}))
    assert "1 missing: '1'" in run(*score).error
    assert "leave the other options out" in run(*score, "--methods", "none").error
    assert "name files.predictions" in run("eval", "lamp", "g.json", *settings("files.bootstrap=true")).error


def test_eval_restraint_with_filters_and_questions_of_another_domain(run: Run, films: Path) -> None:
    Path("boats.txt").write_text("\n".join(f"How do I mend boat number {number}?" for number in range(12)))
    train = (
        "train",
        "filter",
        films,
        "--out",
        "kept",
        "--general",
        "boats.txt",
        *settings("restraint=0.95"),
        *SMALL_FILTER,
    )
    assert run(*train).code == 0
    options = run("show", "--trained", "kept", "--json").json["training"]["options"]
    assert (options["recall"], options["restraint"]) == (0.97, 0.95)
    restraint = ("eval", "restraint", films, "--general", "boats.txt")
    report = run(*restraint, "--filter", "untrained", "--filter", "kept", "--limit", "8", *SHORT, "--json").json
    rows = {row["method"]: row for row in report["rows"]}
    assert list(rows) == ["none", "bm25-lamp", "bm25-lamp + untrained", "bm25-lamp + kept"]
    assert report["config"]["general"] == 128  # 120, and eight of the twelve
    assert rows["bm25-lamp"]["kinds"]["boats.txt"]["value"] == 0
    assert rows["bm25-lamp + kept"]["kinds"]["boats.txt"]["value"] >= 0.75
    assert rows["bm25-lamp + kept"]["scores"]["nothing added"]["value"] >= 0.9
    assert rows["bm25-lamp + kept"]["scores"]["own: nothing added"]["value"] <= 0.25
    assert report["config"]["filters"].keys() == {"untrained", "kept"}


def test_eval_restraint_goes_on_from_its_folder(run: Run, films: Path) -> None:
    Path("boats.txt").write_text("\n".join(f"How do I mend boat number {number}?" for number in range(12)))
    short = ("--general", "boats.txt", "--limit", "2", "--out", "kept run")
    restraint = ("eval", "restraint", films, *short, *settings("max_new_tokens=1", "markdown=true"))
    table = run(*restraint).out
    assert "| boats.txt |" in table
    results = json.loads(Path("kept run/results.json").read_text())
    assert [row["method"] for row in results["rows"]] == ["none", "bm25-lamp"]
    assert (results["config"]["methods"], results["config"]["limit"]) == (["bm25-lamp"], 2)
    assert len(results["data"]) == 16
    answers = Path("kept run/answers.jsonl").read_bytes()
    assert run(*restraint).out == table
    assert Path("kept run/answers.jsonl").read_bytes() == answers
    assert "`controls` is read by no row" in run("eval", "restraint", films, *settings("controls=false")).error


@pytest.mark.slow
def test_demo_writes_a_report(run: Run, tmp_path: Path) -> None:
    report = run("demo", "--users", "4", "--out", "demo", "--json").json
    assert report["people"]["requests"] == 30
    assert report["world"]["tasks"]
    assert "<html" in (tmp_path / "demo" / "report.html").read_text()
    assert "dev_questions.json" in {each.name for each in (tmp_path / "demo" / "people" / "runner").iterdir()}


def test_demo_data_is_what_an_evaluation_reads(run: Run, tmp_path: Path) -> None:
    written = run("demo", "--data", "people", "--json").json
    assert written == [f"people/{name}" for name in ("cook", "critic", "editor", "runner", "support")]
    report = run("eval", "lamp", "people/editor", "--methods", "none,bm25", "--k", "1", *SHORT, "--json").json
    assert (report["questions"], report["users"]) == (12, 2)
    assert {row["name"] for row in report["rows"]} >= {"none", "bm25 k=1", "bm25 k=1, other user"}
