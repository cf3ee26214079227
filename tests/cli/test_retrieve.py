"""The command line of retrieval: retrievers, filters, `persona filter` and `persona eval limit`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from persona.cli.app import main
from persona.lamp.tasks import lamp_task
from persona.retrievers.registry import RETRIEVERS
from tests import small_models

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "examples" / "histories.jsonl"


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `persona ARGUMENTS` in a folder with a store of the sample histories."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERSONA_ENCODER", "hashing")
    monkeypatch.delenv("PERSONA_STORE", raising=False)

    def call(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["persona", *map(str, arguments)])
        code: object = 0
        try:
            main()
        except SystemExit as exit_:
            code = exit_.code or 0
        captured = capsys.readouterr()
        assert isinstance(code, int)
        return Outcome(code, captured.out, captured.err)

    assert call("ingest", SAMPLE).code == 0
    return call


QUERY = "a quiet film in the snow"


@pytest.mark.parametrize("name", [name for name in RETRIEVERS if name not in ("late_interaction", "rerank")])
def test_every_retriever_is_on_the_command_line(run: Run, name: str) -> None:
    done = run("retrieve", "mara", QUERY, "--retriever", name, "--k", "3", "--json")
    assert done.code == 0
    assert len(json.loads(done.out)) == 3


def test_retrievers_with_models_of_their_own(run: Run, tmp_path: Path) -> None:
    late = tmp_path / "late"
    small_models.multi_vector().save_pretrained(str(late))
    cross = small_models.save_bert(tmp_path / "cross", n_labels=1)
    for options in (
        ("late_interaction", "--retriever-model", late),
        ("rerank", "--retriever-model", cross),
        ("rerank", "--retriever-model", cross, "--base", "dense"),
        ("diverse", "--base", "bm25-lamp"),
    ):
        done = run("retrieve", "mara", QUERY, "--k", "2", "--json", "--retriever", *options)
        assert (done.code, len(json.loads(done.out))) == (0, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--retriever", "bm26"), "a retriever must be one of bm25, bm25-lamp"),
        (("--base", "dense"), "a base is for diverse and rerank"),
        (("--retriever-model", "minilm"), "takes no model of its own"),
        (("--retriever", "rerank", "--retriever-model", "."), "holds no encoder"),
        (("--where", "label"), "a filter is FIELD OP VALUE"),
        (("--where", "time>=soon"), "a time must be like"),
        (("--filter", "nowhere"), "nowhere holds no relevance filter"),
        (("--filter", "untrained", "--judge", "answer"), "`judge` must be one of question, record"),
        (("--judge", "record"), "`judge` says what a relevance filter judges, and there is none"),
        (("--encoder", "nope"), "--encoder is for what compares vectors, and bm25 does not"),
    ],
)
def test_bad_input_is_one_line(run: Run, options: tuple[str, ...], message: str) -> None:
    done = run("retrieve", "mara", QUERY, *options)
    assert (done.code, done.out) == (1, "")
    assert message in done.err
    assert done.err.count("\n") == 1


def test_only_records_that_fit_let_a_question_pass(run: Run) -> None:
    question = ("retrieve", "mara", "A quiet documentary about lighthouse keepers", "--filter", "untrained", "--json")
    found = json.loads(run(*question, "--k", "1").out)
    assert found
    assert json.loads(run(*question, "--where", f"time<{found[0]['time']}").out) == []


def test_an_encoder_that_no_method_reads_is_refused(run: Run, tmp_path: Path) -> None:
    data = write_films(tmp_path / "films")
    for command in ("lamp", "restraint"):
        done = run("eval", command, data, "--methods", "bm25-lamp", "--encoder", "hashing")
        assert (done.code, "--encoder is for what compares vectors, and bm25-lamp does not" in done.err) == (1, True)


@pytest.mark.parametrize("arguments", [("retrieve", "nobody", QUERY), ("lora", "list", "nobody")])
def test_an_unknown_user_is_an_error(run: Run, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert (done.code, done.out, done.err) == (1, "", "persona: error: the store holds nothing on 'nobody'\n")


def test_ask_lifts_the_words_of_the_user(run: Run) -> None:
    plain = json.loads(run("ask", "mara", QUERY, "--k", "0", "--json").out)
    lifted = json.loads(run("ask", "mara", QUERY, "--k", "0", "--vocabulary", "2", "--json").out)
    assert (plain["channels"], lifted["channels"]) == ([], ["vocabulary"])
    assert run("ask", "mara", QUERY, "--vocabulary", "-1").code == 2


def test_where(run: Run) -> None:
    found = json.loads(run("retrieve", "mara", QUERY, "--where", "label=5 and time>=2023-06", "--json").out)
    assert found
    assert all(one["target"] == "5" and one["time"] >= "2023-06" for one in found)
    misspelt = run("retrieve", "mara", QUERY, "--where", "tim>=2023 and label=5").out
    assert misspelt.strip().endswith("fits; none of them has the field 'tim'")
    none = run("retrieve", "mara", QUERY, "--where", "label=17")
    assert (none.code, none.out.startswith("nothing found: none of the")) == (0, True)


def test_ask_with_a_filter_abstains(run: Run) -> None:
    done = run("ask", "mara", "What is the capital of Australia?", "--filter", "untrained", "--json")
    answer = json.loads(done.out)
    assert (done.code, answer["abstained"], answer["records"]) == (0, True, [])
    kept = json.loads(
        run("ask", "mara", "A quiet documentary about lighthouse keepers", "--filter", "untrained", "--json").out
    )
    assert not kept["abstained"]
    assert kept["records"]


def write_films(folder: Path) -> Path:
    from tests.retrievers.relevance.cases import split_of

    task, questions = lamp_task("LaMP_3"), []
    for question in split_of(30).questions:
        entries = [{**task.entry(record, record.id), "date": "2011"} for record in question.profile]
        questions.append({"id": question.id, "user_id": question.user_id, "input": question.input, "profile": entries})
    folder.mkdir()
    (folder / "train_questions.json").write_text(json.dumps(questions))
    golds = [{"id": question["id"], "output": "3"} for question in questions]
    for split in ("train", "dev"):
        (folder / f"{split}_outputs.json").write_text(json.dumps({"task": "LaMP_3", "golds": golds}))
    (folder / "dev_questions.json").write_text(json.dumps(questions))
    return folder


def test_filter_train_show_and_use(run: Run, tmp_path: Path) -> None:
    data = write_films(tmp_path / "films")
    (tmp_path / "more.txt").write_text("Where is Perth?\n\nWho was Euclid?\n")
    done = run("filter", "train", data, "--out", "kept", "--general", "more.txt", "--precision", "0.9")
    assert done.code == 0
    assert "of own questions keep their records, and " in done.out
    assert (
        "30 questions, 240 records that stood as ones, 166 general ones" in done.out
    )  # two are too few to be a kind of their own
    shown = json.loads(run("filter", "show", "kept", "--json").out)
    assert shown["encoder"].startswith("hashing")
    assert shown["training"]["options"]["precision"] == 0.9
    assert run("filter", "show", "kept").out.count("threshold") == 1
    asked = run("retrieve", "mara", "What is the boiling point of water?", "--filter", "kept")
    assert "nothing found: none of the" in asked.out
    other = run("retrieve", "mara", QUERY, "--filter", "kept", "--encoder", "hashing:64")
    assert (other.code, "the relevance filter reads vectors of" in other.err) == (1, True)
    plain = (
        "eval",
        "lamp",
        data,
        "--methods",
        "none,bm25-lamp",
        "--k",
        "1",
        "--no-controls",
        "--json",
        "--max-new-tokens",
        "2",
    )
    rows = json.loads(run(*plain, "--limit", "4", "--filter", "kept", "--out", "run").out)["rows"]
    assert next(row for row in rows if row["method"] == "bm25-lamp")["tokens_added"] > 0


def test_new_retrievers_in_eval_lamp(run: Run, tmp_path: Path) -> None:
    data = write_films(tmp_path / "films")
    methods = "none,diverse,key_value,hybrid"
    options = ("--methods", methods, "--k", "2", "--limit", "3", "--max-new-tokens", "2", "--json", "--out", "run")
    done = run("eval", "lamp", data, *options, "--filter", "untrained")
    assert done.code == 0
    found = {row["name"] for row in json.loads(done.out)["rows"]}
    assert {"diverse k=2", "key_value k=2, other user", "hybrid k=2"} <= found
    over = ("--base", "bm25-lamp", "--where", "label=3", "--out", "run2")
    done = run("eval", "lamp", data, *options[2:-2], *over, "--methods", "none,diverse,key_value")
    assert done.code == 0
    config = json.loads((tmp_path / "run2" / "results.json").read_text())["config"]
    assert (config["base"], config["where"]) == ("bm25-lamp", "label=3")
    fits_none = ("--methods", "none,bm25-lamp", "--where", "label=9", "--out", "run3")
    nothing = run("eval", "lamp", data, *options[2:-2], *fits_none)
    rows = {row["name"]: row for row in json.loads(nothing.out)["rows"]}
    assert rows["bm25-lamp k=2"]["tokens_added"] == 0


def test_filter_train_with_bad_input(run: Run, tmp_path: Path) -> None:
    data = write_films(tmp_path / "films")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "latin.txt").write_bytes("Où est la gare ?".encode("latin-1"))
    for options, message in (
        (("--precision", "1.5"), "`precision` must be above 0 and below 1"),
        (("--recall", "0"), "`recall` must be above 0 and below 1"),
        (("--general", "empty.txt"), "empty.txt: the file is empty"),
        (("--general", "missing.txt"), "missing.txt: the file cannot be read: No such file"),
        (("--general", "latin.txt"), "latin.txt, line 1: the file must be UTF-8"),
        (("--view", "body"), "`view` must be one of"),
    ):
        done = run("filter", "train", data, "--out", "kept", *options)
        assert (done.code, done.err.count("\n")) == (1, 1)
        assert message in done.err


def test_eval_restraint_with_filters_and_questions_of_another_domain(run: Run, tmp_path: Path) -> None:
    data = write_films(tmp_path / "films")
    (tmp_path / "boats.txt").write_text("\n".join(f"How do I mend boat number {number}?" for number in range(12)))
    assert run("filter", "train", data, "--out", "kept", "--general", "boats.txt", "--restraint", "0.95").code == 0
    options = json.loads(run("filter", "show", "kept", "--json").out)["training"]["options"]
    assert (options["recall"], options["restraint"]) == (0.97, 0.95)
    filters = ("--filter", "untrained", "--filter", "kept")
    done = run(
        "eval", "restraint", data, *filters, "--general", "boats.txt", "--limit", "8", "--max-new-tokens", "2", "--json"
    )
    assert done.code == 0
    report = json.loads(done.out)
    rows = {row["method"]: row for row in report["rows"]}
    assert list(rows) == ["none", "bm25-lamp", "bm25-lamp + untrained", "bm25-lamp + kept"]
    assert report["general"] == 128  # 120, and eight of the twelve
    assert rows["bm25-lamp"]["by_domain"]["boats.txt"] == 0
    assert rows["bm25-lamp + kept"]["by_domain"]["boats.txt"] >= 0.75
    assert rows["bm25-lamp + kept"]["restraint"]["value"] >= 0.9
    assert rows["bm25-lamp + kept"]["abstained"]["value"] <= 0.25
    assert report["config"]["filters"].keys() == {"untrained", "kept"}
    judged = run("eval", "restraint", data, "--judge", "record")
    assert (judged.code, "--judge says what a filter judges, and there is none" in judged.err) == (1, True)
    folders = (("eval", "restraint"), ("filter", "train"), ("eval", "lamp"), ("lora", "train-task"))
    for command in ((*words, data) for words in folders):
        refused = run(*command, "--out", "boats.txt")
        assert (refused.code, "--out must be a folder, was a file: 'boats.txt'" in refused.err) == (1, True)
    refused = run("eval", "lamp", data, "--methods", "none,bm25-lamp", "--summary-form", "sentence")
    assert (refused.code, "--summary-form is for summaries, and none,bm25-lamp has none" in refused.err) == (1, True)
    refused = run("eval", "lamp", data, "--methods", "none,stats", "--summary-llm", "tiny")
    assert (refused.code, "--summary-llm writes summaries, and none,stats has none" in refused.err) == (1, True)
    for unread, message in (
        (
            ("--user-embedder", "nope"),
            "--user-embedder is read by the methods user-embedder, user-embedder+vocabulary, and none,bm25-lamp has none of them",
        ),
        (("--lora-task", "nope"), "--lora-task is read by the methods lora, lora+task, neighbours, routed"),
        (("--user-embedder-control", "nope"), "--user-embedder-control stands beside user embedders"),
    ):
        refused = run("eval", "lamp", data, "--methods", "none,bm25-lamp", *unread)
        assert (refused.code, message in refused.err) == (1, True), refused.err
    for wrong, message in (
        (("--recall", "0.9", "--precision", "0.9"), "in place of --recall and --restraint: leave it out, or --recall"),
        (("--restraint", "0.9", "--precision", "0.9"), "leave it out, or --restraint"),
        (("--view", "target+text", "--records", "9"), "no record stands as a question in a view with its target"),
    ):
        refused = run("filter", "train", data, "--out", "kept", *wrong)
        assert (refused.code, message in refused.err) == (1, True)
    short = ("--limit", "2", "--max-new-tokens", "1", "--markdown")
    table = run("eval", "restraint", data, "--general", "boats.txt", *short, "--out", "kept run").out
    assert "| boats.txt: nothing added |" in table
    results = json.loads(Path("kept run/results.json").read_text())
    assert [row["method"] for row in results["rows"]] == ["none", "bm25-lamp"]
    assert (results["config"]["methods"], results["config"]["limit"]) == (["bm25-lamp"], 2)
    assert len(results["data"]) == 16
    answers = Path("kept run/answers.jsonl").read_bytes()
    assert run("eval", "restraint", data, "--general", "boats.txt", *short, "--out", "kept run").out == table
    assert Path("kept run/answers.jsonl").read_bytes() == answers


def test_eval_limit(run: Run) -> None:
    table = run("eval", "limit", "--documents", "12", "--queries", "30", "--methods", "bm25,dense")
    assert table.code == 0
    assert "12 documents, 30 queries with 2 right ones each" in table.out
    assert "recall@2" in table.out
    report = json.loads(run("eval", "limit", "--documents", "12", "--queries", "30", "--methods", "bm25", "--json").out)
    assert report["rows"][0]["recall"]["2"] > 0.9
    bad = run("eval", "limit", "--documents", "5")
    assert (bad.code, "need at least 46 documents, was: 5" in bad.err) == (1, True)
