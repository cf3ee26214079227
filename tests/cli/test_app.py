"""The command line: what it prints where, its exit codes, and one line for each error."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from persona.cli.app import main
from persona.cli.evaluate import _short_name
from persona.errors import StoreError
from persona.lamp.tasks import lamp_task

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
    """Runs `persona ARGUMENTS` in an empty folder."""
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

    return call


@pytest.fixture
def stocked(run: Run) -> Run:
    """The same with the sample histories in the store."""
    assert run("ingest", SAMPLE).code == 0
    return run


def write_lamp(folder: Path) -> Path:
    task = lamp_task("LaMP_3")
    folder.mkdir()
    questions = [
        {
            "id": f"{user}",
            "user_id": f"u{user}",
            "input": task.make_input("a fine film"),
            "profile": [{"id": f"{user}0", "text": f"a fine film {user}", "score": str(1 + user % 5), "date": "2011"}],
        }
        for user in range(4)
    ]
    golds = [{"id": f"{user}", "output": str(1 + user % 5)} for user in range(4)]
    (folder / "dev_questions.json").write_text(json.dumps(questions))
    (folder / "dev_outputs.json").write_text(json.dumps({"task": "LaMP_3", "golds": golds}))
    return folder


def test_ingest_says_what_it_did_and_a_second_time_changes_nothing(run: Run) -> None:
    first = run("ingest", SAMPLE)
    assert first.code == 0
    assert (
        first.out
        == "29 records added, 0 changed, 0 unchanged, 0 blank ones skipped; the store holds 29 records of 4 users\n"
    )
    again = json.loads(run("ingest", SAMPLE, "--json").out)
    assert again == {
        "users": 4,
        "added": 0,
        "changed": 0,
        "unchanged": 29,
        "skipped": 0,
        "store": {"users": 4, "records": 29},
    }


def test_embed_users_embeds_once_and_exports(stocked: Run, tmp_path: Path) -> None:
    first = json.loads(stocked("embed-users", "--json").out)
    assert (first["users"], first["records"], first["embedded"]) == (4, 29, 29)
    second = json.loads(stocked("embed-users", "--json", "--export", "users.parquet").out)
    assert (second["users"], second["embedded"], second["exported"]) == (0, 0, 4)

    import pyarrow.parquet as pq

    table = pq.read_table(tmp_path / "users.parquet")
    assert table.column_names == ["user_id", "vector"]
    assert sorted(table["user_id"].to_pylist()) == ["mara", "ops-team", "tomás", "yuki-雪"]


@pytest.mark.parametrize("retriever", ["bm25-lamp", "bm25", "dense", "recency", "random", "hybrid"])
def test_retrieve_finds_records_of_that_user(stocked: Run, retriever: str) -> None:
    found = json.loads(
        stocked("retrieve", "ops-team", "certificate handshake", "--retriever", retriever, "--k", "2", "--json").out
    )
    assert len(found) == 2
    if retriever in ("bm25", "dense", "hybrid"):
        assert found[0]["target"] == "tls"


def test_retrieve_prints_for_people_too(stocked: Run) -> None:
    shown = stocked("retrieve", "ops-team", "certificate", "--k", "1").out
    assert shown.startswith("1. [")
    assert "2024-01-19  -> tls\n   Certificate for the mail relay" in shown
    unknown = stocked("retrieve", "nobody", "certificate")
    assert (unknown.code, unknown.err) == (1, "persona: error: the store holds nothing on 'nobody'\n")


def test_forget_erases_one_user(stocked: Run) -> None:
    assert json.loads(stocked("forget", "tomás", "--yes", "--json").out)["records"] == 7
    after = stocked("retrieve", "tomás", "soup", "--json")
    assert (after.code, after.out, "holds nothing on 'tomás'" in after.err) == (1, "", True)
    assert len(json.loads(stocked("retrieve", "mara", "film", "--json").out)) == 4
    gone = stocked("forget", "tomás", "--yes")
    assert (gone.code, gone.err) == (1, "persona: error: the store holds nothing on 'tomás': nothing was erased\n")


def test_forget_finishes_what_was_stopped_between_rows_and_bytes(
    stocked: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise StoreError("their bytes could not be overwritten; call forget once more")

    with monkeypatch.context() as patched:
        patched.setattr("persona.store.erasure._rewrite_sqlite", stopped)
        assert stocked("forget", "tomás", "--yes").code == 1
    finished = stocked("forget", "tomás", "--yes")
    assert (finished.code, finished.err) == (0, "")
    assert finished.out.startswith("finished what an earlier forget had left over")
    assert stocked("forget", "tomás", "--yes").code == 1


def test_forget_reaches_the_exports_of_who_was_forgotten_before(stocked: Run, tmp_path: Path) -> None:
    for name in ("tom%C3%A1s@2", "mara@1"):
        (tmp_path / "out" / name).mkdir(parents=True)
    assert stocked("forget", "tomás", "--yes").code == 0
    finished = stocked("forget", "tomás", "--yes", "--exports", tmp_path / "out")
    assert (finished.code, "1 exported adapter" in finished.out) == (0, True)
    assert [folder.name for folder in (tmp_path / "out").iterdir()] == ["mara@1"]


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
    assert _short_name(llm) == name


def test_eval_score_prints_the_official_values(run: Run, tmp_path: Path) -> None:
    golds = [{"id": "0", "output": "4"}, {"id": "1", "output": "2"}]
    answers = [{"id": "0", "output": "5"}, {"id": "1", "output": "nan"}]
    (tmp_path / "g.json").write_text(json.dumps({"task": "LaMP_3", "golds": golds}))
    (tmp_path / "p.json").write_text(json.dumps({"task": "LaMP_3", "golds": answers}))
    shown = run("eval", "score", "--golds", "g.json", "--predictions", "p.json", "--json")
    assert json.loads(shown.out) == {"task": "LaMP_3", "questions": 2, "MAE": 2.0, "RMSE": 5**0.5}
    (tmp_path / "p.json").write_text(json.dumps({"task": "LaMP_3", "golds": answers[:1]}))
    missing = run("eval", "score", "--golds", "g.json", "--predictions", "p.json")
    assert missing.code == 1
    assert "1 missing: '1'" in missing.err


ERRORS = {
    ("ingest", "none.jsonl"): "none.jsonl",
    ("retrieve", "mara", "film"): "persona.db: create one with `persona ingest FILE`",
    ("embed-users",): "persona.db: create one with",
    ("ask", "mara", "Hello."): "persona.db: create one with",
    ("eval", "lamp", "nowhere", "--llm", "none"): "nowhere",
    (
        "eval",
        "lamp",
        "data",
        "--methods",
        "bm52",
        "--llm",
        "none",
    ): "a method must be one of none, user-embedder, stats, summary, stats+summary, vocabulary, user-embedder+vocabulary, lora",
    ("eval", "lamp", "data", "--k", "one", "--llm", "none"): "--k must be whole numbers",
    ("eval", "lamp", "data", "--split", "test", "--llm", "none"): "test_questions.json",
    ("eval", "lamp", "data", "--llm", "no/such-folder"): "no/such-folder",
    ("eval", "lamp", "data", "--split", "foo"): "--split must be one of train, dev, test, was: 'foo'",
    ("eval", "lamp", "data", "--methods", "user-embedder", "--llm", "no/such"): "--user-embedder",
    ("eval", "restraint", "data", "--methods", "none", "--llm", "no/such"): "the row 'none' is always there",
    ("eval", "restraint", "data", "--split", "test"): "--split must be one of train, dev",
    ("eval", "limit", "--methods", "foo"): "a retriever must be one of",
    (
        "user-embedder",
        "show",
        "data",
    ): "no user embedder could be loaded from 'data': the folder holds none, config.json is",
    ("user-embedder", "show", "nope"): "there is no such folder, and no such hub id here",
    (
        "user-embedder",
        "train",
        "data",
        "--out",
        "x",
        "--mode",
        "foo",
        "--llm",
        "no/such",
    ): "--mode must be one of attention, persona-plug",
    (
        "user-embedder",
        "train",
        "data",
        "--out",
        "x",
        "--retriever",
        "foo",
        "--llm",
        "no/such",
    ): "a retriever must be one of",
    ("user-embedder", "train", "data", "--out", "data/dev_outputs.json", "--llm", "no/such"): "--out must be a folder",
    ("summarize-users", "--form", "x", "--llm", "no/such"): "one of instruct, task, was: 'x'",
    ("summarize-users", "--task", "LaMP_9", "--llm", "no/such"): "LaMP_9",
    ("forget", "mara", "--yes", "--exports", "nope"): "must be a folder that is there, was: 'nope'; nothing was erased",
    ("embed-users", "--export", "nope/x.parquet"): "nope: No such file or directory",
}


@pytest.mark.parametrize("arguments", ERRORS)
def test_an_error_is_one_line_and_exit_code_1(run: Run, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    write_lamp(tmp_path / "data")
    outcome = run(*arguments)
    assert outcome.code == 1
    assert outcome.out == ""
    (line,) = outcome.err.splitlines()
    assert line.startswith("persona: error:")
    assert ERRORS[arguments] in line


IN_A_STORE = {
    ("ask", "mara", "Hello.", "--summary", "nope"): "a summary must be one of stats, llm, both",
    (
        "ask",
        "mara",
        "Hello.",
        "--lora",
        "--missing-adapter",
        "foo",
    ): "--missing-adapter must be one of error, prior, base",
    ("ask", "mara", "Hello.", "--missing-adapter", "prior"): "--missing-adapter is for adapters: give --lora as well",
    ("ask", "mara", "Hello.", "--task", "LaMP_33"): "a LaMP task must be one of",
    ("ask", "mara", "Hello.", "--retriever", "foo"): "a retriever must be one of",
    ("ask", "mara", "Hello.", "--lora"): "`persona lora train`",
    ("embed-users", "--view", "foo"): "`view` must be one of",
    ("retrieve", "mara", "film", "--filter", ""): "a filter must be 'untrained' or a folder, was: ''",
    ("ingest", "none.jsonl"): "none.jsonl",
}


@pytest.mark.parametrize("arguments", IN_A_STORE)
def test_options_are_checked_before_the_llm_is_loaded(stocked: Run, arguments: tuple[str, ...]) -> None:
    outcome = stocked(*arguments, *(("--llm", "no/such") if arguments[0] == "ask" else ()))
    assert (outcome.code, outcome.out) == (1, "")
    (line,) = outcome.err.splitlines()
    assert line.startswith("persona: error:")
    assert IN_A_STORE[arguments] in line


def test_ask_seeks_and_words_records_as_the_task_of_its_prompt_does(stocked: Run) -> None:
    prompt = lamp_task("LaMP_3").make_input("A quiet film.")
    for options, begins in ((("--task", "LaMP_3"), "is the score for"), ((), "Earlier records of this user")):
        outcome = stocked("ask", "mara", prompt, "--k", "1", "--max-new-tokens", "1", "--json", *options)
        assert outcome.code == 0, outcome.err
        told = json.loads(outcome.out)["prompt"]
        assert begins in told[:32]
        assert told.endswith(prompt)


def test_forget_with_a_folder_that_is_not_there_erases_nothing(stocked: Run) -> None:
    assert stocked("forget", "mara", "--yes", "--exports", "nope").code == 1
    assert json.loads(stocked("retrieve", "mara", "film", "--json").out)


def test_the_policies_of_missing_adapters_are_those_of_the_channel() -> None:
    from persona.adapters.channel import POLICIES
    from persona.cli.app import _MISSING_ADAPTER

    assert _MISSING_ADAPTER == POLICIES


def test_what_a_user_wrote_does_not_steer_the_terminal(run: Run, tmp_path: Path) -> None:
    record = {"user_id": "esc", "text": "red \x1b[31m, a title \x1b]0;t\x07, turned \u202e", "target": "t\x1b[2J"}
    (tmp_path / "esc.jsonl").write_text(json.dumps(record) + "\n")
    assert run("ingest", str(tmp_path / "esc.jsonl")).code == 0
    for command in (("show", "esc"), ("retrieve", "esc", "red")):
        shown = run(*command).out
        assert r"red \u001b[31m, a title \u001b]0;t\u0007, turned \u202e" in shown
        assert not {"\x1b", "\x07", "\u202e"} & set(shown)
    assert json.loads(run("retrieve", "esc", "red", "--json").out)[0]["text"] == record["text"]


def test_debug_shows_the_traceback(run: Run) -> None:
    from persona.errors import StoreError

    with pytest.raises(StoreError):
        run("retrieve", "mara", "film", "--debug")


@pytest.mark.parametrize(
    "arguments", [("no-such-command",), ("retrieve", "mara"), ("retrieve", "mara", "film", "--k", "0")]
)
def test_wrong_usage_is_exit_code_2(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments).code == 2


def test_a_half_bad_file_leaves_the_store_as_it_was(stocked: Run, tmp_path: Path) -> None:
    lines = ['{"user_id": "mara", "text": "one more"}', '{"user_id": "mara"}']
    (tmp_path / "bad.jsonl").write_text("\n".join(lines))
    outcome = stocked("ingest", "bad.jsonl")
    assert outcome.code == 1
    assert "bad.jsonl, line 2" in outcome.err
    assert json.loads(stocked("ingest", SAMPLE, "--json").out)["store"] == {"users": 4, "records": 29}


def test_help_and_version(run: Run) -> None:
    shown = run("--help")
    assert shown.code == 0
    for command in ("ingest", "embed-users", "retrieve", "ask", "forget", "eval"):
        assert command in shown.out
    assert run("--version").out.startswith("persona 0.")


@pytest.mark.slow
def test_control_c_leaves_a_usable_store(run: Run, tmp_path: Path) -> None:
    with (tmp_path / "many.jsonl").open("w") as file:
        for number in range(400_000):
            file.write(json.dumps({"user_id": f"u{number // 20}", "text": f"record number {number}"}) + "\n")
    # A test run in the background has SIGINT ignored, and so would have its children.
    code = "import signal, persona.cli.app; signal.signal(signal.SIGINT, signal.default_int_handler); persona.cli.app.main()"
    command = [sys.executable, "-c", code, "ingest", "many.jsonl"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "persona.db").exists():
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in err
    after = json.loads(run("ingest", SAMPLE, "--json").out)
    assert after["store"] == {"users": 4, "records": 29}
